"""Networks and batches for the checks, drawn by numpy: the same wherever the self-test runs."""

import math
from typing import Dict, NamedTuple, Sequence, Tuple

import mxnet as mx
import numpy as np

from log.files import PathLike
from model.checkpoint import Checkpoints, Place
from model.network.params import Entries, ndarray_params, parameter_shapes
from symbol_xception import get_xception_symbol

Arrays = Dict[str, np.ndarray]

CLASSES = 10
#: Filters with which a network computes in moments. Most are no multiples of 16, as 364 is not.
FEW_FILTERS = (8, 8, 12, 12, 16, 20, 20)


def network(filters: Sequence[int], padding: str = "half", dropout: float = 0) -> mx.sym.Symbol:
    """Return an Xception as it is saved."""
    return get_xception_symbol(CLASSES, filters, dropout=dropout, padding=padding)


def random_params(symbol: mx.sym.Symbol, seed: int = 0) -> Entries:
    """Return parameters of `symbol` with which rounding errors stay small.

    Weights are drawn as He et al. 2015 do. The last BatchNorm of each residual branch has a gamma a
    tenth of the others': else the rounding of each of 36 layers passes through all that follow,
    and grows to 400 times its size.
    """
    random = np.random.RandomState(seed)
    params = {}
    for entry, shape in sorted(parameter_shapes(symbol).items()):
        if entry.endswith(("gamma", "moving_var")):
            last = entry.endswith("gamma") and _ends_branch(entry)
            value = random.uniform(0.5, 1.5, shape) * (0.1 if last else 1)
        else:
            value = random.normal(0, (2 / max(1, math.prod(shape[1:]))) ** 0.5, shape)
        params[entry] = value.astype(np.float32)
    return params


def _ends_branch(entry: str) -> bool:
    ends = ("b2_sepconv2", "b3_sepconv2", "b4_sepconv2", "b5_sepconv2")
    return ("Middle" in entry and "sepconv3" in entry) or any(end in entry for end in ends)


def random_images(count: int, size: int, seed: int = 0) -> Tuple[np.ndarray, np.ndarray]:
    """Return (pixels (N, 3, size, size), labels (N,))."""
    random = np.random.RandomState(seed)
    pixels = random.randint(0, 256, (count, 3, size, size)).astype(np.float32)
    return pixels, random.randint(0, CLASSES, count).astype(np.float32)


def batch_of(
    pixels: np.ndarray, labels: np.ndarray, number: int = 0, seed: int = 0
) -> mx.io.DataBatch:
    """Return a batch as `model.training.module.ResumableModule` takes it."""
    batch = mx.io.DataBatch([mx.nd.array(pixels)], [mx.nd.array(labels)])
    batch.epoch, batch.number, batch.seed = 0, number, seed
    return batch


class Step(NamedTuple):
    """A step of training. probabilities (N, classes); gradients, statistics : name -> array."""

    probabilities: np.ndarray
    gradients: Arrays
    statistics: Arrays


def reference_step(
    symbol: mx.sym.Symbol, params: Entries, pixels: np.ndarray, labels: np.ndarray
) -> Step:
    """Return a step of the network as it is saved, with plain operators, in float64 on the CPU."""
    types = {name: "float64" for name in symbol.list_arguments()}
    executor = symbol.simple_bind(
        mx.cpu(), type_dict=types, data=pixels.shape, softmax_label=labels.shape
    )
    arg_params, aux_params = ndarray_params(params)
    executor.copy_params_from(
        {**arg_params, "data": mx.nd.array(pixels), "softmax_label": mx.nd.array(labels)},
        aux_params,
    )
    (output,) = executor.forward(is_train=True)
    executor.backward()
    mx.nd.waitall()  # MXNet orders reading moving statistics after nothing
    gradients = {
        name: array.asnumpy()
        for name, array in executor.grad_dict.items()
        if name not in ("data", "softmax_label")
    }
    statistics = {name: array.asnumpy() for name, array in executor.aux_dict.items()}
    return Step(output.asnumpy(), gradients, statistics)


class Differences(NamedTuple):
    """How far arrays are from what they should be, as shares of their norms.

    together : of all in one. worst : of the array, `name`, that is farthest. An array whose norm is
    below a hundredth of the median counts as if it had that: it is zero except for rounding errors.
    """

    together: float
    worst: float
    name: str

    def within(self, together: float, worst: float) -> bool:
        return self.together <= together and self.worst <= worst

    def text(self, together: float, worst: float) -> str:
        """Return the figures, with the name of the worst if they are not within these."""
        name = "" if self.within(together, worst) else f": {self.name}"
        return f"{self.together:.0e} (worst {self.worst:.0e}{name})"


def differences(found: Arrays, expected: Arrays) -> Differences:
    """Return how far `found` is from `expected`, which have the same names and shapes."""
    norms = {name: float(np.linalg.norm(array)) for name, array in expected.items()}
    off = {
        name: float(np.nan_to_num(np.linalg.norm(found[name] - array), nan=np.inf))
        for name, array in expected.items()
    }
    least = 0.01 * float(np.median(list(norms.values()))) or 1.0
    each = {name: off[name] / max(norms[name], least) for name in off}
    worst = max(each, key=lambda name: each[name])
    whole = float(np.linalg.norm(list(norms.values()))) or 1.0
    return Differences(float(np.linalg.norm(list(off.values()))) / whole, each[worst], worst)


def save_few_filters(prefix: PathLike) -> str:
    """Write a checkpoint, epoch 0, of a network of few filters with random parameters, for
    --pretrained; return its prefix."""
    symbol = network(FEW_FILTERS)
    settings = {"rgb_mean": [0] * 3, "rgb_std": [1] * 3}
    run = {"settings": settings, "lr": None}
    Checkpoints(prefix).save(Place(0), symbol.tojson(), random_params(symbol), {}, run)
    return str(prefix)
