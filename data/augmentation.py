"""Random changes of training images: the levels of the 2017 script, and a flag for each change.

The flags have the names of MXNet's image-classification scripts. Some arguments of ImageRecordIter
are left out: it does not read `min_img_size`, `mirror` turns all images alike, and
`max_random_contrast` and `max_random_illumination` leave pixels outside [0, 255].
"""

import argparse
import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Tuple

from log.command import whole
from log.flags import Flags, UsageError, flag, spelled


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise argparse.ArgumentTypeError(f"must be 0 or 1, not {text!r}")
    return text == "1"


def _between(least: float, most: float, kind: Callable[[str], float] = float) -> Callable:
    """Return a parser of an argument that is a number of [least, most]."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}, not {text!r}")
        return value

    return parse


def _drawn(parameter: str, kind: Callable[[str], Any], metavar: str, help: str) -> Any:
    """Return the field of a flag that sets an argument of ImageRecordIter."""
    help = f"{help} (default: that of --aug-level)"
    return flag(None, help, kind, metavar, parameter=parameter)


# What makes use of the value that pixels outside of the image get.
_UNCOVERS = ("pad", "max_rotate_angle", "max_shear_ratio", "max_aspect_ratio", "max_random_scale",
             "min_random_scale")  # fmt: skip


@dataclass(frozen=True)
class Augmentation(Flags):
    """Changes to the data set's augmentation; None keeps the data set's value."""

    TITLE = "augmentation"
    DESCRIPTION = "of the training images; each flag overrides that part of --aug-level"

    random_crop: Optional[bool] = _drawn(
        "rand_crop", _switch, "0|1", "crop at a random position instead of the centre"
    )
    random_mirror: Optional[bool] = _drawn(
        "rand_mirror", _switch, "0|1", "mirror half of the images, at random"
    )
    max_random_h: Optional[int] = _drawn(
        "random_h", _between(0, 180, int), "N", "largest change of hue, on a scale of 180"
    )
    max_random_s: Optional[int] = _drawn(
        "random_s", _between(0, 255, int), "N", "largest change of saturation, on a scale of 255"
    )
    max_random_l: Optional[int] = _drawn(
        "random_l", _between(0, 255, int), "N", "largest change of lightness, on a scale of 255"
    )
    max_random_aspect_ratio: Optional[float] = _drawn(
        "max_aspect_ratio",
        _between(0, 10),
        "X",
        "change of height / width by up to X either way or, with --min-random-aspect-ratio, "
        "to as much as X; with --random-resized-crop also of width / height",
    )
    min_random_aspect_ratio: Optional[float] = _drawn(
        "min_aspect_ratio", _between(0.1, 10), "X", "smallest height / width"
    )
    max_random_rotate_angle: Optional[int] = _drawn(
        "max_rotate_angle", _between(0, 360, int), "N", "turn by up to N degrees"
    )
    max_random_shear_ratio: Optional[float] = _drawn(
        "max_shear_ratio", _between(0, 1), "X", "shear by up to X"
    )
    max_random_scale: Optional[float] = _drawn(
        "max_random_scale", _between(0.01, 100), "X", "largest scale"
    )
    min_random_scale: Optional[float] = _drawn(
        "min_random_scale", _between(0.01, 100), "X", "smallest scale"
    )
    random_resized_crop: Optional[bool] = _drawn(
        "random_resized_crop",
        _switch,
        "0|1",
        "cut out a random share of the area, and resize that, as for Inception",
    )
    max_random_area: Optional[float] = _drawn(
        "max_random_area", _between(0.01, 1), "X", "largest share of the area"
    )
    min_random_area: Optional[float] = _drawn(
        "min_random_area",
        _between(0.01, 1),
        "X",
        "smallest share of the area; 0.08 is usual, MXNet's default is 1",
    )
    max_crop_size: Optional[int] = _drawn(
        "max_crop_size", whole(1), "N", "cut out a square of up to N pixels, and resize that"
    )
    min_crop_size: Optional[int] = _drawn(
        "min_crop_size", whole(1), "N", "smallest size of that square"
    )
    brightness: Optional[float] = _drawn(
        "brightness", _between(0, 1), "X", "brightness times 1 - X to 1 + X"
    )
    contrast: Optional[float] = _drawn(
        "contrast", _between(0, 1), "X", "contrast times 1 - X to 1 + X"
    )
    saturation: Optional[float] = _drawn(
        "saturation", _between(0, 1), "X", "saturation times 1 - X to 1 + X"
    )
    pca_noise: Optional[float] = _drawn(
        "pca_noise",
        _between(0, 1),
        "X",
        "standard deviation of noise along ImageNet's principal colours; AlexNet's is 0.1",
    )
    pad_size: Optional[int] = _drawn("pad", whole(0), "N", "pixels of border that are added first")
    fill_value: Optional[int] = _drawn(
        "fill_value",
        _between(0, 255, int),
        "N",
        "grey value of that border, and of areas that rotation, shear or scaling leave empty",
    )

    @property
    def given(self) -> Dict[str, Any]:
        """What is set, by the names of ImageRecordIter."""
        named = {known.parameter: getattr(self, name) for name, _, known in self.flags()}
        return {str(name): value for name, value in named.items() if value is not None}

    @property
    def cuts_and_resizes(self) -> bool:
        """Whether pieces of random size are cut out and resized."""
        return bool(self.random_resized_crop or self.max_crop_size is not None)

    def arguments(
        self, level: Dict[str, Any], image_shape: Tuple[int, ...], stored_side: Optional[int] = None
    ) -> Dict[str, Any]:
        """Return the arguments of ImageRecordIter for training images.

        level : the data set's own augmentation. image_shape : (3, height, width) of the network's
        input. stored_side : short side of the stored images in pixels, None if they differ; only
        used if `cuts_and_resizes`.
        """
        level = dict(level)
        if not self.cuts_and_resizes:
            return {**level, **self.given}
        # It draws the place of its crop itself, and MXNet refuses both.
        its_own = ("rand_crop",) if self.random_resized_crop else ()
        for name in ("pad", "fill_value", "min_random_scale", "max_random_scale", *its_own):
            level.pop(name, None)
        # MXNet 1.9.1 resizes a cut-out into the very image that it is cut out of if that has the
        # size of the result, and the picture is broken: such images are resized before.
        side = min(image_shape[1:])
        if stored_side in (None, side):
            # The usual 256 for 224.
            level["resize"] = side * 8 // 7 + (side < 7)
        return {**level, **self.given}

    def check(self, level: Dict[str, Any], image_shape: Tuple[int, ...]) -> None:
        """Raise UsageError if a flag would do nothing, or the wrong thing."""
        self._check_pairs()
        self._check_cut_and_resized()
        self._check_ranges(self.arguments(level, image_shape))

    def _check_pairs(self) -> None:
        given = self.given
        for what in ("random_area", "crop_size"):
            ends = [given.get(f"{end}_{what}") for end in ("min", "max")]
            flags = f"{spelled(f'min_{what}')}, {spelled(f'max_{what}')}"
            if what == "random_area" and not self.random_resized_crop and ends != [None, None]:
                raise UsageError(f"{flags}: need --random-resized-crop 1")
            if what == "crop_size" and ends.count(None) == 1:
                raise UsageError(f"{flags}: give both")
        if "min_aspect_ratio" in given and "max_aspect_ratio" not in given:
            raise UsageError("--min-random-aspect-ratio needs --max-random-aspect-ratio")
        if given.get("max_aspect_ratio", 0) >= 1 and "min_aspect_ratio" not in given:
            raise UsageError(
                "--max-random-aspect-ratio: must be below 1 without --min-random-aspect-ratio"
            )

    def _check_cut_and_resized(self) -> None:
        if self.random_resized_crop and self.random_crop:
            raise UsageError("--random-resized-crop and --random-crop: give one of them")
        if self.random_resized_crop and self.max_crop_size is not None:
            raise UsageError("--random-resized-crop and --max-crop-size: give one of them")
        for name in ("pad_size", "min_random_scale", "max_random_scale"):
            if getattr(self, name) and self.cuts_and_resizes:
                raise UsageError(
                    f"{spelled(name)}: not with --random-resized-crop or --max-crop-size"
                )

    def _check_ranges(self, drawn: Dict[str, Any]) -> None:
        for what in ("random_area", "crop_size", "random_scale", "aspect_ratio"):
            least, most = drawn.get(f"min_{what}"), drawn.get(f"max_{what}", 1)
            if least is not None and least > most:
                raise UsageError(
                    f"augmentation: the smallest {what.replace('_', ' ')} is {least}, above {most}"
                )
        if self.fill_value is not None and not any(drawn.get(name) for name in _UNCOVERS):
            raise UsageError("--fill-value: no border is added, and no area left empty")
