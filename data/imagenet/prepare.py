"""ImageNet (ILSVRC2012) as records.

    python -m data.imagenet.prepare --train TRAIN --val VAL [--devkit DEVKIT]
                                    [--resize 480] [--val-resize 256] [--records NAMES]

TRAIN  ILSVRC2012_img_train.tar, or a folder with a folder of images for each class (n01440764 ...)
VAL    ILSVRC2012_img_val.tar, a folder with all of its images, or one like TRAIN's
DEVKIT ILSVRC2012_devkit_t12.tar.gz or what it holds as a folder; it knows the validation images'
       classes, where VAL is not sorted into folders

writes, next to this file, the records that the 2017 script names, with their indexes:
train_480_q90.rec (short side 480 pixels, JPEG quality 90), train_256_q90.rec and val_256_q90.rec;
and classes.txt, the class folders' names in the order of the labels, which is the alphabet's.
With --resize and --val-resize, the names have these sizes. The training images are shuffled.
Nothing is unpacked to the disk. After an interruption, the same command resumes.
"""

import argparse
import random
import sys
from pathlib import Path
from typing import Dict, Optional, Sequence, Tuple

from data import DataError
from data.pack import add_packing_args
from log.command import OneLineParser, command, whole

_QUALITY = 90


def record_files(resize: int, val_resize: int) -> Dict[str, Tuple[str, int]]:
    """Return name -> (part, short side in pixels) of the record files.

    --aug-level 1 crops without scaling: it trains on images as large as those of validation.
    """
    files = (("train", resize), ("train", val_resize), ("val", val_resize))
    return {f"{part}_{side}_q{_QUALITY}": (part, side) for part, side in files}


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m data.imagenet.prepare",
        description="Make the records of ImageNet (ILSVRC2012).",
    )
    parser.add_argument("--train", type=Path, required=True, help="training images")
    parser.add_argument("--val", type=Path, required=True, help="validation images")
    parser.add_argument("--devkit", type=Path, help="for validation images not sorted by class")
    parser.add_argument(
        "--resize",
        type=whole(1),
        default=480,
        metavar="PIXELS",
        help="short side of the training images for --aug-level 2 and 3 (default: %(default)s)",
    )
    parser.add_argument(
        "--val-resize",
        type=whole(1),
        default=256,
        metavar="PIXELS",
        help="short side of the validation images, and of the training images for --aug-level 1 "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--records",
        type=lambda text: text.split(","),
        metavar="NAMES",
        help="which record files to make, as in train_480_q90,val_256_q90; the numbers are the "
        "sizes (default: all three)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder for the records"
    )
    add_packing_args(parser)
    args = parser.parse_args(argv)
    files = record_files(args.resize, args.val_resize)
    unknown = sorted(set(args.records or files) - set(files))
    if unknown:
        parser.error(f"--records: {unknown[0]} is not one of {', '.join(files)}")
    return args


def main(argv: Optional[Sequence[str]] = None) -> int:
    interrupted = "interrupted; the same command resumes"
    with command("data.imagenet.prepare", interrupted, writes_files=True) as outcome:
        args = parse_arguments(argv)
        from data.formats.classes import write_class_names
        from data.imagenet.source import labelled, training_images, validation_images
        from data.packing.writer import pack_files

        outcome.begun()
        print("reading the lists of images ...")
        training = training_images(args.train)
        validation = validation_images(args.val, args.devkit)
        for path, found in ((args.train, training), (args.val, validation)):
            if not found:
                raise DataError(f"{path}: no images in it")
        classes = sorted({name for name, _, _ in training})
        images = {
            "train": labelled(training, classes),
            "val": labelled(validation, classes),
        }
        random.Random(0).shuffle(images["train"])
        for part, items in images.items():
            print(f"{part}: {len(items)} images of {len({label for label, _, _ in items})} classes")
        args.out.mkdir(parents=True, exist_ok=True)
        write_class_names(args.out, classes)
        files = record_files(args.resize, args.val_resize)
        for name in args.records or files:
            part, resize = files[name]
            pack_files(
                args.out / f"{name}.rec",
                images[part],
                resize,
                _QUALITY,
                args.num_thread,
                args.chunk,
                strict=False,  # the published set, as everybody has it
            )
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
