"""Check every record of record files.

    python -m data.verify X.rec [Y.rec ...]

Framing, header, label and image of each, and whether the index leads to it. What is wrong is named
by record number (from 0) and byte offset; exit code 1 where anything is.

A record that data.pack or data.*.prepare wrote has a checksum, and any change to it is found. In
other records no reader can notice a changed label that is another class, or changed pixels in an
image that still decodes.
"""

import argparse
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

from data.arguments import image_shape
from data.augmentation import Augmentation
from data.datasets import DATASETS
from log.command import OneLineParser, add_num_thread_arg, command, whole
from log.flags import UsageError


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        Augmentation.of(vars(args)).check(*_level_and_shape(args))
    except UsageError as error:
        parser.error(str(error))
    for path in args.records:
        if path.is_dir():
            parser.error(f"{path}: a folder: give the .rec files in it")
        if not path.is_file():
            parser.error(f"{path}: no such file")
        if args.repair and Path(args.repair, path.name).exists():
            parser.error(f"--repair: {Path(args.repair, path.name)} is already there")
    if args.repair and len({path.name for path in args.records}) < len(args.records):
        parser.error("--repair: two of the files have the same name: give one at a time")
    return args


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m data.verify",
        description="Check every record of record files; exit code 1 if anything is wrong.",
    )
    parser.add_argument("records", nargs="+", type=Path, metavar="X.rec", help="record files")
    parser.add_argument(
        "--num-classes",
        type=whole(1),
        metavar="N",
        help="number of classes, above all labels (default: the lines of classes.txt next to the "
        "file, if there is one)",
    )
    parser.add_argument(
        "--repair",
        type=Path,
        metavar="OUT",
        help="copy the good records into this folder, with indexes and classes.txt",
    )
    parser.add_argument(
        "--show",
        type=whole(1),
        metavar="N",
        help="draw N of the good records with their labels, X-samples.png, and the same as "
        "training sees them, X-augmented.png",
    )
    parser.add_argument(
        "--show-dir",
        type=Path,
        metavar="DIR",
        help="folder for these pictures (default: that of the records)",
    )
    parser.add_argument(
        "--data-type",
        choices=DATASETS,
        default="custom",
        help="data set whose augmentation to show (default: %(default)s)",
    )
    parser.add_argument(
        "--image-shape",
        type=image_shape,
        metavar="C,H,W",
        help="crop size of training, as for train_xception.py (default: that of --data-type)",
    )
    parser.add_argument(
        "--aug-level",
        type=int,
        choices=(1, 2, 3),
        default=2,
        help="level of the augmentation, as for train_xception.py (default: %(default)s)",
    )
    add_num_thread_arg(parser)
    Augmentation.add_to(parser)
    return parser


def _level_and_shape(args: argparse.Namespace) -> Tuple[Dict[str, Any], Tuple[int, int, int]]:
    data = DATASETS[args.data_type]
    return data.augmentation[args.aug_level], args.image_shape or data.image_shape


def augmented_args(args: argparse.Namespace, side: Optional[int]) -> Dict[str, Any]:
    """Return the arguments of ImageRecordIter for images as training sees them.

    side : their short side, None if they differ.
    """
    from data.iterators import training_args

    level, shape = _level_and_shape(args)
    drawn = Augmentation.of(vars(args)).arguments(level, shape, side)
    return training_args({"data_shape": shape, "verbose": False}, drawn)


def main(argv: Optional[Sequence[str]] = None) -> int:
    with command("data.verify", "interrupted", writes_files=True) as outcome:
        args = parse_arguments(argv)
        from data.checking.records import verify
        from data.formats.classes import class_names

        outcome.begun()
        for path in args.records:
            names = class_names(path)
            num_classes = args.num_classes or (len(names) if names else None)
            wrong, shown = verify(path, num_classes, args.num_thread, args.repair, args.show or 0)
            if wrong:
                outcome.code = 1
            if args.repair and names:
                shutil.copy(path.with_name("classes.txt"), args.repair)
            if shown:
                from data.checking.pictures import draw

                folder = args.show_dir or path.parent
                folder.mkdir(parents=True, exist_ok=True)
                for picture in draw(
                    shown, names, partial(augmented_args, args), folder / path.stem
                ):
                    print(picture)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
