"""The UCI handwritten digits as records: real images that come with scikit-learn.

    python -m data.digits.prepare

writes train.rec (1,437 images) and val.rec (360), each with its index, and classes.txt next to this
file. The images are scikit-learn's `load_digits` (8x8 pixels, 0..16), enlarged to 32x32 RGB. The
split is stratified by class and always the same.
"""

import sys
from pathlib import Path
from typing import Optional, Sequence

from log.command import OneLineParser, command


def main(argv: Optional[Sequence[str]] = None) -> int:
    with command("data.digits.prepare", writes_files=True) as outcome:
        parser = OneLineParser(
            prog="python -m data.digits.prepare", description="Make the records of the UCI digits."
        )
        parser.add_argument(
            "--out", type=Path, default=Path(__file__).parent, help="folder for the records"
        )
        args = parser.parse_args(argv)
        from data.digits.source import digits
        from data.formats.classes import write_class_names
        from data.packing.writer import encode_png, write_records

        outcome.begun()
        for name, images in digits().items():
            items = ((label, encode_png(image)) for label, image in images)
            write_records(args.out / f"{name}.rec", items, total=len(images))
        write_class_names(args.out, map(str, range(10)))
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
