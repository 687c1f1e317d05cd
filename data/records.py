"""What is in a record file, and batches from it."""

import os
import struct
from array import array
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import cv2
import mxnet as mx
import numpy as np

from data import DataError

# The framing of dmlc-core's recordio.h: a magic word, then a word whose upper 3 bits say which
# part of a split record follows (0 whole, 1 first, 2 middle, 3 last) and whose lower 29 bits say
# how long it is, then the data, padded to 4 bytes. It begins with the IRHeader of mx.recordio:
# flag, label and two 8-byte numbers; where the flag is not 0, that many labels follow it instead.
_MAGIC = 0xCED7230A
_FRAME = struct.Struct("<II")
_FLAG_AND_LABEL = struct.Struct("<If")
_FIRST_LABEL = struct.Struct("<16xf")


@dataclass(frozen=True)
class Records:
    """A scanned record file: how many images, and the smallest and largest label."""

    path: str
    num_images: int
    min_label: float
    max_label: float


def scan(path) -> Records:
    """Count the images of a .rec file and read all of their labels, without decoding an image.

    Reads 36 bytes of each record. Raises DataError where the file is missing, empty or damaged, or
    where a record has several labels or one that is not a whole number.
    """
    labels = array("f")
    try:
        size = os.path.getsize(path)
        with open(path, "rb", buffering=0) as file:
            position = 0
            while position < size:
                head = os.pread(file.fileno(), 36, position)
                magic, part_and_length = _FRAME.unpack_from(head)
                part, length = part_and_length >> 29, part_and_length & ((1 << 29) - 1)
                if magic != _MAGIC:
                    raise DataError(f"{path}: no record at byte {position}: not a .rec file?")
                if part in (0, 1):
                    flag, label = _FLAG_AND_LABEL.unpack_from(head, 8)
                    if flag == 1:
                        (label,) = _FIRST_LABEL.unpack_from(head, 16)
                    if flag > 1:
                        raise DataError(
                            f"{path}: the record at byte {position} has {flag} labels, not one"
                        )
                    if not label.is_integer():
                        raise DataError(
                            f"{path}: the record at byte {position} has the label {label:g}, "
                            "not a whole number"
                        )
                    labels.append(label)
                position += 8 + (length + 3) // 4 * 4
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except struct.error:
        raise DataError(f"{path}: cut off in the record at byte {position}") from None
    if position > size:
        raise DataError(f"{path}: cut off: its last record ends at byte {position} of {size}")
    if not labels:
        raise DataError(f"{path}: no records in it")
    return Records(str(path), len(labels), min(labels), max(labels))


def require(path, prepare: str):
    """Raise DataError where the record file is missing, with the way to make it, if known."""
    if not Path(path).exists():
        raise DataError(f"{path} is missing" + (f"; make it with: {prepare}" if prepare else ""))


def check_labels(records: Records, num_classes: int):
    """Raise DataError where a label is outside [0, num_classes): MXNet would train on it."""
    for label in (records.min_label, records.max_label):
        if not 0 <= label < num_classes or label != int(label):
            raise DataError(
                f"{records.path}: label {label:g} is not a whole number from 0 to {num_classes - 1}"
            )


class EpochIter(mx.io.DataIter):
    """Batches of records, each epoch from a fresh ImageRecordIter with a seed of its own.

    An ImageRecordIter's second epoch goes on from the random state that its first one left, and
    leaves out the images that have filled up the first one's last batch. Here every epoch has all
    images, and epoch e can be had without those before it: shuffle and augmentation follow from
    (seed, e, part). Every batch carries its place, `batch.epoch` and `batch.number` (both from 0),
    and `batch.seed`, for what is drawn at random while it is trained on.
    The last batch of an epoch is filled up with the epoch's first images.

    Parameters
    ----------
    record_args : dict
        Arguments of ImageRecordIter.
    seed : int
        Any whole number.
    epoch, number : int
        The place of the first batch.
    batches : int
        Batches an epoch (default: as many as it takes for all images once). Workers need as many
        as each other, and `num_parts` does not give them that: a longer part is cut, a shorter one
        begins anew.

    Raises DataError where ImageRecordIter can't read a batch.
    """

    def __init__(
        self,
        record_args: dict,
        seed: int = 0,
        epoch: int = 0,
        number: int = 0,
        batches: Optional[int] = None,
    ):
        super().__init__(record_args["batch_size"])
        self._batches = batches
        self._args = dict(record_args)
        self._seed = seed
        self._part = record_args.get("part_index", 0)
        self._open(epoch)
        self.provide_data = self._records.provide_data
        self.provide_label = self._records.provide_label
        for _ in range(number):
            self.next()

    def _open(self, epoch):
        self.epoch, self.number = epoch, 0
        self._read_from_the_start(epoch_seed(self._seed, epoch, self._part))

    def _read_from_the_start(self, seed):
        with self._naming_the_place():
            self._records = mx.io.ImageRecordIter(seed=seed, seed_aug=seed, **self._args)

    def reset(self):
        self._open(self.epoch + 1)

    def next(self):
        if self.number == self._batches:
            raise StopIteration
        try:
            batch = self._next_of_records()
        except StopIteration:
            if self._batches is None:
                raise
            self._read_from_the_start(epoch_seed(self._seed, self.epoch, self._part, -1))
            batch = self._next_of_records()
        batch.epoch, batch.number = self.epoch, self.number
        batch.seed = epoch_seed(self._seed, self.epoch, self._part, self.number)
        self.number += 1
        return batch

    def _next_of_records(self):
        with self._naming_the_place():
            return self._records.next()

    @contextmanager
    def _naming_the_place(self):
        try:
            yield
        except mx.base.MXNetError as error:
            reason = next((line for line in str(error).splitlines() if "failed" in line), error)
            raise DataError(
                f"{self._args['path_imgrec']}: epoch {self.epoch}, batch {self.number + 1}: a "
                f"record can't be read: {str(reason).strip()}"
            ) from None


def epoch_seed(*numbers: int) -> int:
    """Mix whole numbers to a seed, 0 <= seed < 2**31 (splitmix64's finalizer, Steele 2014)."""
    mixed = 0
    for number in numbers:
        mixed = (mixed + number + 0x9E3779B97F4A7C15) % 2**64
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
        mixed ^= mixed >> 31
    return mixed % 2**31


def training_args(record_args: dict, augmentation: dict) -> dict:
    return {**record_args, "shuffle": True, **augmentation}


#: The file beside training records that names the classes, one a line, in label order.
CLASSES = "classes.txt"


def class_names(rec) -> Optional[list]:
    """Return the class names in the file `CLASSES` beside the records, None where there is none."""
    path = Path(rec).with_name(CLASSES)
    return read_class_names(path) if path.exists() else None


def read_class_names(path) -> list:
    """Return the lines of a UTF-8 file. Raises DataError."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None


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
