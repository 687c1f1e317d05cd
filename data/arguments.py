"""Arguments about data.

As in MXNet's own image-classification scripts, each room adds its arguments to the parser.
"""

import argparse
import math
from pathlib import Path

from data.datasets import DATASETS
from log.command import numbers, whole

# Types of arguments


def image_shape(text):
    shape = numbers(text, "3,height,width", whole(1))
    if len(shape) != 3 or shape[0] != 3:
        raise argparse.ArgumentTypeError(f"must be 3,height,width, not {text!r}")
    return shape


def three_numbers(text):
    values = numbers(text, "three numbers as in 123.68,116.78,103.94", float)
    if len(values) == 1:
        values *= 3
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"must be three numbers, not {text!r}")
    return values


def divisors(text):
    values = three_numbers(text)
    if min(values) <= 0:
        raise argparse.ArgumentTypeError(f"must be three numbers above 0, not {text!r}")
    return values


# Data sets and their images


def by_data_type(text) -> str:
    """Return how the help tells a default that the data set gives: `text` of each."""
    values = ", ".join(f"{name}: {text(data)}" for name, data in DATASETS.items())
    return f"(default by data type: {values})"


def add_data_args(parser):
    group = parser.add_argument_group("data")
    group.add_argument("--data-type", choices=DATASETS, default="imagenet", help="data set")
    group.add_argument(
        "--data-dir", metavar="DIR", help="folder of the .rec files (default: ./data/<data type>/)"
    )
    group.add_argument(
        "--data-train",
        metavar="REC",
        help="training records " + by_data_type(lambda data: data.train_records[2]),
    )
    group.add_argument(
        "--data-val",
        metavar="REC",
        help="validation records; empty for none " + by_data_type(lambda data: data.val_records),
    )
    group.add_argument(
        "--image-shape",
        type=image_shape,
        metavar="C,H,W",
        help="channels, height, width of the network's input "
        + by_data_type(lambda data: ",".join(map(str, data.image_shape))),
    )
    group.add_argument(
        "--num-examples",
        type=whole(1),
        metavar="N",
        help="training images (default: as many as the records hold)",
    )
    group.add_argument(
        "--num-classes",
        type=whole(1),
        metavar="N",
        help="classes (default: the largest training label + 1)",
    )
    group.add_argument(
        "--aug-level",
        type=int,
        choices=(1, 2, 3),
        default=2,
        help="augmentation: 1 crop and mirror; 2 scale, aspect ratio and colour too; 3 rotation "
        "and shear too; cifar10 and digits always have a padded crop alone",
    )
    group.add_argument(
        "--rgb-mean",
        type=three_numbers,
        metavar="R,G,B",
        help="subtracted from the pixels, by channel (default: 0; that of the network that the run "
        "starts or goes on from)",
    )
    group.add_argument(
        "--rgb-std",
        type=divisors,
        metavar="R,G,B",
        help="what the pixels are divided by then, by channel (default: 1; that of the network "
        "that the run starts or goes on from)",
    )
    group.add_argument(
        "--data-nthreads", type=whole(1), default=4, metavar="N", help="decoding threads"
    )
    group.add_argument(
        "--skip-bad-records",
        action="store_true",
        help="check every record first, and train and validate without those that are damaged; "
        "what was found is kept beside the records",
    )
    group.add_argument("--list-dir", default="./", help="not used, and was not in 2017")


def complete_data_args(args):
    """Fill in what the data set gives where it was not given."""
    data = DATASETS[args.data_type]
    args.data_dir = args.data_dir or f"./data/{args.data_type}/"
    if args.data_train is None:
        args.data_train = str(Path(args.data_dir, data.train_records[args.aug_level]))
    if args.data_val is None:
        args.data_val = str(Path(args.data_dir, data.val_records))
    args.image_shape = args.image_shape or data.image_shape
    args.num_epochs = args.num_epochs or data.num_epochs
    args.lr_steps = data.lr_steps if args.lr_steps is None else args.lr_steps
