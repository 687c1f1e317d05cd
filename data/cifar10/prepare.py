"""CIFAR-10 as records.

    python -m data.cifar10.prepare SOURCE

SOURCE is one of

- the published archive, cifar-10-python.tar.gz, as it was downloaded;
- a folder, or a tar archive (gzip, bzip2, xz or none), with the image files train/CLASS/* and
  test/CLASS/*, PNG or JPEG of 32x32 pixels, as many mirrors have them.

Writes train.rec (50,000 images) and val.rec (the 10,000 test images), each with its index, and
classes.txt next to this file. The pixels of the source are stored without loss (PNG). A record file
that is finished is not made again.
"""

import sys
from pathlib import Path
from typing import List, Optional

from log.command import OneLineParser, command


def main(argv: Optional[List[str]] = None) -> int:
    parser = OneLineParser(
        prog="python -m data.cifar10.prepare", description="Make the records of CIFAR-10."
    )
    parser.add_argument(
        "source",
        type=Path,
        help="cifar-10-python.tar.gz, or a folder or tar archive with train/CLASS/ and test/CLASS/",
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder for the records"
    )
    args = parser.parse_args(argv)
    with command("data.cifar10.prepare") as outcome:
        from data.cifar10.source import differences, read_source, write_part
        from data.formats.classes import write_class_names

        outcome.begun()
        # All is read before anything is written.
        found = read_source(args.source)
        for line in differences(found):
            print(f"{args.source}: {line}")
        write_part(args.out / "train.rec", found.train)
        write_part(args.out / "val.rec", found.test)
        write_class_names(args.out, found.classes)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
