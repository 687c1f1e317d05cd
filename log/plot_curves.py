"""Training curves of runs.

    python -m log.plot_curves log/x [log/y.log ...] --out curves.png
    python -m log.plot_curves log/x --live

A run is given by its file of figures, log/x-metrics.jsonl, which has points within the epochs too;
by its text log, log/x.log, of this project or, as they have the same lines, of the 2017 script; or
by the name alone, log/x, for the first of these that there is. Where a line of a text log stands
twice, as after a resume, the last one counts.
"""

import argparse
import contextlib
import os
import re
import shutil
import sys
import time
from pathlib import Path

from log import LogError
from log.metrics import read_metrics

_EPOCH = re.compile(r"Epoch\[(\d+)\] (Train|Validation)-([\w-]+)=(-?[\d.]+(?:e[+-]?\d+)?)")
_RATE = re.compile(r"Epoch\[(\d+)\] Learning-rate=([\d.]+(?:e[+-]?\d+)?)")

# Okabe and Ito's colours, told apart by the colour-blind and, in this order, in grey.
_COLOURS = ("#0072B2", "#E69F00", "#000000", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")


def read_log(path) -> dict:
    """Return the figures of a log: ("Train" or "Validation", metric name) -> {epoch: value}, and
    "Learning-rate" -> {epoch: value}. Epochs count from 1: value after that many."""
    figures = {}
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if match := _EPOCH.search(line):
                epoch, part, metric, value = match.groups()
                figures.setdefault((part, metric), {})[int(epoch) + 1] = float(value)
            elif match := _RATE.search(line):
                figures.setdefault("Learning-rate", {})[int(match[1]) + 1] = float(match[2])
    return figures


def read_figures(path) -> dict:
    """Return the figures of a file of log.metrics, as `read_log` does, the epochs with fractions:
    those of training, and the learning rate, are of the parts of an epoch up to there."""
    figures = {}
    parts = {"interval": "Train", "epoch": "Train", "validation": "Validation"}
    lines = read_metrics(path)
    # Where no epoch is long enough for an interval, there are the epochs' averages.
    event = "interval" if any(line["event"] == "interval" for line in lines) else "epoch"
    for line in lines:
        if line["event"] not in (event, "validation"):
            continue
        place = line["epoch"] + line["batch"] / line["batches"]
        for name, metric in (("top1", "accuracy"), ("loss", "cross-entropy")):
            if line[name] is not None:
                figures.setdefault((parts[line["event"]], metric), {})[place] = line[name]
        if line["lr"] is not None:
            figures.setdefault("Learning-rate", {})[place] = line["lr"]
    return figures


def find_log(run) -> str:
    """Return the file that `run` names: itself, or else RUN-metrics.jsonl or RUN.log."""
    found = [path for path in (run, f"{run}-metrics.jsonl", f"{run}.log") if Path(path).is_file()]
    return str(found[0] if found else run)


def read_run(run) -> dict:
    """Return the figures of a run. Raises LogError where there are none."""
    path = find_log(run)
    try:
        figures = read_figures(path) if path.endswith(".jsonl") else read_log(path)
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}") from None
    if not any(isinstance(key, tuple) for key in figures):
        raise LogError(f"{path}: no epoch has ended in it, or it is no training log")
    return figures


def plot(runs: dict, out):
    """Draw `runs`, name -> figures of `read_log`, to the picture file `out`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogFormatter, MaxNLocator

    class Plain(LogFormatter):
        def __call__(self, value, place=None):
            return f"{value:g}" if super().__call__(value, place) else ""

    panels = [("error", "top-1 error"), ("cross-entropy", "cross-entropy")]
    panels = [p for p in panels if any(_curve(run, "Train", p[0]) for run in runs.values())]
    with_rate = any("Learning-rate" in run for run in runs.values())
    heights = [3] * len(panels) + [1] * with_rate
    figure, axes = plt.subplots(
        len(heights),
        1,
        sharex=True,
        squeeze=False,
        figsize=(7, 1 + sum(heights)),
        gridspec_kw={"height_ratios": heights},
        layout="constrained",
    )
    axes = list(axes[:, 0])
    for axis, (metric, label) in zip(axes, panels):
        for colour, run in zip(_cycle(_COLOURS), runs.values()):
            for part, style in (("Train", "--"), ("Validation", "-")):
                curve = _curve(run, part, metric)
                # A point of its own is a marker: a line needs two.
                axis.plot(*_xy(curve), style, color=colour, marker="." if len(curve) < 40 else None)
        axis.set_yscale("log")
        axis.set_ylabel(label)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        # Between the powers of ten where the axis spans few of them.
        axis.yaxis.set_minor_formatter(Plain(minor_thresholds=(1.5, 0.6)))
    if with_rate:
        for colour, run in zip(_cycle(_COLOURS), runs.values()):
            axes[-1].plot(*_xy(run.get("Learning-rate", {})), color=colour, drawstyle="steps-pre")
        axes[-1].set_yscale("log")
        axes[-1].set_ylabel("learning rate")
        axes[-1].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes[-1].yaxis.set_minor_formatter(Plain(minor_thresholds=(1.5, 0.6)))
    figure.align_ylabels(axes)
    for axis in axes:
        axis.grid(True, which="major", color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [
        Line2D([], [], color="0.3", linestyle="--", label="training"),
        Line2D([], [], color="0.3", linestyle="-", label="validation"),
    ]
    if len(runs) > 1:
        handles += [
            Line2D([], [], color=colour, linewidth=4, label=name)
            for colour, name in zip(_cycle(_COLOURS), runs)
        ]
    axes[0].legend(handles=handles, frameon=False)
    best = [_best(name, run, len(runs) > 1) for name, run in runs.items()]
    axes[0].set_title("\n".join(filter(None, best)), fontsize="medium", loc="left")
    figure.savefig(out, dpi=120)
    plt.close(figure)


def _curve(run, part, metric):
    if metric == "error":
        accuracy = run.get((part, "accuracy"), {})
        return {epoch: 1 - value for epoch, value in accuracy.items()}
    return run.get((part, metric), {})


def _xy(curve):
    epochs = sorted(curve)
    return epochs, [curve[epoch] for epoch in epochs]


def _best(name, run, several):
    accuracy = run.get(("Validation", "accuracy"))
    if not accuracy:
        return ""
    epoch = max(accuracy, key=accuracy.get)
    text = f"best validation accuracy {accuracy[epoch]:.4f}, after epoch {epoch:g}"
    return f"{name}: {text}" if several else text


def _cycle(colours):
    while True:
        yield from colours


def draw_text(runs: dict, width: int, height: int) -> str:
    """Return the curves of `plot` as text, in colours, for a terminal of `width` x `height`.
    Raises LogError where plotext is not installed."""
    try:
        import plotext
    except ImportError as error:
        raise LogError(f"--live: {error}: pip install plotext==5.3.2, or --out FILE") from None
    panels = [("top-1 error", "error"), ("cross-entropy", "cross-entropy"), ("learning rate", None)]
    plotext.clear_figure()
    plotext.limit_size(False, False)  # not to what plotext takes for the terminal
    plotext.plot_size(width, height)
    plotext.subplots(len(panels), 1)
    for row, (label, metric) in enumerate(panels, start=1):
        panel = plotext.subplot(row, 1)
        panel.theme("clear")
        panel.plotsize(width, height // len(panels))
        panel.title(label)
        for name, run in runs.items():
            of_runs = f"{name}, " if len(runs) > 1 else ""
            if metric is None:
                curves = [(f"{of_runs}rate", run.get("Learning-rate"), "braille")]
            else:
                curves = [
                    (f"{of_runs}{text}", _curve(run, part, metric), marker)
                    for part, text, marker in (
                        ("Train", "training", "braille"),
                        ("Validation", "validation", "sd"),
                    )
                ]
            for text, curve, marker in curves:
                if curve:
                    panel.plot(*_xy(curve), label=text if metric else None, marker=marker)
    return plotext.build()


def show_live(names: dict, out, seconds: float):
    """Draw the runs `names`, name -> run, again whenever their files have changed, in the terminal
    or, if given, to the picture `out`, until Ctrl-C. `seconds` : between two looks."""
    before = None
    while True:
        stamp = [os.stat(f) for f in map(find_log, names.values()) if Path(f).exists()]
        stamp = [(status.st_ino, status.st_size) for status in stamp]
        if stamp != before:
            before = stamp
            runs, waiting = {}, []
            for name, run in names.items():
                try:
                    runs[name] = read_run(run)
                except LogError as error:  # has not begun yet
                    waiting.append(str(error))
            if runs and out:
                _replace(runs, out)
                print(f"{time.strftime('%H:%M:%S')} {out}", flush=True)
            elif runs:
                width, height = shutil.get_terminal_size()
                text = draw_text(runs, width, height - len(waiting) - 1)
                # To the top of a cleared screen.
                print(f"\033[2J\033[H{text}", *waiting, sep="\n", flush=True)
            else:
                print(*waiting, sep="\n", flush=True)
        time.sleep(seconds)


def _replace(runs, out):
    """Draw to `out` so that whoever looks at it never finds half a picture."""
    part = Path(out).with_name(f".{Path(out).name}")
    part = part.with_suffix(Path(out).suffix)
    plot(runs, part)
    os.replace(part, out)


def parse_arguments(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m log.plot_curves", description="Draw the training curves of runs."
    )
    # One line, as all commands here say it.
    parser.error = lambda text: parser.exit(2, f"{parser.prog}: error: {text}\n")
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="text logs, files of figures (-metrics.jsonl), or names of runs, as log/x",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="picture, by its ending PNG, SVG, PDF "
        "(default: RUN.png, or, of several, curves.png beside the first)",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="draw again as the runs go on, in the terminal or, with --out, to FILE; Ctrl-C ends",
    )
    parser.add_argument(
        "--every", type=float, default=2, metavar="S", help="seconds between two looks of --live"
    )
    args = parser.parse_args(argv)
    if not args.every > 0:
        parser.error(f"--every: must be a number above 0, not {args.every}")
    return args


def main(argv=None) -> int:
    args = parse_arguments(argv)
    stems = [_stem(run) for run in args.runs]
    names = {stem if stems.count(stem) == 1 else run: run for run, stem in zip(args.runs, stems)}
    first = Path(args.runs[0])
    out = args.out
    try:
        if args.live:
            with contextlib.suppress(KeyboardInterrupt):
                show_live(names, out, args.every)
            return 0
        runs = {name: read_run(run) for name, run in names.items()}
        out = out or str(first.with_name(f"{stems[0] if len(runs) == 1 else 'curves'}.png"))
        plot(runs, out)
    except LogError as error:
        return _failed(error)
    except (OSError, ValueError) as error:
        return _failed(f"{out}: {getattr(error, 'strerror', None) or error}")
    print(out)
    return 0


def _stem(run) -> str:
    path = Path(run)
    for ending in ("-metrics.jsonl", ".jsonl", ".log"):
        if path.name.endswith(ending) and path.name != ending:
            return path.name[: -len(ending)]
    return path.stem if path.is_file() else path.name


def _failed(message) -> int:
    print(f"log.plot_curves: error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
