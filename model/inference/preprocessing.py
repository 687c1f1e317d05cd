"""How images are prepared for a network: as its checkpoint says, or as the command line does."""

import argparse
import dataclasses
from typing import TYPE_CHECKING, Tuple

from data.arguments import divisors, image_shape, three_numbers
from log.command import whole
from log.notices import Notices

if TYPE_CHECKING:  # it loads mxnet, which the arguments do not need
    from model.network import Network


def add_preprocessing_args(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add --rgb-mean and --rgb-std, and those of `names`: ``image_shape``, ``short_side``."""
    if "image_shape" in names:
        parser.add_argument(
            "--image-shape",
            type=image_shape,
            metavar="3,H,W",
            help="of the network's input (default: as it was trained)",
        )
    if "short_side" in names:
        parser.add_argument(
            "--short-side",
            type=whole(1),
            metavar="N",
            help="pixels that an image's short side is resized to before its centre is cut out "
            "(default: as in the validation of the checkpoint's training)",
        )
    parser.add_argument(
        "--rgb-mean",
        type=three_numbers,
        metavar="R,G,B",
        help="subtracted from the pixels, by channel (default: as in the checkpoint's training; "
        "0 if it does not say)",
    )
    parser.add_argument(
        "--rgb-std",
        type=divisors,
        metavar="R,G,B",
        help="divisor of the pixels after the subtraction, by channel (default: as in the "
        "checkpoint's "
        "training; 1 if it does not say)",
    )


def prepared(network: "Network", args: argparse.Namespace) -> Tuple["Network", Notices]:
    """Return `network` with what the arguments say of its images, and a line about what neither
    they nor its checkpoint say. Raises ModelError if the shape of its images is not known."""
    given = {"mean": args.rgb_mean, "std": args.rgb_std}
    if "short_side" in args:
        given["short_side"] = args.short_side
    notices = Notices()
    assumption = network.assumption(**given)
    if assumption:
        notices.warn(assumption)
    given["image_shape"] = getattr(args, "image_shape", None)
    chosen = {name: value for name, value in given.items() if value is not None}
    network = dataclasses.replace(network, **chosen)
    _ = network.input_shape  # or an error
    return network, notices
