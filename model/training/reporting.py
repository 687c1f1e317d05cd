"""Where the figures of a run go: the files next to its text log, the terminal, TensorBoard."""

import shlex
import sys
from pathlib import Path
from typing import Any, List

from log.board import Board
from log.config import write_start
from log.metrics import MetricsFile
from log.progress import Progress
from log.report import NoReport, Report, file_next_to
from model.training.memory import resident
from model.training.run import Run


def command_line() -> str:
    """Return the command that started this process, as a shell would read it."""
    return " ".join(map(shlex.quote, sys.argv))


def open_report(run: Run) -> Report:
    """Return the report of a run, a context manager; it is empty for a worker that leaves it to
    another one. Raises LogError if a file can't be written."""
    if not run.checkpoints:
        return NoReport()
    log_file = _log_file(run)
    metrics = _metrics_file(run, file_next_to(log_file, "metrics.jsonl"))
    place, plan = run.start.place, run.plan
    write_start(
        file_next_to(log_file, "config.json"),
        anew=not run.start.generation,
        command=command_line(),
        epoch=place.epoch,
        batch=place.batch,
        arguments=plan.arguments,
        settings=run.settings,
    )
    images = plan.training.batch_size * run.settings["workers"]
    others: List[Any] = []
    if sys.stdout.isatty() and not plan.output.quiet:
        others.append(Progress(plan.training.num_epochs, run.batches, images))
    if plan.output.tensorboard is not None:
        folder = plan.output.tensorboard or Path(log_file.parent, "tensorboard", log_file.stem)
        others.append(Board(folder, metrics.kept))
    return Report(metrics, run.batches, images, resident, others)


def _log_file(run: Run) -> Path:
    """Return the text log that other files can be put next to. Next to one that is not a file, such
    as /dev/null, none can be."""
    log_file = Path(run.log_file)
    if log_file.is_file() or not run.checkpoints:
        return log_file
    return Path("log", f"{run.checkpoints.prefix.name}.log")


def _metrics_file(run: Run, path: Path) -> MetricsFile:
    """Open the figures of the run, with those up to where it resumes."""
    place, batches, validated = run.start.place, run.batches, False
    if run.start.generation:
        place, saved = run.start.generation.place, run.start.generation.run
        batches, validated = saved.get("batches", batches), bool(saved["validation"])
    return MetricsFile(path, place.epoch, place.batch, batches, validated=validated)
