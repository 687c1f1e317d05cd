"""PyTorch's DataLoader with Pillow on JPEG images, augmented as ImageNet's are at level 1 or 2.

    python -m tests.benchmark.peers.pillow_input FOLDER --workers N --batch B --batches N --level L

The steps of level 2 are those of torchvision's RandomResizedCrop, RandomHorizontalFlip and
ColorJitter on Pillow images; torchvision itself has compiled parts that fit one build of PyTorch
each.
"""

import argparse
import json
import os
import random
import time

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch.utils.data import DataLoader, Dataset

SIZE = 224


def crop_and_mirror(image):
    left, top = (random.randint(0, side - SIZE) for side in image.size)
    image = image.crop((left, top, left + SIZE, top + SIZE))
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return tensor(image)


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def augment(image):
    # Level 2 scales the image by 0.533 to 1 and crops: a box of the original, resized. Widths are
    # stretched by up to a quarter (aspect ratio 0.25).
    side = SIZE / random.uniform(0.533, 1)
    stretch = random.uniform(0.75, 1.25) ** 0.5
    width, height = min(side * stretch, image.width), min(side / stretch, image.height)
    left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
    box = (left, top, left + width, top + height)
    image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # random_l 50 and random_s 50 of 255, random_h 36 of OpenCV's 180.
    image = ImageEnhance.Brightness(image).enhance(random.uniform(0.8, 1.2))
    image = ImageEnhance.Color(image).enhance(random.uniform(0.8, 1.2))
    hue, saturation, value = image.convert("HSV").split()
    shift = random.randint(-51, 51) % 256
    hue = Image.fromarray(np.asarray(hue) + np.uint8(shift))
    return tensor(Image.merge("HSV", (hue, saturation, value)).convert("RGB"))


class Images(Dataset):
    def __init__(self, folder, level):
        self.augment = augment if level == 2 else crop_and_mirror
        self.paths = [entry.path for entry in os.scandir(folder) if entry.name.endswith(".jpg")]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, number):
        with Image.open(self.paths[number]) as image:
            return self.augment(image.convert("RGB")), 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--batches", type=int, required=True)
    parser.add_argument("--level", type=int, required=True, choices=(1, 2))
    args = parser.parse_args()
    loader = DataLoader(
        Images(args.folder, args.level),
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
