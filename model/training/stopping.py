"""What stops a run before its end, in all its workers at the same place: a signal, or a record that
one of them can't read."""

import contextlib
import itertools
import logging
import os
import signal
from types import FrameType
from typing import Iterator, NoReturn, Optional

import mxnet as mx

from model import Interrupted
from model.checkpoint import Place
from model.job.cluster import Cluster

_log = logging.getLogger()

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# The status of a worker that can't read its next batch. That of others is a signal's number, or 0.
_UNREADABLE = -2


class Stopping:
    """Agrees with the other workers on when to stop, and says so.

    signal : number of the signal by which all workers are known to stop, 0 for none.
    unreadable : whether one of them, at the last `agree`, could not read on.
    """

    def __init__(self, cluster: Cluster):
        self._cluster = cluster
        self._received = 0  # by this worker alone
        self.signal = 0
        self.unreadable = False

    @contextlib.contextmanager
    def handling_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM stop the run at its next place; a second one ends the process."""
        handlers = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: Optional[FrameType]) -> None:
        if self._received:
            os._exit(128 + number)
        self._received = number

    def agree(self, reached: object, error: Optional[Exception] = None) -> bool:
        """Exchange with the other workers how it is there; all call it at the same places.

        reached : the place, for messages. error : why this worker can't read on.
        Return whether to stop, and set `signal` and `unreadable`.
        """
        statuses = self._cluster.exchange(_UNREADABLE if error else self._received, str(reached))
        self.signal = self.signal or max(0, *statuses)
        self.unreadable = _UNREADABLE in statuses
        return self.unreadable or self.signal > 0

    def interrupted(self, place: Place) -> Interrupted:
        """Log that a signal stops the run at `place`; return what is to be raised."""
        self._log_stop(f"by {signal.Signals(self.signal).name} ", place)
        return Interrupted(self.signal)

    def raise_unreadable(
        self, error: Optional[Exception], place: Optional[Place] = None
    ) -> NoReturn:
        """Raise this worker's `error` or, if that is None, a JobError with another worker's.

        place : where that stops training, for the log; None within a validation.
        """
        if place:
            self._log_stop("", place)
        if not error:
            self._cluster.exchange(0)  # raises the JobError that the other worker sends
            raise AssertionError("the worker that can't read on has said nothing")
        raise error

    def _log_stop(self, by: str, place: Place) -> None:
        _log.info(
            "stopped %sat %s; the same command with --retrain, and without --lr and "
            "--model-load-epoch, resumes", by, place,
        )  # fmt: skip


class ReadableBatches:
    """The batches of `images` for Module.fit, up to the first that can't be read.

    There the epoch ends early, and `error` keeps the reason. `Callbacks.after_batch` of the batch
    before it saves a checkpoint and raises the error.

    images : a DataIter with the attributes `epoch` and `number` of its next batch
        (data.iterators.EpochIter).
    """

    def __init__(self, images: mx.io.DataIter, stopping: Stopping):
        self.error: Optional[Exception] = None
        self._images = images
        self._stopping = stopping
        self.provide_data, self.provide_label = images.provide_data, images.provide_label

    def __iter__(self) -> Iterator[mx.io.DataBatch]:
        place = Place(self._images.epoch, self._images.number)
        batches = self._batches()
        first = next(batches, None)
        # A worker that can't even read its first batch tells the others, which would wait for it.
        self._stopping.agree(f"{place}'s last batch", self.error)
        if self._stopping.unreadable or first is None:
            return iter(())
        return itertools.chain([first], batches)

    def _batches(self) -> Iterator[mx.io.DataBatch]:
        while not self.error:
            try:
                batch = self._images.next()
            except StopIteration:
                return
            except Exception as error:
                self.error = error
                return
            yield batch

    def reset(self) -> None:
        self._images.reset()
