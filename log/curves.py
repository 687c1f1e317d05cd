"""The curves of runs, read from their files."""

import re
from pathlib import Path
from typing import Dict, List, Tuple, Union

from log import LogError
from log.files import TEXT_LIMIT, PathLike, read_file
from log.metrics import Event, read_metrics

#: Epochs that are done, with fractions where a file has points within epochs -> value.
Curve = Dict[float, float]
#: ("Train" or "Validation", name of MXNet's metric), or "Learning-rate" -> curve.
Run = Dict[Union[Tuple[str, str], str], Curve]

LEARNING_RATE = "Learning-rate"

_NUMBER = r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
_EPOCH = re.compile(rf"Epoch\[(\d{{1,9}})\] (Train|Validation)-([\w-]+)={_NUMBER}")
_RATE = re.compile(rf"Epoch\[(\d{{1,9}})\] Learning-rate={_NUMBER}")


def read_log(path: PathLike) -> Run:
    """Return the curves of a text log. Where a line occurs twice, as after a resume, the last one
    counts. Raises LogError."""
    run: Run = {}
    content = read_file(path, LogError, TEXT_LIMIT, "a text log").decode(errors="replace")
    for line in content.splitlines():
        if match := _EPOCH.search(line):
            epoch, part, metric, value = match.groups()
            run.setdefault((part, metric), {})[int(epoch) + 1] = float(value)
        elif match := _RATE.search(line):
            run.setdefault(LEARNING_RATE, {})[int(match[1]) + 1] = float(match[2])
    return run


def read_figures(path: PathLike) -> Run:
    """Return the curves of a file of log.metrics. Raises LogError.

    Those of training, and the learning rate, have a point for each interval: the average over it.
    """
    run: Run = {}
    lines = read_metrics(path)
    # If no epoch is long enough for an interval, there are the epochs' averages.
    with_intervals = any(line.event is Event.INTERVAL for line in lines)
    event = Event.INTERVAL if with_intervals else Event.EPOCH
    for line in lines:
        if line.event not in (event, Event.VALIDATION):
            continue
        part = "Validation" if line.event is Event.VALIDATION else "Train"
        for metric, value in (("accuracy", line.top1), ("cross-entropy", line.loss)):
            if value is not None:
                run.setdefault((part, metric), {})[line.place] = value
        if line.lr is not None:
            run.setdefault(LEARNING_RATE, {})[line.place] = line.lr
    return run


def find_log(run: str) -> str:
    """Return the file that `run` names: itself, or else RUN-metrics.jsonl or RUN.log."""
    found = [path for path in (run, f"{run}-metrics.jsonl", f"{run}.log") if Path(path).is_file()]
    return found[0] if found else run


def read_run(run: PathLike) -> Run:
    """Return the curves of a run. Raises LogError if there are none."""
    path = find_log(str(run))
    curves = read_figures(path) if path.endswith(".jsonl") else read_log(path)
    if not any(isinstance(key, tuple) for key in curves):
        raise LogError(f"{path}: no finished epoch in it, or not a training log")
    return curves


def curve(run: Run, part: str, metric: str) -> Curve:
    """Return a curve of a run, empty if there is none. metric : "error" for 1 - accuracy."""
    if metric == "error":
        accuracy = run.get((part, "accuracy"), {})
        return {epoch: 1 - value for epoch, value in accuracy.items()}
    return run.get((part, metric), {})


def points(curve: Curve) -> Tuple[List[float], List[float]]:
    """Return (epochs, values) in order."""
    epochs = sorted(curve)
    return epochs, [curve[epoch] for epoch in epochs]


def best_accuracy(run: Run) -> str:
    """Return the best validation accuracy in words, an empty text if there is none."""
    accuracy = run.get(("Validation", "accuracy"))
    if not accuracy:
        return ""
    epoch, value = max(accuracy.items(), key=lambda point: point[1])
    return f"best validation accuracy {value:.4f}, after epoch {epoch:g}"
