"""What --memonger saves and costs: peak memory and time of a training step, with and without.

    python -m tests.benchmark.memonger [--batch-size 16] [--image-size 224]

Each in a process of its own, A B A B, medians; the reduced filters, on the CPU.
"""

import argparse
import statistics
import subprocess
import sys


def measure(memonger, batch_size, size):
    """Print the seconds of the fastest step and the peak memory, MB, of this process."""
    from model.devices import import_mxnet

    mx = import_mxnet()
    import symbol_xception
    from model.training.benchmark import peak_megabytes, seconds_per_step

    symbol = symbol_xception.get_xception_symbol(1000)
    shape = (batch_size, 3, size, size)
    print(seconds_per_step(symbol, [mx.cpu()], shape, "float32", memonger), peak_megabytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", choices=("plain", "memonger"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure == "memonger", args.batch_size, args.image_size)
        return
    found = {"plain": [], "memonger": []}
    for _ in range(args.rounds):
        for name, values in found.items():
            command = [sys.executable, "-m", "tests.benchmark.memonger", "--measure", name]
            command += ["--batch-size", str(args.batch_size), "--image-size", str(args.image_size)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            values.append([float(word) for word in done.stdout.split()])
    medians = {name: [statistics.median(v) for v in zip(*values)] for name, values in found.items()}
    for name, (seconds, memory) in medians.items():
        print(f"{name:9} {args.batch_size / seconds:6.1f} images/s  {memory:6.0f} MB peak")
    plain, less = medians["plain"], medians["memonger"]
    print(f"ratio     {plain[0] / less[0]:6.2f}           {less[1] / plain[1]:6.2f}")


if __name__ == "__main__":
    main()
