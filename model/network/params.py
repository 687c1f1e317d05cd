"""Parameters by name: what a network has, what a file holds, and what MXNet takes.

A .params file has an entry ``arg:NAME`` for each weight, bias, gamma and beta, and ``aux:NAME`` for
each moving statistic.
"""

import io
import re
from contextlib import redirect_stdout
from typing import Dict, Iterable, Sequence, Tuple

import mxnet as mx
import numpy as np

from model import ModelError

#: NAME -> array, as mx.mod.Module takes them.
NDArrays = Dict[str, mx.nd.NDArray]
#: entry -> array.
Entries = Dict[str, np.ndarray]

# Inputs that are no parameters.
_INPUTS = ("data", "softmax_label")


def parameter_shapes(symbol: mx.sym.Symbol) -> Dict[str, Tuple[int, ...]]:
    """Return the shape of every entry of the .params file of an Xception."""
    # The parameters' shapes do not depend on the image's; any one will do.
    args, _, auxs = symbol.infer_shape(data=(1, 3, 64, 64))
    named_args = zip(symbol.list_arguments(), args)
    named_auxs = zip(symbol.list_auxiliary_states(), auxs)
    shapes = {f"arg:{name}": shape for name, shape in named_args if name not in _INPUTS}
    shapes.update({f"aux:{name}": shape for name, shape in named_auxs})
    return shapes


def check_image_shape(symbol: mx.sym.Symbol, image_shape: Sequence[int]) -> None:
    """Raise ModelError if images of `image_shape`, (3, height, width), are too small for an
    Xception: 7x7 pixels are the least for one without padding in its stem."""
    try:
        with redirect_stdout(io.StringIO()):  # to which MXNet prints arguments before it raises
            symbol.infer_shape(data=(1, *image_shape))
    except mx.base.MXNetError:
        size = "x".join(map(str, image_shape[1:]))
        raise ModelError(f"images of {size} pixels are too small for this network") from None


def check_params(params: Entries, symbol: mx.sym.Symbol, name: object) -> None:
    """Raise ModelError, naming the first difference, if `params` don't fit `symbol`.

    name : of the file, for the message.
    """
    expected = parameter_shapes(symbol)
    for entry, shape in expected.items():
        if entry not in params:
            raise ModelError(f"{name}: {entry} is missing: of another network?")
        if params[entry].shape != shape:
            raise ModelError(
                f"{name}: {entry} has the shape {params[entry].shape}, this network's is {shape}"
            )
    for entry in params:
        if entry not in expected:
            raise ModelError(f"{name}: {entry} is not in this network")


def check_finite(params: Entries, name: object) -> None:
    """Raise ModelError if a number in `params` is NaN or infinite. name : of the file."""
    for entry, array in params.items():
        if not np.isfinite(array).all():
            raise ModelError(f"{name}: {entry} has numbers that are NaN or infinite")


# A depthwise layer as a convolution for each channel: the 2017 script's names, and those of older
# converters from Keras.
_SLICE = re.compile(r"arg:.*_depthwise_kernel_?\d+_weight")


def check_unsliced(params: Iterable[str], prefix: object, epoch: int) -> None:
    """Raise ModelError, which says how to convert it, if the checkpoint PREFIX, EPOCH is of a
    network with a convolution for each channel. params : its entries."""
    if any(map(_SLICE.fullmatch, params)):
        raise ModelError(
            f"{prefix}-{epoch:04d}.params is of a network with a convolution for each channel, "
            "such as the 2017 script's; convert it: python -m model.convert sliced "
            f"{prefix} {epoch} NEW_PREFIX"
        )


def initial_params(
    symbol: mx.sym.Symbol, initializer: mx.init.Initializer
) -> Tuple[NDArrays, NDArrays]:
    """Return (arg_params, aux_params) as `initializer` draws them for mx.mod.Module."""
    attributes = symbol.attr_dict()
    params: Dict[str, NDArrays] = {"arg": {}, "aux": {}}
    for entry, shape in sorted(parameter_shapes(symbol).items()):
        kind, name = entry.split(":")
        params[kind][name] = mx.nd.zeros(shape)
        initializer(mx.init.InitDesc(name, attributes.get(name)), params[kind][name])
    return params["arg"], params["aux"]


def numpy_params(arg_params: NDArrays, aux_params: NDArrays) -> Entries:
    """Return the entries of a .params file."""
    arrays = {f"arg:{name}": array.asnumpy() for name, array in sorted(arg_params.items())}
    arrays.update({f"aux:{name}": array.asnumpy() for name, array in sorted(aux_params.items())})
    return arrays


def ndarray_params(arrays: Entries) -> Tuple[NDArrays, NDArrays]:
    """Return (arg_params, aux_params) of a .params file's entries."""
    split: Dict[str, NDArrays] = {"arg": {}, "aux": {}}
    for entry, array in arrays.items():
        kind, _, name = entry.partition(":")
        if kind not in split:
            raise ModelError(f"entry {entry!r} is neither arg: nor aux:")
        split[kind][name] = mx.nd.array(array, dtype=np.dtype(array.dtype))
    return split["arg"], split["aux"]
