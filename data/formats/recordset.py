"""Sets of records: one file or several, scanned without decoding an image.

Of several files the bytes count from the first to the last, as dmlc-core counts them.
"""

import io
import os
import struct
import warnings
from array import array
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Tuple

import numpy as np

from data import DataError
from data.formats.classes import CLASSES, class_names
from data.formats.recordfile import FIRST, LAST, MAGIC, MIDDLE, Found, walk
from log.files import PathLike, open_file, read_file


class Place(NamedTuple):
    """Where a record is. number, offset : within the file."""

    file: str
    number: int
    offset: int

    def __str__(self) -> str:
        return f"{self.file}: record {self.number}"


@dataclass(frozen=True, eq=False)
class Records:
    """A scanned set of records.

    path : as it was given. offsets : of each record's first byte, in the bytes of all files, int64.
    labels : float32, whole numbers. files : (path, offset of its first byte). size : bytes.
    """

    path: str
    offsets: np.ndarray
    labels: np.ndarray
    files: Tuple[Tuple[str, int], ...] = ()
    size: int = 0

    @property
    def num_images(self) -> int:
        return len(self.labels)

    def place(self, number: int) -> Place:
        offset = int(self.offsets[number])
        files = self.files or ((self.path, 0),)
        file, start = [each for each in files if each[1] <= offset][-1]
        return Place(file, number - int(np.searchsorted(self.offsets, start)), offset - start)

    def read(self, number: int) -> Found:
        """Return a record, or what is there instead of one."""
        place = self.place(number)
        return next(walk(place.file, place.number, place.offset))


def record_files(records: PathLike) -> List[str]:
    """Return the files of a set of records, in their order: that of one file is itself, that of a
    folder the .rec files in it, by name; semicolons stand between several, as for MXNet.

    Copies without bad records (NAME.clean.rec) are not taken from a folder. Raises DataError if
    there is none in it.
    """
    text = os.fspath(records)
    if os.path.isdir(text):
        files = [entry for entry in os.scandir(text) if entry.name.endswith(".rec")]
        found = [entry.path for entry in files if not entry.name.endswith(".clean.rec")]
        if not found:
            raise DataError(f"{text}: a folder without .rec files")
        return sorted(found, key=os.fsencode)
    if ";" not in text or os.path.lexists(text):
        return [text]
    return [file for part in text.split(";") if part for file in record_files(part)]


def names_of_classes(records: PathLike) -> Optional[List[str]]:
    """Return the names of the classes of a set of records, None if none of its files has any.

    Raises DataError if two of them have others: their labels mean other classes.
    """
    known = [(file, class_names(file)) for file in record_files(records)]
    named = [(file, names) for file, names in known if names is not None]
    for file, names in named:
        if names != named[0][1]:
            raise DataError(
                f"{file} has other classes than {named[0][0]}: {CLASSES} next to them differ: "
                "pack them together"
            )
    return named[0][1] if named else None


#: How many records ahead the disk is asked for: it answers several requests at a time.
_AHEAD = 512
# Of an index: 60 million records' lines.
_INDEX_LIMIT = 1 << 30
# A frame, and of a record's header the flag, the label, and the label after it.
_HEAD = struct.Struct("<4sIIf16xf")


def scan(records: PathLike) -> Records:
    """Read the framing and the label of every record, without decoding an image.

    Raises DataError where a file is missing, empty or damaged, where a record has several labels or
    one that is not a whole number, and where a file has an index that does not fit. Files that are
    as they were at an earlier call are not read again.
    """
    files = record_files(records)
    return _scan_files(os.fspath(records), tuple((file, *_states(file)) for file in files))


def _states(file: str) -> Tuple[Tuple[int, ...], Tuple[int, ...]]:
    return state(file), state(str(Path(file).with_suffix(".idx")))


@lru_cache(maxsize=4)
def _scan_files(path: str, known: Tuple[Tuple[Any, ...], ...]) -> Records:
    files, offsets, labels, start = [], [], [], 0
    for file, *_ in known:
        index = read_index(file)
        scanned = _scan_file(file, index)
        if index is not None:
            _check_index(file, scanned[0], index)
        files.append((file, start))
        offsets.append(scanned[0] + start)
        labels.append(scanned[1])
        start += scanned[2]
    return Records(path, np.concatenate(offsets), np.concatenate(labels), tuple(files), start)


def state(path: str) -> Tuple[int, ...]:
    """Return what changes if a file is written to; nothing if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns


def _scan_file(path: str, index: Optional[np.ndarray]) -> Tuple[np.ndarray, np.ndarray, int]:
    """Return (offsets, labels, bytes) of a file."""
    offsets, labels = array("q"), array("f")
    within = False  # a record that is split
    try:
        with open_file(path, DataError, "a record file") as file:
            fd = file.fileno()
            size = os.fstat(fd).st_size
            hints = [] if index is None else index[_AHEAD:, 1].clip(0, size).tolist()
            hints.reverse()
            position = 0
            while position < size:
                if hints:
                    os.posix_fadvise(fd, hints.pop(), _HEAD.size, os.POSIX_FADV_WILLNEED)
                head = os.pread(fd, _HEAD.size, position)
                if len(head) < _HEAD.size:  # the file's last bytes
                    head = head.ljust(_HEAD.size, b"\0")
                magic, word, flag, label, array_label = _HEAD.unpack(head)
                part = word >> 29
                if magic != MAGIC:
                    raise DataError(f"{path}: no record at byte {position}: not a .rec file?")
                if within == (part <= FIRST) or part > LAST:
                    raise DataError(
                        f"{path}: at byte {position}: a part of a split record is missing, or its "
                        "frame is damaged: python -m data.verify lists all faults"
                    )
                if part <= FIRST:
                    offsets.append(position)
                    labels.append(_label(path, position, flag, label, array_label))
                within = part in (FIRST, MIDDLE)
                position += 8 + ((word & 0x1FFFFFFF) + 3 & ~3)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    if position > size:
        raise DataError(
            f"{path}: cut off: its last record should end at byte {position}, and the file has "
            f"{size}"
        )
    if within:
        raise DataError(f"{path}: cut off: the rest of its last record is missing")
    if not labels:
        raise DataError(f"{path}: no records in it")
    return np.array(offsets), np.array(labels), size


def _label(path: str, position: int, flag: int, label: float, array_label: float) -> float:
    if flag > 1:
        raise DataError(f"{path}: the record at byte {position} has {flag} labels, not one")
    label = array_label if flag else label
    if not label.is_integer():
        raise DataError(
            f"{path}: the record at byte {position} has the label {label:g}, not a whole number"
        )
    return label


def _check_index(path: str, offsets: np.ndarray, index: np.ndarray) -> None:
    indexed = np.sort(index[:, 1])
    if np.array_equal(indexed, offsets):
        return
    if len(indexed) != len(offsets):
        differ = f"has {len(indexed)} records, there are {len(offsets)}"
    else:
        first = int(np.flatnonzero(indexed != offsets)[0])
        differ = f"has byte {indexed[first]} for record {first}, which is at {offsets[first]}"
    raise DataError(
        f"{Path(path).with_suffix('.idx')}: not the index of {path}: it {differ}: "
        "delete it (training works without an index), or pack again"
    )


def read_index(rec: PathLike) -> Optional[np.ndarray]:
    """Return the index of a record file as rows (number, byte offset), (N, 2) int64; None where it
    has none. Raises DataError where the index is no index."""
    path = Path(rec).with_suffix(".idx")
    if not os.path.lexists(path):
        return None
    content = read_file(path, DataError, _INDEX_LIMIT, "an index")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty file's
            index = np.loadtxt(io.BytesIO(content), np.int64, ndmin=2)
    except ValueError:
        index = None
    if index is None or index.shape[1:] != (2,):
        raise DataError(f"{path}: damaged, or no index: delete it (training works without one)")
    return index
