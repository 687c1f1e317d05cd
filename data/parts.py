"""The order in which several readers go through an epoch's records.

The records of a worker are cut into parts of equal bytes. The parts of an epoch are put in a random
order; each reader takes the next one, reads it to its end, and takes another. Every batch has
images of all readers:

    part     3   7   0   5          batch 0   3 7 0 5
    then     6   1   4   2          batch 1   3 7 0 5 ...
"""

import itertools
import math
from dataclasses import dataclass
from typing import Iterator, List, Sequence

import numpy as np

from data.formats.recordset import Records

#: What ImageRecordIter reads at a time, shuffles within and decodes at once (as measured).
SHUFFLED_BYTES = 1 << 23
#: The least that a reader is worth having for.
READER_BYTES = 1 << 25
#: The size of a part, if there is more than one for each reader. To open one takes a core 0.1 s, to
#: decode it 10 s or more; a run that is resumed decodes half a part of each reader again.
PART_BYTES = 1 << 28


def readers_of(size: int, workers: int, readers: int) -> int:
    """Return how many readers a worker has of the `readers` that are wanted: not more than one for
    each 32 MB of its records. size : of all records, in bytes."""
    return max(1, min(readers, size // workers // READER_BYTES))


def parts_of(size: int, workers: int, readers: int) -> int:
    """Return into how many parts a worker's records are cut: one reader reads them as a whole."""
    return max(readers, math.ceil(size / workers / PART_BYTES)) if readers > 1 else 1


def images_ahead(records: Records, workers: int, readers: int, batch_size: int) -> int:
    """Return how many decoded images a worker's readers hold. As measured, each has two times what
    it shuffles at once, and three batches."""
    readers = readers_of(records.size, workers, readers)
    held = min(records.size // workers, readers * 2 * SHUFFLED_BYTES)
    return held * records.num_images // records.size + readers * 3 * batch_size


def bytes_ahead(
    sets: Sequence[Records],
    image_shape: Sequence[int],
    workers: int,
    readers: int,
    batch_size: int,
) -> int:
    """Return the bytes of the decoded images that the readers of all `sets` hold."""
    floats = math.prod(image_shape)
    return sum(4 * floats * images_ahead(each, workers, readers, batch_size) for each in sets)


def part_of_records(records: Records, num_parts: int) -> np.ndarray:
    """Return the part that each record is in, (N,), where ImageRecordIter reads `num_parts`.

    dmlc-core's InputSplitBase::ResetPartition: equal numbers of bytes, each part from the first
    record that begins in it.
    """
    share = -(-records.size // num_parts)
    share += -share % 4
    return records.offsets // share


@dataclass(frozen=True)
class Take:
    """Images of a batch that come from one part: `count`, after the first `start`."""

    part: int
    start: int
    count: int


class Takes:
    """The takes of an epoch's batches, the last one possibly short. Iterable any number of times.

    order : the parts, in the order in which they are begun. sizes : images of each part, by its
    number.
    """

    def __init__(
        self, order: Sequence[int], sizes: Sequence[int], readers: int, batch_size: int
    ) -> None:
        self._order = [part for part in order if sizes[part]]
        self._sizes = sizes
        self.readers = readers
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[List[Take]]:
        waiting = iter(self._order)
        reading = [_Open(part) for part in itertools.islice(waiting, self.readers)]
        while reading:
            takes: List[Take] = []
            missing = self._batch_size
            while missing and reading:
                share = math.ceil(missing / len(reading))
                for each in list(reading):
                    count = min(share, missing, self._sizes[each.part] - each.start)
                    if count:
                        takes.append(Take(each.part, each.start, count))
                    missing -= count
                    each.start += count
                    if each.start == self._sizes[each.part]:
                        reading.remove(each)
                        reading.extend(_Open(part) for part in itertools.islice(waiting, 1))
            yield takes


@dataclass
class _Open:
    """A part that is being read, and how many of its images were taken."""

    part: int
    start: int = 0
