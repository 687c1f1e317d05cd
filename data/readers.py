"""MXNet's ImageRecordIter: one that reads a part of the records, and several side by side.

An ImageRecordIter decodes with at most half of the cores, however many threads it is given, and two
decode in parallel. FirstToLast has one for an epoch, SideBySide one for each of some parts.
Both give an epoch's batches; `next` raises Unreadable where a record can't be decoded.
"""

import ctypes
import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import Any, Deque, Dict, Iterator, List, Sequence, Tuple

import mxnet as mx

from data.parts import Take, Takes

#: How many batches before it is needed a part is opened.
_AHEAD = 4


class Unreadable(Exception):
    """ImageRecordIter's own error. part, num_parts : what it was reading. delivered : how many
    images it had given before."""

    def __init__(self, error: Exception, args: Dict[str, Any], delivered: int) -> None:
        super().__init__(str(error))
        self.part = args.get("part_index", 0)
        self.num_parts = args.get("num_parts", 1)
        self.delivered = delivered


class FirstToLast:
    """The batches of one ImageRecordIter; the last one is filled up with its first images.

    args : of ImageRecordIter. Raises StopIteration where the part has no record.
    """

    def __init__(self, args: Dict[str, Any]) -> None:
        self._args = args
        self._delivered = 0
        self._error: Any = None
        self._records: Any = None
        try:
            self._records = record_iter(args)
        except mx.base.MXNetError as error:
            # MXNet reads ahead: now and then it is here that it tells of a later batch.
            self._error = error

    def next(self) -> mx.io.DataBatch:
        try:
            if self._error:
                raise self._error
            batch = self._records.next()
        except mx.base.MXNetError as error:
            raise Unreadable(error, self._args, self._delivered) from None
        self._delivered += self._args["batch_size"]
        return batch

    def abandon(self) -> None:
        """Never free the iterator: MXNet ends the process when it frees one whose reading thread
        has reached the end of a truncated file."""
        if self._records is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._records))


def record_iter(args: Dict[str, Any]) -> mx.io.MXDataIter:
    """Return an ImageRecordIter, made by a thread that ends.

    It starts an OpenMP team in the thread that makes it, to count the cores, and never uses it
    again. With OMP_WAIT_POLICY=active that team would spin for as long as its thread lives.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(mx.io.ImageRecordIter, **args).result()


class SideBySide:
    """The batches of an epoch from several parts at a time, from batch `number` on.

    args : of ImageRecordIter, for whole batches. sizes, seeds : images and seed of each part. A
    short last batch is filled up with images of the batch before it; if it is the only one, with
    its own. A batch is valid until the next one is asked for, as ImageRecordIter's are.
    """

    def __init__(
        self,
        args: Dict[str, Any],
        takes: Takes,
        sizes: Sequence[int],
        seeds: Sequence[int],
        number: int = 0,
    ) -> None:
        self._sizes, self._seeds = sizes, seeds
        size, gpu = args["batch_size"], args.get("device_id", -1)
        self._args = {
            **args,
            "batch_size": math.ceil(size / takes.readers),
            "preprocess_threads": math.ceil(args.get("preprocess_threads", 4) / takes.readers),
            "device_id": -1,
        }
        context = mx.cpu() if gpu < 0 else mx.cpu_pinned(gpu)
        self._images = mx.nd.empty((size, *args["data_shape"]), context)
        self._labels = mx.nd.empty((size,), context)
        self._open: Dict[int, Future[_Part]] = {}
        self._threads = ThreadPoolExecutor(takes.readers)
        # The batch before the first one is what that may be filled up with.
        self._number = max(number - 1, 0)
        self._coming = islice(takes, self._number, None)
        self._next: Deque[List[Take]] = deque(islice(self._coming, 1 + _AHEAD))
        for batch in self._next:
            self._open_parts(batch)
        if number:
            self.next()

    def next(self) -> mx.io.DataBatch:
        if not self._next:
            raise StopIteration
        takes = self._next.popleft()
        for batch in islice(self._coming, 1):
            self._open_parts(batch)
            self._next.append(batch)
        filled = 0
        for take in takes:
            for images, labels in self._taken(take):
                filled = self._append(filled, images, labels)
        pad = len(self._labels) - filled
        while self._number == 0 and filled < len(self._labels):
            most = min(filled, len(self._labels) - filled)
            filled = self._append(filled, self._images[:most], self._labels[:most])
        self._number += 1
        return mx.io.DataBatch([self._images], [self._labels], pad=pad)

    def _append(self, filled: int, images: mx.nd.NDArray, labels: mx.nd.NDArray) -> int:
        end = filled + len(labels)
        images.copyto(self._images[filled:end])
        labels.copyto(self._labels[filled:end])
        return end

    def _open_parts(self, batch: List[Take]) -> None:
        """Begin to open the parts that this batch is the first to need."""
        for take in batch:
            part = take.part
            if part not in self._open:
                seed = self._seeds[part]
                args = {**self._args, "part_index": part, "seed": seed, "seed_aug": seed}
                size = self._sizes[part]
                self._open[part] = self._threads.submit(_Part, args, size, take.start)

    def _taken(self, take: Take) -> Iterator[Tuple[mx.nd.NDArray, mx.nd.NDArray]]:
        part = self._open[take.part].result()
        yield from part.take(take.count)
        if take.start + take.count == self._sizes[take.part]:
            part.close()
            del self._open[take.part]

    def abandon(self) -> None:
        for part in self._open.values():
            with suppress(Unreadable):
                part.result().abandon()


class _Part:
    """The images of a part, in turn, from the image `start` on."""

    def __init__(self, args: Dict[str, Any], size: int, start: int) -> None:
        self._reader = FirstToLast({**args, "batch_size": min(args["batch_size"], size)})
        self._images = self._labels = mx.nd.empty((0,))
        for _ in self.take(start):
            pass

    def take(self, count: int) -> Iterator[Tuple[mx.nd.NDArray, mx.nd.NDArray]]:
        """Give the next `count` images and their labels, in pieces: views, valid until the next
        piece."""
        while count:
            if not len(self._labels):
                batch = self._reader.next()
                (self._images,), (self._labels,) = batch.data, batch.label
            piece = min(count, len(self._labels))
            yield self._images[:piece], self._labels[:piece]
            self._images, self._labels = self._images[piece:], self._labels[piece:]
            count -= piece

    def close(self) -> None:
        """After its last image. MXNet keeps the memory of an iterator that was not read to its
        end."""
        with suppress(StopIteration):
            self._reader.next()

    def abandon(self) -> None:
        self._reader.abandon()
