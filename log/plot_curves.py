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
import shutil
import sys
import time
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from log import LogError
from log.command import OneLineParser, command, positive
from log.curves import LEARNING_RATE, Curve, Run, curve, find_log, points, read_run


def draw_text(runs: Mapping[str, Run], width: int, height: int) -> str:
    """Return the curves as text, in colours, for a terminal of `width` x `height` characters.
    Raises LogError if plotext is not installed."""
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
            curves: List[Tuple[str, Curve, str]]
            if metric is None:
                curves = [(f"{of_runs}rate", run.get(LEARNING_RATE, {}), "braille")]
            else:
                curves = [
                    (f"{of_runs}{text}", curve(run, part, metric), marker)
                    for part, text, marker in (
                        ("Train", "training", "braille"),
                        ("Validation", "validation", "sd"),
                    )
                ]
            for text, values, marker in curves:
                if values:
                    panel.plot(*points(values), label=text if metric else None, marker=marker)
    return str(plotext.build())


def show_live(names: Mapping[str, str], out: Optional[str], seconds: float) -> None:
    """Draw runs, name -> what `read_run` takes, again whenever their files have changed: to the
    picture `out` or, if it is None, in the terminal. Never returns. seconds : between two looks."""
    before: Optional[List[Tuple[int, int]]] = None
    while True:
        there = [os.stat(path) for path in map(find_log, names.values()) if Path(path).exists()]
        stamp = [(status.st_ino, status.st_size) for status in there]
        if stamp != before:
            before = stamp
            _show(names, out)
        time.sleep(seconds)


def _show(names: Mapping[str, str], out: Optional[str]) -> None:
    runs: Dict[str, Run] = {}
    waiting = []
    for name, run in names.items():
        try:
            runs[name] = read_run(run)
        except LogError as error:  # has not begun yet
            waiting.append(str(error))
    if runs and out:
        print(f"{time.strftime('%H:%M:%S')} {draw(runs, out)}", flush=True)
    elif runs:
        width, height = shutil.get_terminal_size()
        text = draw_text(runs, width, height - len(waiting) - 1)
        # To the top of a cleared screen.
        print(f"\033[2J\033[H{text}", *waiting, sep="\n", flush=True)
    else:
        print(*waiting, sep="\n", flush=True)


def draw(runs: Mapping[str, Run], out: str) -> Path:
    """Draw runs, by their names, to a picture file; return its path. Raises LogError, OSError."""
    from log.pictures import plot_curves  # matplotlib takes a second to load

    return plot_curves(runs, out)


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m log.plot_curves", description="Draw the training curves of runs."
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="text logs (log/x.log), metrics files (log/x-metrics.jsonl), or names of runs (log/x)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="picture to write; its ending chooses the format: .png, .svg, .pdf (default: "
        "RUN.png, or curves.png next to the first of several)",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="redraw while the runs continue, in the terminal or, with --out, to FILE, until "
        "Ctrl-C",
    )
    parser.add_argument(
        "--every",
        type=positive,
        default=2,
        metavar="S",
        help="seconds between two checks of --live",
    )
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    with command("log.plot_curves") as outcome:
        args = parse_arguments(argv)
        outcome.begun()
        stems = [_stem(run) for run in args.runs]
        names = {
            stem if stems.count(stem) == 1 else run: run for run, stem in zip(args.runs, stems)
        }
        if args.live:
            with contextlib.suppress(KeyboardInterrupt):
                show_live(names, args.out, args.every)
        else:
            first = Path(args.runs[0])
            name = stems[0] if len(names) == 1 else "curves"
            out = args.out or str(first.with_name(f"{name}.png"))
            print(draw({name: read_run(run) for name, run in names.items()}, out))
    return outcome.code


def _stem(run: str) -> str:
    path = Path(run)
    for ending in ("-metrics.jsonl", ".jsonl", ".log"):
        if path.name.endswith(ending) and path.name != ending:
            return path.name[: -len(ending)]
    return path.stem if path.is_file() else path.name


if __name__ == "__main__":
    sys.exit(main())
