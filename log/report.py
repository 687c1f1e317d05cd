"""What a run says while it trains: a trainer tells it here, in plain values, and it goes to the
files beside the text log, to TensorBoard and to the terminal."""

import time
from pathlib import Path
from typing import Callable, Optional

from log.metrics import MetricsFile

# The names of MXNet's metrics.
_FIGURES = {"loss": "cross-entropy", "top1": "accuracy", "top5": "top_k_accuracy_5"}


def beside(log_file, ending: str) -> Path:
    """Return the path of another file of the run whose text log is `log_file`."""
    log_file = Path(log_file)
    return log_file.with_name(f"{log_file.stem}-{ending}")


class Report:
    """Told by a trainer what has happened; a context manager, which closes its files.

    metrics : where the lines go (log.metrics).
    batches : of an epoch. images : of a batch, over all workers.
    memory : returns the memory of this process that is in RAM, bytes.
    others : what is told every line too, as `line(dict)`, or every batch, as
        `batch(epoch, batch, lr, figures)`, and closed.

    In every call `epoch` counts from 0, `batch` is the number of batches of it that are done, and
    `figures` are (name, value) of MXNet's metrics.
    """

    def __init__(
        self,
        metrics: MetricsFile,
        batches: int,
        images: int,
        memory: Callable,
        others: list = (),
    ):
        self._metrics = metrics
        self._batches = batches
        self._images = images
        self._memory = memory
        self._others = others
        self._epoch = _Clock()
        self._interval = None

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        for each in (self._metrics, *self._others):
            each.close()

    def batch(self, epoch: int, batch: int, lr: float, figures: list, due: bool):
        """A batch is done; `figures` since the last line. `due`: time for a line."""
        self._epoch.count += 1
        if self._interval is None or batch == 1:
            # As MXNet's Speedometer: without what comes before an epoch's first batch.
            self._interval = _Clock()
        else:
            self._interval.count += 1
        for other in self._others:
            other.batch(epoch, batch, lr, dict(figures))
        if due:
            self._line("interval", epoch, batch, lr, figures, self._interval)
            self._interval = _Clock()

    def epoch(self, epoch: int, lr: float, figures: list):
        """All batches of an epoch are done; `figures` are over all of it."""
        self._line("epoch", epoch, self._batches, lr, figures, self._epoch)
        self._epoch = _Clock()

    def validation(self, epoch: int, figures: list, images: int, seconds: float):
        """The network was scored after that epoch, on so many `images`."""
        clock = _Clock(images / self._images, seconds)
        self._line("validation", epoch, self._batches, None, figures, clock)
        self._epoch = _Clock()

    def sync(self):
        """A checkpoint follows."""
        self._metrics.sync()

    def _line(self, event, epoch, batch, lr, figures, clock):
        figures = dict(figures)
        seconds = clock.seconds()
        line = {
            "event": event,
            "epoch": epoch,
            "batch": batch,
            "batches": self._batches,
            "update": epoch * self._batches + batch,
            **{name: figures.get(of_mxnet) for name, of_mxnet in _FIGURES.items()},
            "lr": lr,
            "images_s": round(clock.count * self._images / seconds, 2) if seconds else None,
            "seconds": round(seconds, 3),
            "memory_mb": self._memory() >> 20,
        }
        self._metrics.write(line)
        for other in self._others:
            other.line(line)


class _Clock:
    """Batches, and the time that they took, since it was made."""

    def __init__(self, count: float = 0, seconds: Optional[float] = None):
        self.count = count
        self._seconds = seconds
        self._began = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._began if self._seconds is None else self._seconds
