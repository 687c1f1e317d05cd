"""Training curves from the text logs of runs.

    python -m log.plot_curves log/x.log [log/y.log ...] --out curves.png

Reads the logs of this project and, as they have the same lines, of the 2017 script. Where a line
stands twice, as after a resume, the last one counts.
"""

import argparse
import re
import sys
from pathlib import Path

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
            curve = run.get("Learning-rate", {})
            axes[-1].plot(*_xy(curve), color=colour, drawstyle="steps-mid")
        axes[-1].set_yscale("log")
        axes[-1].set_ylabel("learning rate")
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
    text = f"best validation accuracy {accuracy[epoch]:.4f}, after epoch {epoch}"
    return f"{name}: {text}" if several else text


def _cycle(colours):
    while True:
        yield from colours


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m log.plot_curves", description="Draw the training curves of runs."
    )
    parser.add_argument("logs", nargs="+", metavar="LOG", help="text logs")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="picture, by its ending PNG, SVG, PDF "
        "(default: LOG.png, or, of several, curves.png beside the first)",
    )
    args = parser.parse_args(argv)
    runs = {}
    stems = [Path(path).stem for path in args.logs]
    for path, stem in zip(args.logs, stems):
        name = stem if stems.count(stem) == 1 else path
        try:
            runs[name] = read_log(path)
        except OSError as error:
            return _failed(f"{path}: {error.strerror}")
        if not any(isinstance(key, tuple) for key in runs[name]):
            return _failed(f"{path}: no epoch has ended in it, or it is no training log")
    default = Path(args.logs[0]).with_suffix(".png")
    out = args.out or str(default if len(runs) == 1 else default.with_name("curves.png"))
    try:
        plot(runs, out)
    except (OSError, ValueError) as error:
        return _failed(f"{out}: {getattr(error, 'strerror', None) or error}")
    print(out)
    return 0


def _failed(message) -> int:
    print(f"log.plot_curves: error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
