"""What fine-tuning gains: the digits 5 to 9, from a network trained on 0 to 4 and from scratch.

    python -m tests.benchmark.finetune [--seeds 3] [--epochs 4] [--out log/finetune.png]

Both with as many steps, the same seeds, and each at the learning rate, of `RATES`, that suits it
best; the curves are means over the seeds.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from data.digits.source import digits
from data.packing.writer import encode_png, write_records
from log.curves import read_log
from log.pictures import plot_curves

ROOT = Path(__file__).parent.parent.parent
RATES = (0.1, 0.03, 0.01)


def write_digits(folder: Path, labels: range):
    """Write the records of some of the digits, labelled from 0."""
    for name, images in digits().items():
        chosen = [(label - labels[0], image) for label, image in images if label in labels]
        items = ((label, encode_png(image)) for label, image in chosen)
        write_records(folder / f"{name}.rec", items, total=len(chosen))


def train(folder, data, prefix, *arguments):
    """Train, and return the log's figures."""
    command = [sys.executable, "-u", ROOT / "train_xception.py", "--data-type=digits", "--gpus="]
    command += [f"--data-dir={data}", "--batch-size=64", "--lr-steps=", f"--model-prefix={prefix}"]
    command += [f"--log-file={prefix}.log", *arguments]
    subprocess.run(list(map(str, command)), cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return read_log(folder / f"{prefix}.log")


def mean(runs: list) -> dict:
    return {
        key: {epoch: statistics.mean(run[key][epoch] for run in runs) for epoch in runs[0][key]}
        for key in runs[0]
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", default="log/finetune.png")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_digits(folder / "low", range(5))
        write_digits(folder / "high", range(5, 10))
        train(folder, "low", "low", "--num-epochs=10")
        best = {}
        for name, more in (("new", []), ("fine-tuned", ["--pretrained=low,10"])):
            for rate in RATES:
                same = [*more, f"--num-epochs={args.epochs}", f"--lr={rate}"]
                runs = [
                    train(folder, "high", f"{len(more)}-{rate}-{seed}", *same, f"--seed={seed}")
                    for seed in range(args.seeds)
                ]
                for epoch in range(1, args.epochs + 1):
                    found = [run["Validation", "accuracy"][epoch] for run in runs]
                    spread = f"{min(found):.3f} to {max(found):.3f}"
                    score = statistics.mean(found)
                    print(f"{name:12} lr {rate:<5g} epoch {epoch}: {score:.3f} ({spread})")
                best[name] = max(best.get(name, (0,)), (score, rate, mean(runs)))
    plot_curves(
        {f"{name}, lr {rate:g}": curves for name, (_, rate, curves) in best.items()}, args.out
    )
    print(args.out)


if __name__ == "__main__":
    main()
