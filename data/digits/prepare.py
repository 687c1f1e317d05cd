"""The UCI handwritten digits as records: real images that come with scikit-learn.

    python -m data.digits.prepare

writes train.rec (1,437 images) and val.rec (360), each with its index, and classes.txt next to this
file. The images are scikit-learn's `load_digits` (8x8 pixels, 0..16), enlarged to 32x32 RGB. The
split is stratified by class and always the same.
"""

import sys
from pathlib import Path
from typing import Optional, Sequence

import cv2
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from data.formats.classes import write_class_names
from data.packing.writer import encode_png, write_records
from log.command import OneLineParser, command

VALIDATION_IMAGES = 360


def main(argv: Optional[Sequence[str]] = None) -> int:
    with command("data.digits.prepare", writes_files=True) as outcome:
        parser = OneLineParser(
            prog="python -m data.digits.prepare", description="Make the records of the UCI digits."
        )
        parser.add_argument(
            "--out", type=Path, default=Path(__file__).parent, help="folder for the records"
        )
        args = parser.parse_args(argv)
        outcome.begun()
        pixels, labels = load_digits(return_X_y=True)
        split = train_test_split(
            np.arange(len(labels)), test_size=VALIDATION_IMAGES, stratify=labels, random_state=0
        )
        for name, members in zip(("train", "val"), split):
            items = ((labels[i], encode_png(enlarged(pixels[i]))) for i in members)
            write_records(args.out / f"{name}.rec", items, total=len(members))
        write_class_names(args.out, map(str, range(10)))
    return outcome.code


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """Return a (32, 32, 3) uint8 image of (64,) values from 0 to 16."""
    grey = (pixels.reshape(8, 8) * (255 / 16)).round().astype(np.uint8)
    return cv2.cvtColor(cv2.resize(grey, (32, 32)), cv2.COLOR_GRAY2BGR)


if __name__ == "__main__":
    sys.exit(main())
