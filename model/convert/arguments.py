"""Arguments that several conversions share."""

import argparse
from pathlib import Path

from data.arguments import divisors, three_numbers
from log.command import whole
from model.arguments import add_prefix_and_epoch


def add_checkpoint_arguments(parser: argparse.ArgumentParser, size: str, short_side: str) -> None:
    """Add the arguments about the checkpoint that is written. size, short_side : in words, the
    defaults."""
    parser.add_argument("prefix", metavar="PREFIX", help="prefix of the checkpoint to write")
    parser.add_argument(
        "--classes", metavar="FILE", type=Path, help="class names, one per line, in label order"
    )
    parser.add_argument(
        "--image-size",
        type=whole(1),
        metavar="N",
        help=f"height and width of the images in training, in pixels (default: {size})",
    )
    parser.add_argument(
        "--short-side",
        type=whole(1),
        metavar="N",
        help="pixels of an image's short side before the centre is cut out "
        f"(default: {short_side})",
    )
    parser.add_argument(
        "--rgb-mean",
        type=three_numbers,
        metavar="R,G,B",
        help="mean that was subtracted from the pixels in training, by channel",
    )
    parser.add_argument(
        "--rgb-std",
        type=divisors,
        metavar="R,G,B",
        help="divisor of the pixels after the subtraction, by channel",
    )


def add_activation_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--activation",
        choices=("softmax", "sigmoid"),
        help="activation of the last layer, if the file does not contain it; one sigmoid becomes "
        "two classes (default: softmax for weights alone)",
    )


def add_export_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the arguments of a conversion to the file `out`."""
    add_prefix_and_epoch(parser)
    parser.add_argument("out", metavar=out, type=Path, help="the file to write")
