"""Arguments that several conversions share."""

import argparse
from pathlib import Path

from log.command import whole


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments about the checkpoint that is written."""
    parser.add_argument("prefix", metavar="PREFIX", help="of the checkpoint to write")
    parser.add_argument(
        "--classes", metavar="FILE", type=Path, help="class names, one a line, in label order"
    )
    parser.add_argument(
        "--image-size",
        type=whole(1),
        metavar="N",
        help="pixels a side of the images it was trained on (default: 299 for Keras' weights, "
        "224 for the 2017 script's)",
    )
    parser.add_argument(
        "--short-side",
        type=whole(1),
        metavar="N",
        help="pixels of an image's short side before the centre is cut out "
        "(default: 8/7 of --image-size)",
    )


def add_export_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the arguments of a conversion to the file `out`."""
    parser.add_argument("prefix", metavar="PREFIX", help="of the checkpoint")
    parser.add_argument("epoch", metavar="EPOCH", type=whole(0))
    parser.add_argument("out", metavar=out, type=Path, help="the file to write")
