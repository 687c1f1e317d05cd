"""Record files (RecordIO): how records are framed, what is in one, and whether it is whole.

A frame (dmlc-core's recordio.h) is a magic word, a word whose upper 3 bits say which part of a
split record follows (0 whole, 1 first, 2 middle, 3 last) and whose lower 29 bits say how long it
is, then the data, padded with zeros to 4 bytes. A record is split wherever the magic word would
stand in its data at a multiple of 4: so that such a word always begins a frame.

A record is mx.recordio's IRHeader and an image file. The header has a flag, a label, and two 8-byte
numbers; where the flag is not 0, that many labels follow it instead of the one in it. Of the two
numbers MXNet uses the first, which is the record's number in the index. The second is 0 in files
that im2rec made; in those made here it holds a checksum, which no reader minds, and by which every
changed bit can be found.
"""

import errno
import io
import os
import struct
import warnings
import zlib
from array import array
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Optional

import mxnet as mx
import numpy as np

from data import DataError
from data.formats.images import ImageError, check
from log.files import open_file, read_file

MAGIC = struct.pack("<I", 0xCED7230A)
_FRAME = struct.Struct("<4sI")
_HEADER = struct.Struct("<IfQQ")
_LABEL = struct.Struct("<f")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
# The upper half of a second number that holds a CRC-32 in its lower half.
_CHECKSUM_MARK = int.from_bytes(b"CRC3", "big")


def packed(label: int, number: int, image: bytes) -> bytes:
    """Return the record of an encoded image, with its checksum."""
    record = mx.recordio.pack(mx.recordio.IRHeader(0, float(label), number, 0), image)
    header = mx.recordio.IRHeader(0, float(label), number, _CHECKSUM_MARK << 32 | _crc(record))
    return mx.recordio.pack(header, image)


@contextmanager
def writing(rec, index):
    """Give MXNet's writer of the record file `rec` and its index. Raises DataError where they can't
    be written."""
    try:
        writer = mx.recordio.MXIndexedRecordIO(str(index), str(rec), "w")
        yield writer
        writer.close()
    except mx.base.MXNetError:
        raise DataError(f"{rec}: can't be written: is the disk full?") from None


def _crc(record) -> int:
    """CRC-32 of all of a record but the place of the checksum."""
    return zlib.crc32(memoryview(record)[_HEADER.size :], zlib.crc32(record[:16]))


@dataclass(frozen=True)
class Found:
    """A place in a record file: a record, or what is there instead of one."""

    number: int  # of the record, from 0
    offset: int  # of its first byte in the file
    record: Optional[bytes]
    problem: Optional[str] = None

    @property
    def place(self) -> str:
        return f"record {self.number} at byte {self.offset}"


class _Damage(Exception):
    pass


def walk(path, number: int = 0, offset: int = 0) -> Iterator[Found]:
    """Yield what is in a record file, in order, from record `number`, which is at `offset`.

    After damaged framing it continues at the next magic word; what is between is one record.
    Raises DataError where the file can't be read.
    """
    try:
        with open_file(path, DataError, "a record file") as file:
            size = os.fstat(file.fileno()).st_size
            while offset < size:
                try:
                    record, end = _read(file.fileno(), offset, size)
                    yield Found(number, offset, record)
                except _Damage as damage:
                    yield Found(number, offset, None, str(damage))
                    end = _next_frame(file.fileno(), offset + 4 - offset % 4, size)
                number, offset = number + 1, end
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def _read(fd, offset, size):
    """Return the record at `offset` and where it ends."""
    pieces = []
    while True:
        head = os.pread(fd, _FRAME.size, offset)
        if len(head) < _FRAME.size:
            raise _Damage("cut off")
        magic, part, length = _parse_frame(head)
        if magic != MAGIC:
            raise _Damage(f"no record begins at byte {offset}")
        if part not in ((_MIDDLE, _LAST) if pieces else (_WHOLE, _FIRST)):
            raise _Damage("a part of a split record is missing")
        end = offset + _FRAME.size + _padded(length)
        if end > size:
            raise _Damage(f"cut off, or its length is wrong: it would end at byte {end} of {size}")
        data = os.pread(fd, _padded(length), offset + _FRAME.size)
        if any(data[length:]):
            raise _Damage("its padding is not zero: its length is wrong")
        if _aligned_magic(data) >= 0:
            raise _Damage("its length is wrong: another record begins within")
        pieces.append(data[:length])
        offset = end
        if part in (_WHOLE, _LAST):
            return MAGIC.join(pieces), end


def _parse_frame(head) -> tuple:
    magic, word = _FRAME.unpack_from(head)
    return magic, word >> 29, word & ((1 << 29) - 1)


def _padded(length) -> int:
    return (length + 3) // 4 * 4


def _aligned_magic(data, start: int = 0) -> int:
    """Return where the magic word stands in `data` at a multiple of 4, -1 for nowhere."""
    while (start := data.find(MAGIC, start)) % 4 and start > 0:
        start += 1
    return start


def _next_frame(fd, offset, size, block=1 << 20) -> int:
    """Return where the next record begins, from `offset` on; `size` where none does."""
    while offset < size:
        try:
            # Over a hole, such as what a crash has left of a file.
            offset = os.lseek(fd, offset, os.SEEK_DATA) & ~3
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole
                return size
        data = os.pread(fd, block, offset)
        start = -1
        while (start := _aligned_magic(data, start + 1)) >= 0:
            head = os.pread(fd, _FRAME.size, offset + start)
            if len(head) == _FRAME.size and _parse_frame(head)[1] in (_WHOLE, _FIRST):
                return offset + start
        offset += block
    return size


def has_checksum(record: bytes) -> bool:
    return len(record) >= _HEADER.size and _HEADER.unpack_from(record)[3] >> 32 == _CHECKSUM_MARK


def unpacked(record: bytes) -> tuple:
    """Return (label, number, image file). Raises ValueError where the header is wrong."""
    if len(record) < _HEADER.size:
        raise ValueError("shorter than its header")
    flag, label, number, second = _HEADER.unpack_from(record)
    if second >> 32 == _CHECKSUM_MARK:
        if second & 0xFFFFFFFF != _crc(record):
            raise ValueError("its checksum differs: damaged")
    elif second:
        raise ValueError(f"its header is damaged: the second number is {second}, not 0")
    image = record[_HEADER.size :]
    if flag == 1 and len(image) >= _LABEL.size:
        (label,) = _LABEL.unpack_from(image)
        image = image[_LABEL.size :]
    elif flag:
        raise ValueError(f"{flag} labels, not one")
    if not label.is_integer():
        raise ValueError(f"its label is {label:g}, not a whole number")
    return int(label), number, image


def problem_of(record: bytes, num_classes: Optional[int] = None, number: Optional[int] = None):
    """Return what is wrong with a record, in a few words, or None.

    num_classes : labels must be below it, where it is given. number : the one in the index.
    """
    try:
        label, own_number, image = unpacked(record)
        if label < 0 or (num_classes is not None and label >= num_classes):
            highest = "up" if num_classes is None else f"to {num_classes - 1}"
            return f"its label is {label}, not one from 0 {highest}"
        if number is not None and number != own_number:
            return f"its number is {own_number}, in the index {number}"
        check(image)
    except (ValueError, ImageError) as error:
        return str(error)
    return None


@dataclass(frozen=True, eq=False)
class Records:
    """A scanned record file."""

    path: str
    offsets: np.ndarray  # of each record's first byte, int64
    labels: np.ndarray  # float32, whole numbers

    @property
    def num_images(self) -> int:
        return len(self.labels)


#: How many records ahead the disk is asked for: it answers several requests at a time.
_AHEAD = 512
# Of an index: 60 million records' lines.
_INDEX_LIMIT = 1 << 30
# A frame, and of a record's header the flag, the label, and the label after it.
_HEAD = struct.Struct("<4sIIf16xf")


def scan(path) -> Records:
    """Read the framing and the label of every record, without decoding an image.

    Raises DataError where the file is missing, empty or damaged, where a record has several labels
    or one that is not a whole number, and where the file has an index that does not fit.
    """
    index = read_index(path)
    offsets, labels = array("q"), array("f")
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
                if magic != MAGIC:
                    raise DataError(f"{path}: no record at byte {position}: not a .rec file?")
                if word >> 29 <= _FIRST:
                    if flag > 1:
                        raise DataError(
                            f"{path}: the record at byte {position} has {flag} labels, not one"
                        )
                    label = array_label if flag else label
                    if not label.is_integer():
                        raise DataError(
                            f"{path}: the record at byte {position} has the label {label:g}, "
                            "not a whole number"
                        )
                    offsets.append(position)
                    labels.append(label)
                position += 8 + ((word & 0x1FFFFFFF) + 3 & ~3)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    if position > size:
        raise DataError(f"{path}: cut off: its last record ends at byte {position} of {size}")
    if not labels:
        raise DataError(f"{path}: no records in it")
    records = Records(str(path), np.array(offsets), np.array(labels))
    if index is not None:
        _check_index(records, index)
    return records


def _check_index(records, index):
    indexed = np.sort(index[:, 1])
    if np.array_equal(indexed, records.offsets):
        return
    path = Path(records.path).with_suffix(".idx")
    if len(indexed) != len(records.offsets):
        differ = f"has {len(indexed)} records, there are {len(records.offsets)}"
    else:
        first = int(np.flatnonzero(indexed != records.offsets)[0])
        differ = (
            f"has byte {indexed[first]} for record {first}, which is at {records.offsets[first]}"
        )
    raise DataError(
        f"{path}: not the index of {records.path}: it {differ}: "
        "delete it (training works without an index), or pack again"
    )


def read_index(rec) -> Optional[np.ndarray]:
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
        raise DataError(f"{path}: damaged, or no index: delete it, training does without")
    return index
