"""What is drawn at random of a training image: the levels of 2017, and flags for all of it.

The flags have the names of MXNet's image-classification scripts. Not all that ImageRecordIter takes
is offered: it does not read `min_img_size`, `mirror` turns all images alike, and
`max_random_contrast` and `max_random_illumination` leave pixels outside [0, 255].
"""

import argparse
import math
from typing import Optional

from data.datasets import DATASETS
from log.command import whole


def _switch(text):
    if text not in ("0", "1"):
        raise argparse.ArgumentTypeError(f"must be 0 or 1, not {text!r}")
    return text == "1"


def _between(least, most, kind=float):
    """Return a parser of an argument that is a number of [least, most]."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}, not {text!r}")
        return value

    return parse


# For each flag: the argument of ImageRecordIter, type, what the help calls the value, help.
_FLAGS = {
    "random_crop": ("rand_crop", _switch, "0|1", "cut out at a random place, not the middle"),
    "random_mirror": ("rand_mirror", _switch, "0|1", "mirror every other image"),
    "max_random_h": ("random_h", _between(0, 180, int), "N", "change of hue, of 180"),
    "max_random_s": ("random_s", _between(0, 255, int), "N", "change of saturation, of 255"),
    "max_random_l": ("random_l", _between(0, 255, int), "N", "change of lightness, of 255"),
    "max_random_aspect_ratio": (
        "max_aspect_ratio", _between(0, 10), "X",
        "change of height / width by up to X either way or, with --min-random-aspect-ratio, to as "
        "much as X; of what --random-resized-crop cuts out also the other way round",
    ),
    "min_random_aspect_ratio": (
        "min_aspect_ratio", _between(0.1, 10), "X", "least height / width",
    ),
    "max_random_rotate_angle": (
        "max_rotate_angle", _between(0, 360, int), "N", "turn by up to N degrees",
    ),
    "max_random_shear_ratio": ("max_shear_ratio", _between(0, 1), "X", "shear by up to X"),
    "max_random_scale": ("max_random_scale", _between(0.01, 100), "X", "largest scale"),
    "min_random_scale": ("min_random_scale", _between(0.01, 100), "X", "smallest scale"),
    "random_resized_crop": (
        "random_resized_crop", _switch, "0|1",
        "cut out a random share of the area, and resize that, as for Inception",
    ),
    "max_random_area": ("max_random_area", _between(0.01, 1), "X", "its largest share"),
    "min_random_area": (
        "min_random_area", _between(0.01, 1), "X", "its smallest; 0.08 is usual, MXNet has 1",
    ),
    "max_crop_size": (
        "max_crop_size", whole(1), "N", "cut out a square of up to N pixels, and resize that",
    ),
    "min_crop_size": ("min_crop_size", whole(1), "N", "its least size"),
    "brightness": ("brightness", _between(0, 1), "X", "times 1 - X to 1 + X"),
    "contrast": ("contrast", _between(0, 1), "X", "contrast times 1 - X to 1 + X"),
    "saturation": ("saturation", _between(0, 1), "X", "saturation times 1 - X to 1 + X"),
    "pca_noise": (
        "pca_noise", _between(0, 1), "X",
        "standard deviation of noise along ImageNet's principal colours; AlexNet's is 0.1",
    ),
    "pad_size": ("pad", whole(0), "N", "pixels of border that are added first"),
    "fill_value": (
        "fill_value", _between(0, 255, int), "N", "grey of that border, and of what turns uncover",
    ),
}  # fmt: skip

# What makes use of the value that pixels outside of the image get.
_UNCOVERS = ("pad", "max_rotate_angle", "max_shear_ratio", "max_aspect_ratio", "max_random_scale",
             "min_random_scale")  # fmt: skip


def add_augmentation_args(parser):
    group = parser.add_argument_group(
        "augmentation",
        "of the training images; each flag takes the place of what --aug-level says of it",
    )
    for name, (_, kind, metavar, text) in _FLAGS.items():
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(
            flag, type=kind, metavar=metavar, help=f"{text} (default: that of --aug-level)"
        )


def complete_augmentation(parser, args):
    """Set args.augmentation, what is given, by the names of ImageRecordIter; end with a line where
    a flag would do nothing, or wrong."""
    args.augmentation = {
        _FLAGS[name][0]: getattr(args, name) for name in _FLAGS if getattr(args, name) is not None
    }
    given = args.augmentation
    resized = given.get("random_resized_crop")
    both = augmentation(args)
    for what in ("random_area", "crop_size"):
        ends = [given.get(f"{end}_{what}") for end in ("min", "max")]
        flags = [f"--{end}-{what.replace('_', '-')}" for end in ("min", "max")]
        if what == "random_area" and not resized and ends != [None, None]:
            parser.error(f"{flags[0]}, {flags[1]}: need --random-resized-crop 1")
        if what == "crop_size" and ends.count(None) == 1:
            parser.error(f"{flags[0]}, {flags[1]}: give both")
    if resized and given.get("rand_crop"):
        parser.error("--random-resized-crop and --random-crop: give one of them")
    if resized and "max_crop_size" in given:
        parser.error("--random-resized-crop and --max-crop-size: give one of them")
    for what in ("pad", "min_random_scale", "max_random_scale"):
        if what in given and given[what] and _cuts_and_resizes(given):
            flag = "--pad-size" if what == "pad" else f"--{what.replace('_', '-')}"
            parser.error(f"{flag}: not with --random-resized-crop or --max-crop-size")
    if "min_aspect_ratio" in given and "max_aspect_ratio" not in given:
        parser.error("--min-random-aspect-ratio needs --max-random-aspect-ratio")
    if given.get("max_aspect_ratio", 0) >= 1 and "min_aspect_ratio" not in given:
        parser.error("--max-random-aspect-ratio: must be below 1, or have a least one beside it")
    for what in ("random_area", "crop_size", "random_scale", "aspect_ratio"):
        least, most = both.get(f"min_{what}"), both.get(f"max_{what}", 1)
        if least is not None and least > most:
            parser.error(
                f"augmentation: the least {what.replace('_', ' ')} is {least}, above {most}"
            )
    if given.get("fill_value") is not None and not any(both.get(name) for name in _UNCOVERS):
        parser.error("--fill-value: nothing here adds a border or uncovers one")


def _cuts_and_resizes(arguments) -> bool:
    return bool(arguments.get("random_resized_crop") or "max_crop_size" in arguments)


def augmentation_of(args, rec) -> dict:
    """Return the arguments of ImageRecordIter for the training images in the file `rec`."""
    from data.inspect import short_side

    # Images are decoded for it: only where it matters.
    return augmentation(args, short_side(rec) if _cuts_and_resizes(args.augmentation) else None)


def augmentation(args, stored_side: Optional[int] = None) -> dict:
    """Return the arguments of ImageRecordIter for training images.

    stored_side : short side of the stored images in pixels, None where they differ.
    """
    given = args.augmentation
    level = dict(DATASETS[args.data_type].augmentation[args.aug_level])
    if not _cuts_and_resizes(given):
        return {**level, **given}
    # It draws the place of its crop itself, and MXNet refuses both.
    its_own = ("rand_crop",) if given.get("random_resized_crop") else ()
    for name in ("pad", "fill_value", "min_random_scale", "max_random_scale", *its_own):
        level.pop(name, None)
    # MXNet 1.9.1 resizes what it has cut out into the very image that it is cut out of, where that
    # has the size of the result, and the picture is broken: such images are resized before.
    height, width = (args.image_shape or DATASETS[args.data_type].image_shape)[1:]
    side = min(height, width)
    if stored_side in (None, side):
        # The usual 256 for 224.
        level["resize"] = side * 8 // 7 + (side < 7)
    return {**level, **given}
