"""The flags about data, and the types of their values."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple

from data.datasets import DATASETS, DataSet
from log.command import numbers, whole
from log.flags import Flags, flag

#: --data-readers of a new run. It is the same on every machine, as the batches depend on it. Two
#: can decode with all cores, and hold 32 MB of records, decoded.
READERS = 2
#: --data-nthreads on the CPU, where decoding takes little and the network needs the cores.
THREADS_BESIDE_TRAINING = 4

# Types of arguments


def image_shape(text: str) -> Tuple[int, ...]:
    shape = numbers(text, "3,height,width", whole(1))
    if len(shape) != 3 or shape[0] != 3:
        raise argparse.ArgumentTypeError(f"must be 3,height,width, not {text!r}")
    return shape


def three_numbers(text: str) -> Tuple[float, ...]:
    values = numbers(text, "three numbers as in 123.68,116.78,103.94", float)
    if len(values) == 1:
        values *= 3
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"must be three numbers, not {text!r}")
    return values


def divisors(text: str) -> Tuple[float, ...]:
    values = three_numbers(text)
    if min(values) <= 0:
        raise argparse.ArgumentTypeError(f"must be three numbers above 0, not {text!r}")
    return values


# The flags


def by_data_type(text: Callable[[DataSet], object]) -> str:
    """Return how the help states a default that the data set gives: `text` of each."""
    values = ", ".join(f"{name}: {text(data)}" for name, data in DATASETS.items())
    return f"(default by data type: {values})"


def _training_records(data: DataSet) -> str:
    cropped, scaled = data.train_records[1], data.train_records[2]
    return scaled if cropped == scaled else f"{scaled} or, with --aug-level 1, {cropped}"


@dataclass(frozen=True)
class Data(Flags):
    """Which records, and how they enter the network."""

    TITLE = "data"

    data_type: str = flag("imagenet", "data set", choices=DATASETS, kept=True)
    data_dir: str = flag(
        None, "folder of the .rec files (default: ./data/<data type>/)", metavar="DIR"
    )
    data_train: str = flag(
        None,
        "training records: a file, a folder of them, or several with ; between "
        + by_data_type(_training_records),
        metavar="REC",
        kept=True,
        shared=False,
    )
    data_val: str = flag(
        None,
        "validation records, as --data-train; empty for none "
        + by_data_type(lambda data: data.val_records),
        metavar="REC",
        kept=True,
        shared=False,
    )
    image_shape: Tuple[int, int, int] = flag(
        None,
        "channels, height, width of the network's input "
        + by_data_type(lambda data: ",".join(map(str, data.image_shape))),
        image_shape,
        "C,H,W",
        kept=True,
    )
    num_examples: Optional[int] = flag(
        None, "training images (default: as many as the records hold)", whole(1), "N"
    )
    num_classes: Optional[int] = flag(
        None, "classes (default: the largest training label + 1)", whole(1), "N"
    )
    aug_level: int = flag(
        2,
        "augmentation: 1 crop and mirror; 2 scale, aspect ratio and colour too; 3 rotation "
        "and shear too; cifar10 always has a padded crop and mirroring, digits a padded crop",
        int,
        choices=(1, 2, 3),
        kept=True,
    )
    rgb_mean: Optional[Tuple[float, ...]] = flag(
        None,
        "subtracted from the pixels, by channel (default: 0; that of the network that the run "
        "starts or resumes from)",
        three_numbers,
        "R,G,B",
        kept=True,
    )
    rgb_std: Optional[Tuple[float, ...]] = flag(
        None,
        "divisor of the pixels after the subtraction, by channel (default: 1; that of the network "
        "that the run starts or resumes from)",
        divisors,
        "R,G,B",
        kept=True,
    )
    data_nthreads: Optional[int] = flag(
        None,
        "decoding threads, of all readers together (default: the usable cores to train on GPUs, "
        f"{THREADS_BESIDE_TRAINING} on the CPU)",
        whole(1),
        "N",
    )
    data_readers: Optional[int] = flag(
        None,
        "readers of the training records, which work side by side; at most one per 32 MB of "
        "records. MXNet gives each at most half of the cores. Another number is another "
        f"order of the images (default: {READERS}; that of the checkpoint that is resumed)",
        whole(1),
        "N",
        kept=True,
        before=1,
    )
    skip_bad_records: bool = flag(
        False,
        "check every record first, and train and validate without those that are damaged; "
        "the result is kept next to the records",
        kept=True,
    )
    list_dir: str = flag("./", "ignored, as in the 2017 script")

    @property
    def data_set(self) -> DataSet:
        return DATASETS[self.data_type]

    @property
    def records(self) -> Tuple[str, ...]:
        """The training and, if there is one, the validation file."""
        return tuple(path for path in (self.data_train, self.data_val) if path)


def complete_data(values: Dict[str, Any]) -> Dict[str, Any]:
    """Return the values of all flags, completed by those of the data set."""
    data = DATASETS[values["data_type"]]
    folder = values["data_dir"] or f"./data/{values['data_type']}/"
    defaults = {
        "data_dir": folder,
        "data_train": str(Path(folder, data.train_records[values["aug_level"]])),
        "data_val": str(Path(folder, data.val_records)),
        "image_shape": data.image_shape,
        "num_epochs": data.num_epochs,
        "lr_steps": data.lr_steps,
    }
    missing = {name: value for name, value in defaults.items() if values[name] is None}
    return {**values, "data_dir": folder, **missing}
