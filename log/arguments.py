"""Arguments of the training script about what it says."""

import argparse


def add_log_args(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what it says")
    group.add_argument(
        "--quiet",
        action="store_true",
        help="nothing on standard output; warnings and errors on standard error; the log file has "
        "everything",
    )
    group.add_argument(
        "--tensorboard",
        nargs="?",
        const="",
        metavar="DIR",
        help="write the figures for TensorBoard too, into DIR or, without DIR, "
        "log/tensorboard/<name of the log file>; needs tensorboardX (default: not)",
    )
    group.add_argument(
        "--summary",
        action="store_true",
        help="print the network block by block, for images of --image-shape, and end; no file is "
        "needed",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything up to the first batch, print it, and end; nothing is written",
    )
