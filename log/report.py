"""What a run reports while it trains, in plain values: to the files next to the text log, to
TensorBoard and to the terminal."""

import time
from pathlib import Path
from types import TracebackType
from typing import Callable, Iterable, Mapping, Optional, Protocol, Sequence, Tuple, Type

from log.files import PathLike
from log.metrics import Event, Line, MetricsFile

#: (name of MXNet's metric, value).
Figures = Iterable[Tuple[str, float]]

# A line's entry -> the name of MXNet's metric.
_FIGURES = {"loss": "cross-entropy", "top1": "accuracy", "top5": "top_k_accuracy_5"}


def file_next_to(log_file: PathLike, ending: str) -> Path:
    """Return the path of another file of the run whose text log is `log_file`."""
    log_file = Path(log_file)
    return log_file.with_name(f"{log_file.stem}-{ending}")


class Listener(Protocol):
    """A receiver of what a report is called with."""

    def batch(self, epoch: int, batch: int, lr: float, figures: Mapping[str, float]) -> None: ...

    def line(self, line: Line) -> None: ...

    def close(self) -> None: ...


class Report:
    """Is called by callbacks of the training; a context manager, which closes its files.

    metrics : where the lines go.
    batches : of an epoch. images : of a batch, over all workers.
    memory : returns the resident memory of this process, in bytes.
    others : what every batch and every line is passed on to.

    In every call `epoch` counts from 0, and `batch` is the number of batches of it that are done.
    """

    def __init__(
        self,
        metrics: MetricsFile,
        batches: int,
        images: int,
        memory: Callable[[], int],
        others: Sequence[Listener] = (),
    ):
        self._metrics = metrics
        self._batches = batches
        self._images = images
        self._memory = memory
        self._others = others
        self._epoch = _Clock()
        self._interval: Optional[_Clock] = None

    def __enter__(self) -> "Report":
        return self

    def __exit__(
        self,
        _type: Optional[Type[BaseException]],
        _error: Optional[BaseException],
        _traceback: Optional[TracebackType],
    ) -> None:
        self._metrics.close()
        for other in self._others:
            other.close()

    def batch(self, epoch: int, batch: int, lr: float, figures: Figures, due: bool) -> None:
        """A batch is done; `figures` since the last line. due : it is time for a line."""
        self._epoch.count += 1
        if self._interval is None or batch == 1:
            # As MXNet's Speedometer: without what comes before an epoch's first batch.
            self._interval = _Clock()
        else:
            self._interval.count += 1
        for other in self._others:
            other.batch(epoch, batch, lr, dict(figures))
        if due:
            self._line(Event.INTERVAL, epoch, batch, lr, figures, self._interval)
            self._interval = _Clock()

    def epoch(self, epoch: int, lr: float, figures: Figures) -> None:
        """All batches of an epoch are done; `figures` are over all of it."""
        self._line(Event.EPOCH, epoch, self._batches, lr, figures, self._epoch)
        self._epoch = _Clock()

    def validation(self, epoch: int, figures: Figures, images: int, seconds: float) -> None:
        """The network was scored on `images` images after that epoch."""
        clock = _Clock(images / self._images, seconds)
        self._line(Event.VALIDATION, epoch, self._batches, None, figures, clock)
        self._epoch = _Clock()

    def sync(self) -> None:
        """A checkpoint follows."""
        self._metrics.sync()

    def _line(
        self,
        event: Event,
        epoch: int,
        batch: int,
        lr: Optional[float],
        figures: Figures,
        clock: "_Clock",
    ) -> None:
        found = dict(figures)
        seconds = clock.seconds()
        line = Line(
            event=event,
            epoch=epoch,
            batch=batch,
            batches=self._batches,
            update=epoch * self._batches + batch,
            **{name: found.get(of_mxnet) for name, of_mxnet in _FIGURES.items()},
            lr=lr,
            images_s=round(clock.count * self._images / seconds, 2) if seconds else None,
            seconds=round(seconds, 3),
            memory_mb=self._memory() >> 20,
        )
        self._metrics.write(line)
        for other in self._others:
            other.line(line)


class NoReport(Report):
    """The report of a worker that leaves it to another one."""

    def __init__(self) -> None:
        pass

    def __exit__(
        self,
        _type: Optional[Type[BaseException]],
        _error: Optional[BaseException],
        _traceback: Optional[TracebackType],
    ) -> None:
        pass

    def batch(self, epoch: int, batch: int, lr: float, figures: Figures, due: bool) -> None:
        pass

    def epoch(self, epoch: int, lr: float, figures: Figures) -> None:
        pass

    def validation(self, epoch: int, figures: Figures, images: int, seconds: float) -> None:
        pass

    def sync(self) -> None:
        pass


class _Clock:
    """Batches, and the time that they took, since the clock was started."""

    def __init__(self, count: float = 0, seconds: Optional[float] = None):
        self.count = count
        self._seconds = seconds
        self._began = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._began if self._seconds is None else self._seconds
