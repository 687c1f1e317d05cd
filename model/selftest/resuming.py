"""A run that was stopped and resumed ends as one that was not: bit for bit, or by how much."""

from typing import Dict, List, Mapping, Tuple

import numpy as np

from model.checkpoint import Checkpoints, Place
from model.selftest import runs
from model.selftest.networks import differences
from model.selftest.setup import Result, Setup, attempt

Arrays = Dict[str, np.ndarray]

#: cuDNN's algorithms by a rule, not by measuring; and of these only such as give the same bits.
DETERMINISTIC = {"MXNET_CUDNN_AUTOTUNE_DEFAULT": "0", "MXNET_ENFORCE_DETERMINISM": "1"}
#: How much farther from an uninterrupted run a resumed one may be than two uninterrupted ones are
#: from each other, where these are not bit-equal.
TIMES_NOISE = 10


def check(setup: Setup) -> List[Result]:
    """Stop a run in the middle of an epoch, resume it, and compare its parameters and states with
    those of a run that was not stopped. On GPUs twice: as usual, and as deterministic as it gets.
    """
    if not setup.on_gpus:
        name = "stop and resume"
        return [attempt(name, "bit-equal", lambda: _compare(setup, "cpu", {}, exact=True))]
    tolerance = f"bit-equal, or {TIMES_NOISE} x what two runs differ by"
    return [
        attempt(
            "stop and resume, deterministic",
            tolerance,
            lambda: _compare(setup, "deterministic", DETERMINISTIC),
        ),
        attempt("stop and resume, as usual", tolerance, lambda: _compare(setup, "usual", {})),
    ]


def _compare(
    setup: Setup, name: str, environment: Mapping[str, str], exact: bool = False
) -> Tuple[bool, str]:
    whole = _run(setup, f"{name}-whole", environment)
    stopped = _run(setup, f"{name}-stopped", environment, stop=True)
    if _equal(whole, stopped):
        return True, "bit-equal"
    off = differences(stopped, whole)
    if exact:
        return False, f"differs by {off.text(0, 0)}"
    noise = differences(_run(setup, f"{name}-again", environment), whole)
    passed = off.together <= TIMES_NOISE * noise.together
    return passed, f"differs by {off.text(0, 0)}; two uninterrupted runs by {noise.together:.0e}"


def _run(setup: Setup, name: str, environment: Mapping[str, str], stop: bool = False) -> Arrays:
    """Train an epoch, in one go or in two; return its parameters and states."""
    arguments = ["--num-epochs=1", "--image-shape=3,16,16", "--data-val=", "--lr=0.01"]
    if stop:
        runs.train_on_digits(setup, name, arguments, environment, stop_after="Batch [0-2]")
        arguments = [*arguments[:-1], "--retrain"]
    runs.train_on_digits(setup, name, arguments, environment)
    generation = Checkpoints(runs.prefix_of(setup, name)).load(Place(1))
    return {**generation.params, **generation.states}


def _equal(some: Arrays, others: Arrays) -> bool:
    return some.keys() == others.keys() and all(
        some[name].tobytes() == others[name].tobytes() for name in some
    )
