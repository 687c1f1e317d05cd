"""The figures of a run for TensorBoard, written with tensorboardX."""

from log import LogError

# A chart for each; training and validation are curves of one.
_CURVES = {"interval": "training", "epoch": "epoch", "validation": "validation"}


def summary_writer():
    """Return tensorboardX's SummaryWriter. Raises LogError where it is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise LogError(f"--tensorboard: {error}: pip install tensorboardX==2.6.2.2") from None
    return SummaryWriter


class Board:
    """Told by log.report.Report what happens; event files in `folder`.

    kept : the lines up to where the run goes on. They are written again, and what earlier starts
    have left is hidden (`purge_step`): tensorboardX writes some time after it was told, so that a
    killed run has lost points before its last checkpoint, and has others beyond. Raises LogError.
    """

    def __init__(self, folder, kept: list):
        try:
            self._writer = summary_writer()(str(folder), purge_step=0, flush_secs=10)
        except OSError as error:
            raise LogError(f"{folder}: {error.strerror}") from None
        for line in kept:
            self.line(line)

    def batch(self, *_):
        pass

    def line(self, line: dict):
        curve = _CURVES[line["event"]]
        for name in ("loss", "top1", "top5"):
            if line[name] is not None:
                self._writer.add_scalar(f"{name}/{curve}", line[name], line["update"])
        if line["event"] == "interval":
            for name in ("lr", "images_s", "memory_mb"):
                self._writer.add_scalar(name, line[name], line["update"])

    def close(self):
        self._writer.close()
