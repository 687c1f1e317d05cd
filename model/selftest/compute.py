"""A device computes: forward pass, gradients and moving statistics of a training step, of the
network as it runs there, against the network as it is saved, in float64 on the CPU."""

import time
from typing import List, Tuple

import mxnet as mx
import numpy as np

from model.devices import gpus
from model.network.params import Entries, ndarray_params
from model.selftest.networks import (
    FEW_FILTERS,
    Differences,
    Step,
    batch_of,
    differences,
    network,
    random_images,
    random_params,
    reference_step,
)
from model.selftest.setup import Result, Setup, attempt, not_run
from model.training.module import ResumableModule
from symbol_xception import ORIGINAL_FILTERS, REDUCED_FILTERS

_PADDINGS = ("half", "keras", "torch")
# Images of the batch, and their size in pixels.
_FULL, _SMALL = (8, 64), (4, 32)
#: The momentum of the networks' BatchNorm, as `symbol_xception` has it.
_MOMENTUM = 0.9

#: What is tolerated: probabilities (largest difference), all gradients together and the worst of
#: them (as `Differences`), means and variances of BatchNorm. Measured on a CPU with these networks:
#: float32 6e-07, 5e-05, 8e-03. With what convolutions read rounded to 11 bits, as float16 and TF32
#: have, 5e-04, 2e-02, 1e-01; and with what they write, too, 1e-03, 3e-02, 2e-01.
TOLERANCES = {
    "float32": (1e-4, 1e-3, 5e-2, 1e-2),
    "TF32": (1e-2, 1e-1, 5e-1, 3e-2),
    "float16": (2e-2, 1e-1, 7e-1, 5e-2),
}


def check(setup: Setup) -> List[Result]:
    """Check one device: float32, float32 with --memonger, dropout; on a GPU float16, and float32 as
    it is used there, in which cuDNN may take TF32."""
    device = setup.names[0]
    context = mx.Context(setup.kind, setup.ids[0])
    cases = _cases(setup)
    kinds = [("float32", "float32", False), ("float32 --memonger", "float32", True)]
    if setup.on_gpus:
        kinds.append(("float16", "float16", False))
    results = [
        _compare_all(f"{device} {name}", cases[: 1 if memonger else None], context, dtype, memonger)
        for name, dtype, memonger in kinds
    ]
    return [*results, _check_dropout(f"{device} dropout", context)]


def check_as_used(setup: Setup) -> List[Result]:
    """Check one GPU with what it takes for float32 by itself: from compute capability 8.0 on TF32
    (`model.selftest.children` has it switched off elsewhere)."""
    number = setup.ids[0]
    found = gpus()
    if not setup.on_gpus:
        return []
    name, context = f"{setup.names[0]} TF32", mx.Context(setup.kind, number)
    if number < len(found) and found[number][0] < 8:
        return [not_run(name, "from compute capability 8.0 on")]
    return [_compare_all(name, _cases(setup)[:1], context, "float32", False, "TF32")]


Case = Tuple[mx.sym.Symbol, Entries, Tuple[np.ndarray, np.ndarray], Step]


def _cases(setup: Setup) -> List[Case]:
    """Return the networks with their parameters, images and reference: each filter list with each
    padding."""
    filters = (FEW_FILTERS,) if setup.small else (REDUCED_FILTERS, ORIGINAL_FILTERS)
    found = []
    for filter_list in filters:
        for padding in _PADDINGS:
            symbol = network(filter_list, padding)
            params = random_params(symbol)
            images = random_images(*(_SMALL if setup.small else _FULL))
            found.append((symbol, params, images, reference_step(symbol, params, *images)))
    return found


def _compare_all(
    name: str,
    cases: List[Case],
    context: mx.Context,
    dtype: str,
    memonger: bool,
    tolerance: str = "",
) -> Result:
    """Return the result of all networks: the figures of the one that is farthest off."""
    outputs, together, worst, statistics = TOLERANCES[tolerance or dtype]
    text = f"at most {outputs:.0e}, {together:.0e} ({worst:.0e}), {statistics:.0e}"

    def measure() -> Tuple[bool, str]:
        output_off, gradients_off, statistics_off = 0.0, Differences(0, 0, ""), 0.0
        for symbol, params, images, expected in cases:
            found = device_step(symbol, params, images, context, dtype, memonger)
            off = np.abs(found.probabilities - expected.probabilities).max()
            output_off = max(output_off, float(np.nan_to_num(off, nan=np.inf)))
            off_here = differences(found.gradients, expected.gradients)
            gradients_off = max(gradients_off, off_here)
            off = _statistics_off(found, expected, params)
            statistics_off = max(statistics_off, off)
        passed = (
            output_off <= outputs
            and gradients_off.within(together, worst)
            and statistics_off <= statistics
        )
        gradients = gradients_off.text(together, worst)
        figure = f"outputs {output_off:.0e}, gradients {gradients}, statistics {statistics_off:.0e}"
        return passed, figure

    return attempt(name, text, measure)


def device_step(
    symbol: mx.sym.Symbol,
    params: Entries,
    images: Tuple[np.ndarray, np.ndarray],
    context: mx.Context,
    dtype: str = "float32",
    memonger: bool = False,
) -> Step:
    """Return a step of the network as it runs on a device; gradients without the loss scale."""
    module = ResumableModule(symbol, [context], dtype, memonger)
    pixels, labels = images
    module.bind([("data", pixels.shape)], [("softmax_label", labels.shape)])
    arg_params, aux_params = ndarray_params(params)
    module.init_params(arg_params=arg_params, aux_params=aux_params)
    module.forward_backward(batch_of(pixels, labels))
    mx.nd.waitall()
    (output,) = module.get_outputs()
    gradients = {
        name: module.saved_form(name, block[0].asnumpy()) / module.loss_scale
        for name, block in module.gradients().items()
    }
    statistics = {
        name: module.saved_form(name, block[0].asnumpy())
        for name, block in module.statistics().items()
    }
    return Step(output.asnumpy(), gradients, statistics)


def _statistics_off(found: Step, expected: Step, params: Entries) -> float:
    """Return how far the worst layer's moving statistics are off, as a share of what one batch
    changes them by. cuDNN's variance is of a sample, N / (N - 1) times as large: both are right."""
    images = len(expected.probabilities)
    worst = 0.0
    for name, should in expected.statistics.items():
        before, now = params[f"aux:{name}"], found.statistics[name]
        right = [should]
        if name.endswith("_var"):
            of_batch = (should - _MOMENTUM * before) / (1 - _MOMENTUM)
            # N is the images times the pixels of the layer, whose side is not known here.
            counts = [images * side * side for side in range(1, 33)]
            right += [should + (1 - _MOMENTUM) * of_batch / (count - 1) for count in counts]
        change = np.linalg.norm(should - before)
        off = min(float(np.linalg.norm(now - each) / change) for each in right)
        worst = max(worst, float(np.nan_to_num(off, nan=np.inf)))
    return worst


def _check_dropout(name: str, context: mx.Context) -> Result:
    """Dropout draws by the seed of the batch: so a run resumes with the masks it would have had."""

    def measure() -> Tuple[bool, str]:
        symbol = network(FEW_FILTERS, dropout=0.5)
        params = ndarray_params(random_params(symbol))
        pixels, labels = random_images(*_SMALL)
        outputs = []
        # Two modules, as a run and the one that resumes it.
        for seeds in ((1, 2), (2,)):
            module = ResumableModule(symbol, [context])
            module.bind([("data", pixels.shape)], [("softmax_label", labels.shape)])
            module.init_params(arg_params=params[0], aux_params=params[1])
            for seed in seeds:
                module.forward_backward(batch_of(pixels, labels, seed=seed))
                outputs.append(module.get_outputs()[0].asnumpy())
        one, two, again = outputs
        same, other = np.abs(two - again).max(), np.abs(two - one).max()
        passed = same <= 1e-4 and other > 1e-2
        took = f"setting it takes {1000 * _seconds_to_seed():.1f} ms"
        return passed, f"same seed {same:.0e}, another seed {other:.0e}; {took}"

    return attempt(name, "at most 1e-04, at least 1e-02", measure)


def _seconds_to_seed(times: int = 20) -> float:
    mx.nd.waitall()
    began = time.perf_counter()
    for seed in range(times):
        mx.random.seed(seed)
    mx.nd.waitall()
    return (time.perf_counter() - began) / times
