"""Validation accuracy on the digits by arguments of the training, over several seeds.

    python -m tests.benchmark.digits --epochs 10 "--dtype float32" "--dtype bfloat16"

Each argument is a set of flags for train_xception.py; each set is trained with each seed.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def train(flags, seed, epochs, folder) -> tuple:
    """Return the accuracy after the last epoch, and the best."""
    prefix = Path(folder, "model")
    command = [sys.executable, "train_xception.py", "--data-type", "digits", "--gpus="]
    command += ["--batch-size", "64", "--num-epochs", str(epochs), "--seed", str(seed), "--keep=1"]
    command += ["--overwrite", "--model-prefix", str(prefix), "--log-file", f"{prefix}.log"]
    done = subprocess.run(command + flags.split(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    accuracies = [float(v) for v in re.findall(r"Validation-accuracy=([\d.]+)", done.stdout)]
    return accuracies[-1], max(accuracies)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("flags", nargs="+", help='as in "--dtype bfloat16"')
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    print("| flags | seed by seed: after the last epoch (best) | mean (mean of the best) |")
    print("| --- | --- | --- |")
    for flags in args.flags:
        results = []
        for seed in range(args.seeds):
            with tempfile.TemporaryDirectory() as folder:
                results.append(train(flags, seed, args.epochs, folder))
        each = ", ".join(f"{last:.4f} ({best:.4f})" for last, best in results)
        last, best = map(statistics.mean, zip(*results))
        print(f"| `{flags}` | {each} | {last:.4f} ({best:.4f}) |", flush=True)


if __name__ == "__main__":
    main()
