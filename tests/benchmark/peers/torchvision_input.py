"""torchvision's DataLoader on a folder of JPEG images, with what aug-level 2 does to ImageNet's.

python -m tests.benchmark.peers.torchvision_input FOLDER --workers N --batch B --batches N
"""

import argparse
import json
import os
import time

from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

# Level 2 scales the image, whose short side is 480, by 0.533 to 1 and crops 224 pixels. That is a
# square of 224 to 420 pixels of the original, and so this share of 480x640, resized to 224.
AREA = (224**2 / (480 * 640), (224 / 0.533) ** 2 / (480 * 640))
AUGMENT = transforms.Compose(
    [
        transforms.RandomResizedCrop(224, scale=AREA, ratio=(0.75, 1.25)),
        transforms.RandomHorizontalFlip(),
        # random_h 36 of OpenCV's 180, random_s and random_l 50 of 255.
        transforms.ColorJitter(brightness=0.2, saturation=0.2, hue=0.2),
        transforms.ToTensor(),
    ]
)


class Images(Dataset):
    def __init__(self, folder):
        self.paths = [entry.path for entry in os.scandir(folder) if entry.name.endswith(".jpg")]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, number):
        with Image.open(self.paths[number]) as image:
            return AUGMENT(image.convert("RGB")), 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--batches", type=int, required=True)
    args = parser.parse_args()
    loader = DataLoader(
        Images(args.folder),
        args.batch,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
    )
    done = 0
    # As train_xception.py --benchmark input does: the whole time, the start of the workers too.
    began = time.perf_counter()
    while done < args.batches:
        for _ in loader:
            done += 1
            if done == args.batches:
                break
    seconds = time.perf_counter() - began
    print(json.dumps({"images_s": args.batch * args.batches / seconds}))


if __name__ == "__main__":
    main()
