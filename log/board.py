"""The figures of a run for TensorBoard, written with tensorboardX."""

from typing import Any, Mapping, Sequence

from log import LogError
from log.files import PathLike
from log.metrics import Event, Line

# There is a chart for each figure; training and validation are two curves of it.
_CURVES = {Event.INTERVAL: "training", Event.EPOCH: "epoch", Event.VALIDATION: "validation"}


def summary_writer() -> Any:
    """Return tensorboardX's SummaryWriter. Raises LogError if it is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise LogError(f"--tensorboard: {error}: pip install tensorboardX==2.6.2.2") from None
    return SummaryWriter


class Board:
    """Writes what log.report.Report passes on to event files in `folder`.

    kept : the lines up to where the run resumes. They are written again, and what earlier starts
    have left is hidden (`purge_step`): tensorboardX writes some time after it was called, so that a
    killed run has lost points before its last checkpoint, and has others beyond. Raises LogError.
    """

    def __init__(self, folder: PathLike, kept: Sequence[Line]):
        try:
            self._writer = summary_writer()(str(folder), purge_step=0, flush_secs=10)
        except OSError as error:
            raise LogError(f"{folder}: {error.strerror}") from None
        for line in kept:
            self.line(line)

    def batch(self, epoch: int, batch: int, lr: float, figures: Mapping[str, float]) -> None:
        pass

    def line(self, line: Line) -> None:
        curve = _CURVES[line.event]
        values = {f"{name}/{curve}": getattr(line, name) for name in ("loss", "top1", "top5")}
        if line.event is Event.INTERVAL:
            values.update(lr=line.lr, images_s=line.images_s, memory_mb=line.memory_mb)
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, line.update)

    def close(self) -> None:
        self._writer.close()
