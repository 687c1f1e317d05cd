"""Record files (RecordIO): how records are framed, what is in one, and whether it is whole.

A frame (dmlc-core's recordio.h) is a magic word, a word whose upper 3 bits say which part of a
split record follows (0 whole, 1 first, 2 middle, 3 last) and whose lower 29 bits say how long it
is, then the data, padded with zeros to 4 bytes. A record is split wherever the magic word would
stand in its data at a multiple of 4: so that such a word always begins a frame.

A record is mx.recordio's IRHeader and an image file. The header has a flag, a label, and two 8-byte
numbers; where the flag is not 0, that many labels follow it instead of the one in it. MXNet uses
neither number. The first is the record's number in the index where im2rec wrote it, 0 in all
records of MXNet's own tutorial, and another one where rec2idx.py made the index. The second is 0 in
files that im2rec made; in those made here it holds a checksum, which no reader minds, and by which
every changed bit can be found.
"""

import errno
import itertools
import os
import struct
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

import mxnet as mx

from data import DataError
from data.formats.images import ImageError, check
from log.files import PathLike, open_file

MAGIC = struct.pack("<I", 0xCED7230A)
_FRAME = struct.Struct("<4sI")
_HEADER = struct.Struct("<IfQQ")
_LABEL = struct.Struct("<f")
# Parts of a split record, as frames have them.
WHOLE, FIRST, MIDDLE, LAST = range(4)
# The upper half of a second number that holds a CRC-32 in its lower half.
_CHECKSUM_MARK = int.from_bytes(b"CRC3", "big")
# Records from which the program that wrote a file is recognised.
_FIRST_RECORDS = 32


def packed(label: int, number: int, image: bytes) -> bytes:
    """Return the record of an encoded image, with its checksum."""
    record = mx.recordio.pack(mx.recordio.IRHeader(0, float(label), number, 0), image)
    header = mx.recordio.IRHeader(0, float(label), number, _CHECKSUM_MARK << 32 | _crc(record))
    return mx.recordio.pack(header, image)


@contextmanager
def writing(rec: PathLike, index: PathLike) -> Iterator[Any]:
    """Give MXNet's writer of the record file `rec` and its index. Raises DataError where they can't
    be written."""
    try:
        writer = mx.recordio.MXIndexedRecordIO(str(index), str(rec), "w")
        yield writer
        writer.close()
    except mx.base.MXNetError:
        raise DataError(f"{rec}: can't be written: is the disk full?") from None


def _crc(record: bytes) -> int:
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

    @property
    def content(self) -> bytes:
        """The record, which must be there."""
        assert self.record is not None, f"{self.place}: {self.problem}"
        return self.record


class _Damage(Exception):
    pass


def walk(path: PathLike, number: int = 0, offset: int = 0) -> Iterator[Found]:
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


def _read(fd: int, offset: int, size: int) -> Tuple[bytes, int]:
    """Return the record at `offset` and where it ends."""
    pieces: List[bytes] = []
    while True:
        head = os.pread(fd, _FRAME.size, offset)
        if len(head) < _FRAME.size:
            raise _Damage("cut off")
        magic, part, length = _parse_frame(head)
        if magic != MAGIC:
            raise _Damage(f"no record begins at byte {offset}")
        if part not in ((MIDDLE, LAST) if pieces else (WHOLE, FIRST)):
            raise _Damage("a part of a split record is missing")
        end = offset + _FRAME.size + _padded(length)
        if end > size:
            raise _Damage(
                f"cut off, or its length is wrong: it would end at byte {end}, and the file has "
                f"{size}"
            )
        data = os.pread(fd, _padded(length), offset + _FRAME.size)
        if any(data[length:]):
            raise _Damage("its padding is not zero: its length is wrong")
        if _aligned_magic(data) >= 0:
            raise _Damage("its length is wrong: another record begins within")
        pieces.append(data[:length])
        offset = end
        if part in (WHOLE, LAST):
            return MAGIC.join(pieces), end


def _parse_frame(head: bytes) -> Tuple[bytes, int, int]:
    magic, word = _FRAME.unpack_from(head)
    return magic, word >> 29, word & ((1 << 29) - 1)


def _padded(length: int) -> int:
    return (length + 3) // 4 * 4


def _aligned_magic(data: bytes, start: int = 0) -> int:
    """Return where the magic word stands in `data` at a multiple of 4, -1 for nowhere."""
    while (start := data.find(MAGIC, start)) % 4 and start > 0:
        start += 1
    return start


def _next_frame(fd: int, offset: int, size: int, block: int = 1 << 20) -> int:
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
            if len(head) == _FRAME.size and _parse_frame(head)[1] in (WHOLE, FIRST):
                return offset + start
        offset += block
    return size


def has_checksum(record: bytes) -> bool:
    return len(record) >= _HEADER.size and _HEADER.unpack_from(record)[3] >> 32 == _CHECKSUM_MARK


def writes_checksums(path: PathLike) -> bool:
    """True for a file of this project: most of its first records have a checksum."""
    first = [each.record for each in itertools.islice(walk(path), _FIRST_RECORDS) if each.record]
    return sum(map(has_checksum, first)) > len(first) / 2


class Unpacked(NamedTuple):
    """What is in a record. image : the content of an image file."""

    label: int
    number: int
    image: bytes


def unpacked(record: bytes) -> Unpacked:
    """Return what is in a record. Raises ValueError where its header or checksum is wrong."""
    if len(record) < _HEADER.size:
        raise ValueError("shorter than its header")
    flag, label, number, second = _HEADER.unpack_from(record)
    if second >> 32 == _CHECKSUM_MARK and second & 0xFFFFFFFF != _crc(record):
        raise ValueError("damaged (its checksum differs)")
    image = record[_HEADER.size :]
    if flag == 1 and len(image) >= _LABEL.size:
        (label,) = _LABEL.unpack_from(image)
        image = image[_LABEL.size :]
    elif flag:
        raise ValueError(f"{flag} labels, not one")
    if not label.is_integer():
        raise ValueError(f"its label is {label:g}, not a whole number")
    return Unpacked(int(label), number, image)


def problem_of(
    record: bytes,
    num_classes: Optional[int] = None,
    number: Optional[int] = None,
    with_checksum: bool = False,
) -> Optional[str]:
    """Return what is wrong with a record, in a few words, or None.

    num_classes : labels must be below it, where it is given. number : the one in the index; in
    records of other writers it may be any. with_checksum : as the others of its file.
    """
    try:
        if with_checksum and not has_checksum(record):
            return "damaged (its checksum is gone)"
        label, own_number, image = unpacked(record)
        if label < 0 or (num_classes is not None and label >= num_classes):
            highest = "up" if num_classes is None else f"to {num_classes - 1}"
            return f"its label is {label}, not one from 0 {highest}"
        if number not in (None, own_number) and has_checksum(record):
            return f"its number is {own_number}, in the index {number}"
        check(image)
    except (ValueError, ImageError) as error:
        return str(error)
    return None
