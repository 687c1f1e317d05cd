"""Checks of the records before a run: that they exist, their labels, their images."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, List, NamedTuple, Optional, Tuple

import numpy as np

from data import DataError
from data.arguments import Data
from data.checking.records import without_bad_records
from data.formats.classes import CLASSES, printable
from data.formats.images import ImageError, check
from data.formats.recordfile import unpacked
from data.formats.recordset import Records, names_of_classes, record_files, scan
from log.files import PathLike, open_file
from log.machine import usable_cores
from log.notices import Notices

#: Records that `check_sample` decodes.
_SAMPLE = 16


def require(records: PathLike, prepare: Optional[str]) -> None:
    """Raise DataError where a record file is missing, with the way to make it, if known, or is no
    file."""
    if "://" in str(records):
        raise DataError(
            f"{records}: MXNet's wheels are built without S3, HDFS and HTTP: copy the file to a "
            "disk, or mount the storage"
        )
    for path in record_files(records):
        if not Path(path).exists():
            raise DataError(
                f"{path} is missing" + (f"; make it with: {prepare}" if prepare else "")
            )
        open_file(path, DataError, "a record file").close()


def check_labels(records: Records, num_classes: int) -> None:
    """Raise DataError where a label is outside [0, num_classes): MXNet would train on it."""
    wrong = np.flatnonzero((records.labels < 0) | (records.labels >= num_classes))
    if len(wrong):
        raise DataError(
            f"{records.place(wrong[0])}: label {records.labels[wrong[0]]:g} is outside 0 to "
            f"{num_classes - 1}"
            + (f", as are the labels of {len(wrong) - 1} others" if len(wrong) > 1 else "")
        )


class Sides(NamedTuple):
    """Short sides of images in pixels: the least, the one in the middle, the largest."""

    least: int
    middle: int
    largest: int

    @property
    def common(self) -> Optional[int]:
        """The short side that all images have, None if they differ."""
        return self.least if self.least == self.largest else None


def short_sides(images: Iterable[np.ndarray]) -> Sides:
    """Return the short sides of images, pixels of the shape (height, width, 3); one at least."""
    sides = sorted(min(pixels.shape[:2]) for pixels in images)
    return Sides(sides[0], sides[len(sides) // 2], sides[-1])


def check_sample(records: Records) -> Sides:
    """Return the short sides of a few images over all of the records. Raises DataError where one of
    them is not a whole image."""
    chosen = np.linspace(0, records.num_images - 1, _SAMPLE).astype(int)
    images = []
    for number in sorted(set(chosen.tolist())):
        found = records.read(number)
        try:
            if found.record is None:
                raise ValueError(found.problem)
            images.append(check(unpacked(found.record).image))
        except (ValueError, ImageError) as problem:
            raise DataError(
                f"{records.place(number).file}: {found.place}: {problem}: python -m data.verify "
                "lists all faults, --skip-bad-records trains without them"
            ) from None
    return short_sides(images)


def check_pair(training: Records, validation: Records) -> None:
    """Raise DataError where the two sets share a file, or are not of the same classes."""
    for path in record_files(validation.path):
        for other in record_files(training.path):
            if _same_content(other, path):
                raise DataError(
                    f"{path}: the validation file has the same content as the training file "
                    f"{other}: give another, or --data-val= for no validation"
                )
    known, names = names_of_classes(training.path), names_of_classes(validation.path)
    if known and names and known != names:
        raise DataError(
            f"{validation.path}: its classes.txt is not that of {training.path}: "
            "pack both from the same classes"
        )
    strangers = np.setdiff1d(validation.labels, training.labels)
    if len(strangers):
        more = f" and {len(strangers) - 1} other classes" if len(strangers) > 1 else ""
        raise DataError(
            f"{validation.path} has images of class {strangers[0]:g}{more}, and {training.path} "
            "has none: are the files of one data set?"
        )


def _same_content(path: PathLike, other: PathLike, end: int = 1 << 20) -> bool:
    """True for one file under two names, and for copies (of files of equal size with the same
    first and last megabyte)."""
    if os.path.samefile(path, other):
        return True
    if os.path.getsize(path) != os.path.getsize(other):
        return False
    with open(path, "rb") as one, open(other, "rb") as two:
        for start in (0, max(0, os.path.getsize(path) - end)):
            one.seek(start)
            two.seek(start)
            if one.read(end) != two.read(end):
                return False
    return True


@dataclass(frozen=True)
class Images:
    """What the records of a run hold.

    train, val : the files that are read; val is None without validation.
    num_train, num_val : images in them. classes : their names by label, None if not known.
    train_sides, val_sides : short sides of some of them; None without validation.
    class_counts : training images of each class.
    """

    train: str
    val: Optional[str]
    num_train: int
    num_val: int
    num_classes: int
    classes: Optional[List[str]]
    train_sides: Sides
    val_sides: Optional[Sides]
    class_counts: Tuple[int, ...] = ()

    @property
    def short_side(self) -> Optional[int]:
        """That of the validation images in pixels, None if they differ."""
        return self.val_sides.common if self.val_sides else None


def inspect_images(data: Data, notices: Notices) -> Images:
    """Return what the records hold that `data` names, counted. Every label is checked, and a few
    images are decoded. Raises DataError, with the record, if a run could not use them."""
    paths = usable_records(data, notices)
    scanned = [scan(path) for path in paths]
    training, validation = scanned[0], scanned[1:]
    if data.num_examples not in (None, training.num_images):
        raise DataError(
            f"{training.path} holds {training.num_images} images, not {data.num_examples}: "
            "leave out --num-examples"
        )
    num_classes = data.num_classes or int(training.labels.max()) + 1
    for each in scanned:
        check_labels(each, num_classes)
    sides = [check_sample(each) for each in scanned]
    for each in validation:
        check_pair(training, each)
    classes = _classes(paths[0], num_classes, notices)
    check_classes(training, num_classes, classes, notices)
    return Images(
        train=paths[0],
        val=paths[1] if validation else None,
        num_train=training.num_images,
        num_val=validation[0].num_images if validation else 0,
        num_classes=num_classes,
        classes=classes,
        train_sides=sides[0],
        val_sides=sides[1] if validation else None,
        class_counts=tuple(
            np.bincount(training.labels.astype(int), minlength=num_classes).tolist()
        ),
    )


def usable_records(data: Data, notices: Notices) -> List[str]:
    """Return the training and, if there is one, the validation records to read: with
    --skip-bad-records, copies without what is damaged."""
    paths = list(data.records)
    of_the_data_set = {data.data_set.train_records[data.aug_level], data.data_set.val_records}
    for i, path in enumerate(paths):
        known = Path(path).name in of_the_data_set
        require(path, data.data_set.prepare if known else None)
        if data.skip_bad_records:
            paths[i], bad = without_bad_records(path, data.data_nthreads or usable_cores())
            if bad:
                notices.info(
                    f"{path}: {len(bad)} bad records left out, the first {bad[0]}: {paths[i]}"
                )
    return paths


def _classes(path: str, num_classes: int, notices: Notices) -> Optional[List[str]]:
    classes = names_of_classes(path)
    if classes is not None and len(classes) != num_classes:
        notices.info(f"{len(classes)} names in {CLASSES} for {num_classes} classes: ignored")
        return None
    return classes


def check_classes(
    training: Records, num_classes: int, names: Optional[List[str]], notices: Notices
) -> None:
    """Say which classes have no training image: a network has an output for each."""
    counts = np.bincount(training.labels.astype(np.int64), minlength=num_classes)
    present = np.flatnonzero(counts)
    if num_classes == 1:
        notices.warn(
            f"{training.path}: one class: there is nothing to learn, and the accuracy is 1.0 from "
            "the start"
        )
        return
    if present[-1] + 1 < num_classes:
        notices.info(f"{training.path}: labels up to {present[-1]} only, of {num_classes} classes")
    empty = np.flatnonzero(counts[: present[-1]] == 0).tolist()
    if not empty:
        return
    named = [f"{label} ({printable(names[label])})" if names else str(label) for label in empty[:3]]
    more = f" and {len(empty) - 3} others" if len(empty) > 3 else ""
    way_out = ": labels that begin at 1? Classes are numbered from 0" if empty == [0] else ""
    notices.warn(
        f"{training.path}: no image of class {', '.join(named)}{more}: the network learns never to "
        f"predict it{way_out}"
    )


def check_crop(image_shape: Tuple[int, ...], images: Images, notices: Notices) -> None:
    """Warn if validation sees less than half of an image's width or height: then the records were
    packed for larger crops, or not resized at all. Also if training enlarges most images."""
    height, width = image_shape[1:]
    least = min(height, width)
    sides = images.val_sides or images.train_sides
    if sides.middle > 2 * least:
        # What data.pack's sizes are to 224.
        fitting = (max(least + 1, round(least * side / 224)) for side in (480, 256))
        stored = f"side is {sides.common}" if sides.common else (
            f"sides are {sides.least} to {sides.largest} (not resized)"
        )  # fmt: skip
        notices.warn(
            f"validation uses only the centre {height}x{width} pixels of images whose short "
            f"{stored}, and training crops of that size: to use more of each image, pack with "
            "--resize {} --val-resize {}".format(*fitting)
        )
    side = images.train_sides.middle
    if 2 * side < least:
        notices.warn(
            f"images whose short side is {side} are enlarged to {height}x{width} pixels: "
            f"--image-shape 3,{side},{side} computes {height * width // side**2} times less"
        )
