"""Pictures, drawn with matplotlib and written whole. Matplotlib takes a second to load: this module
is imported where something is drawn."""

import io
from itertools import cycle
from pathlib import Path
from typing import Mapping, Optional, Tuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter, MaxNLocator

from log import LogError
from log.curves import LEARNING_RATE, Run, best_accuracy, curve, points
from log.files import PathLike, write_whole

# Okabe and Ito's colours: the colour-blind can tell them apart and, in this order, so can readers
# of a print in grey.
_COLOURS = ("#0072B2", "#E69F00", "#000000", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")


def new_figure(inches: Tuple[float, float]) -> Figure:
    """Return an empty figure of (width, height) inches."""
    return Figure(figsize=inches, layout="constrained")


def write_figure(figure: Figure, path: PathLike, dpi: int) -> Path:
    """Write a figure to a file, in the format of its ending, or to PATH.png if it has none. Return
    the file's path.

    Raises LogError where the format is not known, OSError where the file can't be written.
    """
    path = Path(path)
    if not path.suffix:
        path = path.with_suffix(".png")
    content = io.BytesIO()
    try:
        figure.savefig(content, format=path.suffix[1:], dpi=dpi)
    except ValueError as error:
        raise LogError(f"{path}: {error}") from None
    write_whole(path, content.getvalue())
    return path


def without_tex(text: str) -> str:
    """Return a text that matplotlib draws as it is."""
    return text.replace("$", r"\$")


# Curves


def plot_curves(runs: Mapping[str, Run], path: PathLike) -> Path:
    """Draw runs, by their names, to a picture file. Return and raise as `write_figure` does."""
    panels = [("error", "top-1 error"), ("cross-entropy", "cross-entropy")]
    panels = [p for p in panels if any(curve(run, "Train", p[0]) for run in runs.values())]
    with_rate = any(LEARNING_RATE in run for run in runs.values())
    heights = [3] * len(panels) + [1] * with_rate
    figure = new_figure((7, 1 + sum(heights)))
    axes = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for axis, (metric, label) in zip(axes, panels):
        for colour, run in zip(cycle(_COLOURS), runs.values()):
            for part, style in (("Train", "--"), ("Validation", "-")):
                of_part = curve(run, part, metric)
                # Markers too if they are few: a line needs two points.
                marker = "." if len(of_part) < 40 else None
                axis.plot(*points(of_part), style, color=colour, marker=marker)
        _log_scale(axis, label, 2.5)
    if with_rate:
        for colour, run in zip(cycle(_COLOURS), runs.values()):
            rate = points(run.get(LEARNING_RATE, {}))
            axes[-1].plot(*rate, color=colour, drawstyle="steps-pre")
        _log_scale(axes[-1], "learning rate", 1.5)
    figure.align_ylabels(axes)
    for axis in axes:
        axis.grid(True, which="major", color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    _label(axes[0], runs)
    return write_figure(figure, path, dpi=120)


class _Plain(LogFormatter):
    def __call__(self, value: float, place: Optional[int] = None) -> str:
        return f"{value:g}" if super().__call__(value, place) else ""


def _log_scale(axis: Axes, label: str, most: float) -> None:
    """most : powers of ten that the axis may span to have labels between them too."""
    axis.set_yscale("log")
    axis.set_ylabel(label)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_formatter(_Plain(minor_thresholds=(most, 0.6)))


def _label(axis: Axes, runs: Mapping[str, Run]) -> None:
    """Write a legend and the best accuracies."""
    handles = [
        Line2D([], [], color="0.3", linestyle="--", label="training"),
        Line2D([], [], color="0.3", linestyle="-", label="validation"),
    ]
    best = {name: best_accuracy(run) for name, run in runs.items()}
    lines = [text for text in best.values() if text]
    if len(runs) > 1:
        handles += [
            Line2D([], [], color=colour, linewidth=4, label=without_tex(name))
            for colour, name in zip(cycle(_COLOURS), runs)
        ]
        lines = [f"{without_tex(name)}: {text}" for name, text in best.items() if text]
    axis.legend(handles=handles, frameon=False)
    axis.set_title("\n".join(lines), fontsize="medium", loc="left")
