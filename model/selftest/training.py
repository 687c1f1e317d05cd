"""Training learns: the digits, for a few hundred steps, on one device or two."""

import re
from dataclasses import replace
from typing import List, Tuple

from model.selftest import runs
from model.selftest.setup import Result, Setup, attempt

#: The validation accuracy that must be reached. Measured on CPUs, 5 epochs, by seed: see README.md.
ACCURACY = 0.93
#: The same of the small networks, in 7 epochs: more than by guessing, 0.1. Measured: 0.36 to 0.54
#: by seed; after 3 epochs 0.18 to 0.31, by the rounding of the CPU as well.
SMALL_ACCURACY = 0.2


def check(setup: Setup) -> List[Result]:
    """Train on the digits: in float32 and, on GPUs, in float16."""
    dtypes = ["float32", *(["float16"] if setup.on_gpus else [])]
    least = SMALL_ACCURACY if setup.small else ACCURACY
    return [
        attempt(f"training, {dtype}", f"at least {least}", lambda: _train(setup, dtype, least))  # noqa: B023
        for dtype in dtypes
    ]


def _train(setup: Setup, dtype: str, least: float) -> Tuple[bool, str]:
    epochs = ["--num-epochs=7"] if setup.small else ["--num-epochs=5", "--lr-steps=3,4"]
    # Of more devices each would have too few images of a batch for its BatchNorm.
    two = replace(setup, ids=setup.ids[:2])
    printed = runs.train_on_digits(two, f"training-{dtype}", [*epochs, f"--dtype={dtype}"])
    scores = re.findall(r"Validation-accuracy=([\d.]+)", printed)
    steps = re.search(r"(\d+) batches an epoch", printed)
    count = int(steps[1]) * len(scores) if steps else 0
    accuracy = float(scores[-1])
    return accuracy >= least, f"accuracy {accuracy:.4f} after {count} steps"
