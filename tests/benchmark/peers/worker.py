"""What the workers have in common: their arguments, how they time a step, what they print."""

import argparse
import json
import os
import resource
import statistics
import time

NUM_CLASSES = 1000
# The training step's recipe, the same in every framework: SGD with Nesterov's momentum.
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.001, 0.9, 0.0001
DROPOUT, BN_EPS, BN_MOMENTUM = 0.2, 2e-5, 0.9


def arguments(variants=("default",), dtypes=("float32", "bfloat16")) -> argparse.Namespace:
    """Parse the command line. `threads` are those of OMP_NUM_THREADS, or else None."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=("training", "inference"), required=True)
    parser.add_argument("--dtype", choices=dtypes, default="float32")
    parser.add_argument("--filters", required=True, help="f0..f6 of symbol_xception")
    parser.add_argument("--size", type=int, default=224, help="height and width of an image")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--variant", choices=variants, default=variants[0])
    parser.add_argument("--seconds", type=float, default=4, help="to measure for")
    args = parser.parse_args()
    args.filters = tuple(map(int, args.filters.split(",")))
    args.threads = int(os.environ["OMP_NUM_THREADS"]) if "OMP_NUM_THREADS" in os.environ else None
    return args


def report(step, seconds: float):
    """Print the median time of `step()`, which returns when its work is done, and the peak memory.

    Two steps to warm up (compilers, layouts of weights), then at least three, for `seconds`.
    """
    step()
    step()
    times = []
    while len(times) < 3 or sum(times) < seconds:
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": statistics.median(times), "peak_mb": round(peak)}))
