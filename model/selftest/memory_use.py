"""The memory that training takes, compared with what `model.training.memory` predicts."""

from typing import List, Tuple

import mxnet as mx

from model.network.params import ndarray_params
from model.selftest.networks import (
    FEW_FILTERS,
    batch_of,
    network,
    random_images,
    random_params,
)
from model.selftest.setup import Result, Setup, attempt
from model.training import memory
from model.training.benchmark import peak_megabytes
from model.training.module import ResumableModule
from symbol_xception import REDUCED_FILTERS

_STEPS = 3
#: A GPU takes at least what is planned for it, and no more than so many times that, and so many
#: bytes: momentum, cuDNN's workspaces and the kvstore are not planned. Chosen, not measured.
MOST, EXTRA = 2.0, 2 << 30
#: What a run takes on CPUs of the estimate of its peak, at most.
MOST_OF_PEAK = 1.1


def check(setup: Setup) -> List[Result]:
    """Train some steps in this process, which has trained nothing before."""
    name = f"memory, {setup.batch_size} images a device, {setup.image_size}x{setup.image_size}"
    return [attempt(name, _tolerance(setup), lambda: _measure(setup))]


def _tolerance(setup: Setup) -> str:
    if setup.on_gpus:
        return f"predicted to {MOST:g} x predicted + {EXTRA >> 20} MB"
    return f"certain to {MOST_OF_PEAK:g} x peak"


def _measure(setup: Setup) -> Tuple[bool, str]:
    contexts = [mx.Context(setup.kind, number) for number in setup.ids]
    images = setup.batch_size * len(contexts)
    shape = (images, 3, setup.image_size, setup.image_size)
    symbol = network(FEW_FILTERS if setup.small else REDUCED_FILTERS)
    need = memory.needed(symbol, contexts, shape, "float32", validates=False)
    before = free_bytes(setup)
    _train(symbol, contexts, shape)
    if not setup.on_gpus:
        peak = peak_bytes()
        figure = f"peak {peak >> 20} MB; predicted {need.peak >> 20}, certain {need.certain >> 20}"
        return need.certain <= peak <= MOST_OF_PEAK * need.peak, figure
    # MXNet gives nothing back of what it has taken of a GPU: what is free now was so at the peak.
    used = [then - now for then, now in zip(before, free_bytes(setup))]
    taken = ", ".join(f"{name} {each >> 20}" for name, each in zip(setup.names, used))
    passed = all(need.on_device <= each <= MOST * need.on_device + EXTRA for each in used)
    return passed, f"predicted at least {need.on_device >> 20} MB; {taken} MB"


def _train(symbol: mx.sym.Symbol, contexts: List[mx.Context], shape: Tuple[int, ...]) -> None:
    module = ResumableModule(symbol, contexts)
    module.bind([("data", shape)], [("softmax_label", shape[:1])])
    arg_params, aux_params = ndarray_params(random_params(symbol))
    module.init_params(arg_params=arg_params, aux_params=aux_params)
    module.init_optimizer("device", "nag", {"learning_rate": 1e-3, "momentum": 0.9})
    batch = batch_of(*random_images(shape[0], shape[2]))
    for _ in range(_STEPS):
        module.forward_backward(batch)
        module.update()
    mx.nd.waitall()


def free_bytes(setup: Setup) -> List[int]:
    """Return what is free on each GPU; nothing for CPUs."""
    if not setup.on_gpus:
        return []
    return [mx.context.gpu_memory_info(number)[0] for number in setup.ids]


def peak_bytes() -> int:
    """Return the most memory that this process has had so far."""
    return peak_megabytes() << 20
