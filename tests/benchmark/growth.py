"""How a step's time and memory grow with the batch and with the image, as a plot.

    python -m tests.benchmark.growth [--dtype float32] [--out log/growth.png]

This project, training and inference, reduced filters, each point a process of its own. Batches of
1 to 64 images of 224x224, and images of 96x96 to 320x320, 16 a batch.
"""

import argparse
import sys

from model.devices import has_bfloat16
from tests.benchmark.peers.environments import PeerError
from tests.benchmark.speed import Workload, measure, project, undisturbed

BATCHES = (1, 2, 4, 8, 16, 32, 64)
SIZES = (96, 128, 160, 192, 224, 256, 288, 320)

# Okabe and Ito's blue and orange, as in log.plot_curves; the markers tell them apart in grey.
STYLES = {
    "training": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "inference": {"color": "#E69F00", "marker": "s", "linestyle": "--"},
}


def plot(points: dict, title: str, out):
    """Draw `points`, (mode, batch, size) -> {"seconds", "peak_mb"}, to the picture file `out`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(
        2, 2, sharex="col", sharey="row", figsize=(9, 6), layout="constrained"
    )
    columns = (
        ("images a batch, 224x224", BATCHES, [(batch, 224) for batch in BATCHES]),
        ("height and width, 16 images a batch", SIZES, [(16, size) for size in SIZES]),
    )
    rows = (("seconds a step", "seconds"), ("peak memory, MB", "peak_mb"))
    for column, (label, places, keys) in enumerate(columns):
        for row, (name, figure_of) in enumerate(rows):
            axis = axes[row, column]
            for mode, style in STYLES.items():
                values = [points[(mode, *key)][figure_of] for key in keys]
                axis.plot(places, values, label=mode, **style)
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_xticks(places, [str(place) for place in places])
            axis.minorticks_off()
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.grid(True, which="major", color="0.9")
            axis.spines[["top", "right"]].set_visible(False)
            if column == 0:
                axis.set_ylabel(name)
        axes[1, column].set_xlabel(label)
    axes[0, 0].legend(frameon=False)
    figure.suptitle(title, fontsize="medium", x=0.01, ha="left")
    figure.savefig(out, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmark.growth", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seconds", type=float, default=2, help="of steps a point, at least")
    parser.add_argument(
        "--out", default="log/growth.png", metavar="FILE", help="picture (default: %(default)s)"
    )
    args = parser.parse_args()
    if args.dtype == "bfloat16" and not has_bfloat16():
        parser.exit(2, f"{parser.prog}: error: --dtype bfloat16: this CPU has none\n")
    import symbol_xception

    filters = {"reduced": symbol_xception.REDUCED_FILTERS}
    places = [(batch, 224) for batch in BATCHES] + [(16, size) for size in SIZES if size != 224]
    points = {}
    try:
        for mode in STYLES:
            for batch, size in places:
                work = Workload(mode, "reduced", size, batch)
                found = undisturbed(
                    lambda work=work: measure(project(args.dtype), work, filters, args.seconds)
                )
                points[mode, batch, size] = found
                print(
                    f"{work}: {1000 * found['seconds']:.0f} ms, {found['peak_mb']} MB", flush=True
                )
    except PeerError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    plot(points, f"A step of Xception, reduced filters, {args.dtype}", args.out)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
