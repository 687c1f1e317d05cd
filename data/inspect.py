"""What is checked about records before a run: that they can be had, their labels, their images."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple

import cv2
import mxnet as mx
import numpy as np

from data import DataError
from data.arguments import Data
from data.checking.records import without_bad_records
from data.formats.classes import CLASSES, class_names
from data.formats.images import ImageError, check
from data.formats.recordfile import Records, scan, unpacked, walk
from log.files import open_file
from log.notices import Notices

#: Records that `check_sample` decodes.
_SAMPLE = 16


def require(path, prepare: Optional[str]) -> None:
    """Raise DataError where the record file is missing, with the way to make it, if known, or is no
    file."""
    if "://" in str(path):
        raise DataError(
            f"{path}: MXNet's wheels are built without S3, HDFS and HTTP: copy the file to a disk, "
            "or mount where it is"
        )
    if not Path(path).exists():
        raise DataError(f"{path} is missing" + (f"; make it with: {prepare}" if prepare else ""))
    open_file(path, DataError, "a record file").close()


def check_labels(records: Records, num_classes: int):
    """Raise DataError where a label is outside [0, num_classes): MXNet would train on it."""
    wrong = np.flatnonzero((records.labels < 0) | (records.labels >= num_classes))
    if len(wrong):
        raise DataError(
            f"{records.path}: record {wrong[0]}: label {records.labels[wrong[0]]:g} is not a whole "
            f"number from 0 to {num_classes - 1}"
            + (f", and so are those of {len(wrong) - 1} others" if len(wrong) > 1 else "")
        )


def check_sample(records: Records) -> Optional[int]:
    """Return the short side, in pixels, of a few images over all of the file; None where they
    differ. Raises DataError where one of them is no whole image."""
    chosen = np.linspace(0, records.num_images - 1, _SAMPLE).astype(int)
    sides = set()
    for number in sorted(set(chosen.tolist())):
        found = next(walk(records.path, number, int(records.offsets[number])))
        try:
            if found.problem:
                raise ValueError(found.problem)
            pixels = check(unpacked(found.record)[2])
        except (ValueError, ImageError) as problem:
            raise DataError(
                f"{records.path}: {found.place}: {problem}: python -m data.verify "
                "lists all faults, --skip-bad-records trains without them"
            ) from None
        sides.add(min(pixels.shape[:2]))
    return sides.pop() if len(sides) == 1 else None


def check_pair(training: Records, validation: Records):
    """Raise DataError where the two files are the same, or not of the same classes."""
    if _same_content(training.path, validation.path):
        raise DataError(
            f"{validation.path} is {training.path}: to validate on what was trained on shows "
            "nothing; --data-val= for no validation"
        )
    known, names = class_names(training.path), class_names(validation.path)
    if known and names and known != names:
        raise DataError(
            f"{validation.path}: its classes.txt is not that of {training.path}: "
            "pack both from the same classes"
        )
    strangers = np.setdiff1d(validation.labels, training.labels)
    if len(strangers):
        raise DataError(
            f"{validation.path} has images of {len(strangers)} classes, the first is "
            f"{strangers[0]:g}, that {training.path} has none of: of another data set?"
        )


def _same_content(path, other, end=1 << 20) -> bool:
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


def short_side(rec, sample: int = 16) -> Optional[int]:
    """Return the short side, in pixels, of the first `sample` images; None where they differ."""
    sides = set()
    reader = mx.recordio.MXRecordIO(str(rec), "r")
    for _ in range(sample):
        record = reader.read()
        if record is None:
            break
        content = np.frombuffer(mx.recordio.unpack(record)[1], np.uint8)
        pixels = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
        if pixels is not None:
            sides.add(min(pixels.shape[:2]))
    reader.close()
    return sides.pop() if len(sides) == 1 else None


@dataclass(frozen=True)
class Images:
    """What the records of a run hold.

    train, val : the files that are read; val is None without validation.
    num_train, num_val : images in them. classes : their names by label, None if not known.
    short_side : of the validation images in pixels, None if they differ.
    """

    train: str
    val: Optional[str]
    num_train: int
    num_val: int
    num_classes: int
    classes: Optional[List[str]]
    short_side: Optional[int]


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
    highest = int(training.labels.max())
    num_classes = data.num_classes or highest + 1
    for each in scanned:
        check_labels(each, num_classes)
    short_sides = [check_sample(each) for each in scanned]
    for each in validation:
        check_pair(training, each)
    if highest + 1 < num_classes:
        notices.info(f"{training.path}: labels up to {highest} only, of {num_classes} classes")
    return Images(
        train=paths[0],
        val=paths[1] if validation else None,
        num_train=training.num_images,
        num_val=validation[0].num_images if validation else 0,
        num_classes=num_classes,
        classes=_classes(paths[0], num_classes, notices),
        short_side=short_sides[1] if validation else None,
    )


def usable_records(data: Data, notices: Notices) -> List[str]:
    """Return the training and, if there is one, the validation file to read: with
    --skip-bad-records, copies without what is damaged."""
    paths = list(data.records)
    of_the_data_set = {data.data_set.train_records[data.aug_level], data.data_set.val_records}
    for i, path in enumerate(paths):
        known = Path(path).name in of_the_data_set
        require(path, data.data_set.prepare if known else None)
        if data.skip_bad_records:
            paths[i], bad = without_bad_records(path, data.data_nthreads)
            if bad:
                notices.info(
                    f"{path}: {len(bad)} bad records left out, the first {bad[0]}: {paths[i]}"
                )
    return paths


def _classes(path: str, num_classes: int, notices: Notices) -> Optional[List[str]]:
    classes = class_names(path)
    if classes is not None and len(classes) != num_classes:
        notices.info(f"{len(classes)} names in {CLASSES} for {num_classes} classes: not kept")
        return None
    return classes


def check_crop(image_shape: Tuple[int, ...], short_side: Optional[int], notices: Notices) -> None:
    """Warn if validation sees less than half of an image from side to side: then the records were
    packed for larger crops. short_side : that of the validation images, None if not known."""
    height, width = image_shape[1:]
    least = min(height, width)
    if short_side and short_side > 2 * least:
        # What data.pack's sizes are to 224.
        fitting = (max(least + 1, round(least * side / 224)) for side in (480, 256))
        notices.warn(
            f"validation sees the middle {height}x{width} pixels of images whose short "
            f"side is {short_side}, and training pieces of that size: to see more, pack with "
            "--resize {} --val-resize {}".format(*fitting)
        )
