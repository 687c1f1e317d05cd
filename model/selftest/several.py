"""Several devices change the parameters as one does: the same batches, each kvstore."""

from typing import List, Tuple

import mxnet as mx
import numpy as np

from model.network.params import Entries, ndarray_params
from model.selftest.networks import (
    FEW_FILTERS,
    Arrays,
    batch_of,
    differences,
    network,
    random_images,
    random_params,
)
from model.selftest.setup import Result, Setup, attempt, not_run
from model.training.module import ResumableModule
from symbol_xception import REDUCED_FILTERS

_UPDATES = 3
# Images a device, and their size in pixels.
_FULL, _SMALL = (8, 64), (4, 32)

#: What is tolerated of the change of all parameters together, and of the worst of them: rounding,
#: that is, the order in which gradients are added up. Measured on CPUs: 0 for two.
TOLERANCE = (1e-3, 5e-2)


def check(setup: Setup) -> List[Result]:
    """Train with every device at once, for each kvstore, and with the first device alone, which
    adds up the gradients of their parts of each batch (`--accumulate`)."""
    kvstores = ["local", "device", *(["nccl"] if setup.on_gpus else [])]
    names = [f"kvstore {kvstore}, {len(setup.ids)} devices" for kvstore in kvstores]
    if len(setup.ids) < 2:
        return [not_run(f"kvstore {'/'.join(kvstores)}", "a single device")]
    symbol = network(FEW_FILTERS if setup.small else REDUCED_FILTERS)
    params = random_params(symbol)
    contexts = [mx.Context(setup.kind, number) for number in setup.ids]
    images, size = _SMALL if setup.small else _FULL
    expected = updates(symbol, params, contexts[:1], "local", len(contexts), images, size)
    together, worst = TOLERANCE

    def measure(kvstore: str) -> Tuple[bool, str]:
        found = updates(symbol, params, contexts, kvstore, 1, images * len(contexts), size)
        off = differences(found, expected)
        return off.within(together, worst), f"updates {off.text(together, worst)}"

    return [
        attempt(name, f"at most {together:.0e} ({worst:.0e})", lambda: measure(kvstore))  # noqa: B023
        for name, kvstore in zip(names, kvstores)
    ]


def updates(
    symbol: mx.sym.Symbol,
    params: Entries,
    contexts: List[mx.Context],
    kvstore: str,
    accumulate: int,
    batch_size: int,
    image_size: int,
) -> Arrays:
    """Return how much each parameter has changed after some updates, name -> array.

    accumulate, batch_size : each update is of `accumulate` batches of `batch_size` images.
    """
    module = ResumableModule(symbol, contexts, accumulate=accumulate, batches=-1)
    shape = (batch_size, 3, image_size, image_size)
    module.bind([("data", shape)], [("softmax_label", shape[:1])])
    arg_params, aux_params = ndarray_params(params)
    module.init_params(arg_params=arg_params, aux_params=aux_params)
    optimizer_params = {"learning_rate": 0.01, "momentum": 0.9, "wd": 1e-4}
    module.init_optimizer(kvstore, "nag", optimizer_params)
    for update in range(_UPDATES):
        pixels, labels = random_images(accumulate * batch_size, image_size, seed=update)
        for part in range(accumulate):
            own = slice(part * batch_size, (part + 1) * batch_size)
            number = update * accumulate + part
            module.forward_backward(batch_of(pixels[own], labels[own], number))
            module.update()
    after, _ = module.get_params()
    return {
        name: array.asnumpy().astype(np.float64) - params[f"arg:{name}"]
        for name, array in after.items()
    }
