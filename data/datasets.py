"""The table of data sets: everything about one that is not in its records.

A new data set is a new row. `train_xception.py` has an argument for each of its fields.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, Tuple, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class DataSet:
    """One row. Image shapes are (channels, height, width) in pixels."""

    image_shape: Tuple[int, int, int]
    num_epochs: int
    #: Epochs at whose start the learning rate is multiplied by the decay factor.
    lr_steps: Tuple[int, ...]
    #: File names in the data folder. The training file is given for each augmentation level.
    train_records: Dict[int, str]
    val_records: str
    #: What makes the records, for the message that they are missing.
    prepare: str
    #: Arguments of ImageRecordIter for the training images, for each augmentation level.
    augmentation: Dict[int, Dict[str, Any]] = field(default_factory=dict)


# Levels 1 to 3 of the 2017 script. Scale 0.533 is 256/480: an image stored with a short side of
# 480 pixels is scaled to one of 256 to 480.
_CROP: Dict[str, Any] = {"rand_crop": True, "rand_mirror": True}
_SCALE_AND_COLOUR: Dict[str, Any] = {
    **_CROP,
    "min_random_scale": 0.533,
    "max_random_scale": 1.0,
    "max_aspect_ratio": 0.25,
    "random_h": 36,
    "random_s": 50,
    "random_l": 50,
}
_ROTATE = {**_SCALE_AND_COLOUR, "max_rotate_angle": 10, "max_shear_ratio": 0.1}
_IMAGENET_LEVELS = {1: _CROP, 2: _SCALE_AND_COLOUR, 3: _ROTATE}


def _each_level(value: _T) -> Dict[int, _T]:
    return dict.fromkeys((1, 2, 3), value)


DATASETS = {
    "imagenet": DataSet(
        image_shape=(3, 224, 224),
        num_epochs=125,
        lr_steps=(20, 40, 60, 80, 90, 110),
        train_records={1: "train_256_q90.rec", 2: "train_480_q90.rec", 3: "train_480_q90.rec"},
        val_records="val_256_q90.rec",
        prepare="python -m data.imagenet.prepare --help (your own images: --data-type custom)",
        augmentation=_IMAGENET_LEVELS,
    ),
    "cifar10": DataSet(
        image_shape=(3, 32, 32),
        num_epochs=200,
        lr_steps=(220, 260, 280),
        train_records=_each_level("train.rec"),
        val_records="val.rec",
        prepare="python -m data.cifar10.prepare --help",
        augmentation=_each_level({**_CROP, "pad": 4, "fill_value": 127}),
    ),
    # Never mirrored: a mirrored 2 is no 2. The padding is the digits' own background, black.
    "digits": DataSet(
        image_shape=(3, 32, 32),
        num_epochs=10,
        lr_steps=(7, 9),
        train_records=_each_level("train.rec"),
        val_records="val.rec",
        prepare="python -m data.digits.prepare",
        augmentation=_each_level({"rand_crop": True, "pad": 2, "fill_value": 0}),
    ),
    # Anybody's own records: ImageNet's recipe, the classes counted from the labels.
    "custom": DataSet(
        image_shape=(3, 224, 224),
        num_epochs=125,
        lr_steps=(20, 40, 60, 80, 90, 110),
        train_records=_each_level("train.rec"),
        val_records="val.rec",
        prepare="python -m data.pack IMAGES DIR, and --data-dir DIR",
        augmentation=_IMAGENET_LEVELS,
    ),
}
