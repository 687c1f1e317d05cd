"""Networks bound for inference: this project's, as fast as they run, and any other as it is."""

import io
from contextlib import redirect_stdout
from typing import Dict, List, Optional, Tuple

import mxnet as mx
import numpy as np

from model import ModelError
from model.network import rewriting
from model.network.checking import check_runs
from model.network.errors import mxnet_errors
from model.network.layers import is_int8, is_xception
from model.network.loading import Network
from model.network.params import NDArrays, check_image_shape, ndarray_params, numpy_params
from model.network.running import RunningNetwork

Shape = Tuple[int, ...]


def bind_network(
    network: Network, data_shape: Shape, contexts: List[mx.Context], dtype: str = "float32"
) -> mx.mod.Module:
    """Return `bind_for_inference` of a checkpoint's network.

    Raises ModelError if MXNet can't run it, or crashes, or if it does not have an output of the
    shape (N, classes or features).
    """
    is_known = network.run or is_xception(network.symbol)
    if not is_known:
        check_runs(network.symbol, data_shape, network.source)
    try:
        module = bind_for_inference(
            network.symbol, network.arg_params, network.aux_params, data_shape, contexts, dtype
        )
    except ModelError as error:
        raise ModelError(f"{network.source}: {error}") from None
    ((_, shape),) = module.output_shapes
    if len(shape) != 2 or shape[0] != data_shape[0]:
        raise ModelError(f"{network.source}: its output has the shape {shape}, not (N, classes)")
    return module


def bind_for_inference(
    symbol: mx.sym.Symbol,
    arg_params: NDArrays,
    aux_params: NDArrays,
    data_shape: Shape,
    contexts: List[mx.Context],
    dtype: str = "float32",
) -> mx.mod.Module:
    """Return a module that computes the network's output, for these parameters alone.

    symbol, arg_params, aux_params : the network as it is saved. data_shape : (N, 3, H, W).
    contexts : devices, which divide the N images evenly. dtype : as for `RunningNetwork`; networks
    that are no Xception run in what they were made for. Raises ModelError.
    """
    with mxnet_errors("MXNet can't run it"):
        if is_xception(symbol):
            return _bind_xception(symbol, arg_params, aux_params, data_shape, contexts, dtype)
        if dtype != "float32" and not is_int8(symbol):
            raise ModelError(f"not this script's network: it runs in float32, not in {dtype}")
        return bind_as_it_is(symbol, data_shape, contexts, (arg_params, aux_params))


def _bind_xception(
    symbol: mx.sym.Symbol,
    arg_params: NDArrays,
    aux_params: NDArrays,
    data_shape: Shape,
    contexts: List[mx.Context],
    dtype: str,
) -> mx.mod.Module:
    check_image_shape(symbol, data_shape[1:])
    network = RunningNetwork(symbol, contexts[0].device_type, dtype, for_training=False)
    # SoftmaxOutput has an input for labels, which inference does not read.
    labels = [name for name in symbol.list_arguments() if name == "softmax_label"]
    module = mx.mod.Module(network.symbol, context=contexts, label_names=labels)
    label_shapes = [(name, data_shape[:1]) for name in labels] or None
    module.bind([("data", tuple(data_shape))], label_shapes, for_training=False)

    running = ndarray_params(network.inference_params(numpy_params(arg_params, aux_params)))
    if dtype != "float32":
        _cast_params(running, network.symbol, dtype)
    module.set_params(*running)
    return module


def inference_network(
    symbol: mx.sym.Symbol, arg_params: NDArrays, aux_params: NDArrays
) -> Tuple[mx.sym.Symbol, NDArrays, NDArrays]:
    """Return the network as it runs on CPUs for inference in float32; other networks than Xceptions
    as they are. The arguments are those of `bind_for_inference`."""
    if not is_xception(symbol):
        return symbol, arg_params, aux_params
    network = RunningNetwork(symbol, for_training=False)
    running = ndarray_params(network.inference_params(numpy_params(arg_params, aux_params)))
    return (network.symbol, *running)


def bind_as_it_is(
    symbol: mx.sym.Symbol,
    data_shape: Shape,
    contexts: List[mx.Context],
    params: Optional[Tuple[NDArrays, NDArrays]] = None,
) -> mx.mod.Module:
    """Return a module that computes `symbol` with MXNet's own operators.

    params : (arg_params, aux_params), None for zeros. Raises ModelError if their
    shapes don't fit, and RuntimeError if MXNet can't bind the network.
    """
    with redirect_stdout(io.StringIO()):  # to which MXNet prints arguments before it raises
        args, _, auxs = symbol.infer_shape(data=tuple(data_shape))
    if args is None:
        raise ModelError("the shapes of its layers do not follow from the images'")
    shapes = dict(zip(symbol.list_arguments(), args))
    labels = [name for name in shapes if name.endswith("label")]
    weights = [name for name in shapes if name not in ("data", *labels)]
    aux_shapes = dict(zip(symbol.list_auxiliary_states(), auxs))
    if params is None:
        zeros = {name: mx.nd.zeros(shapes[name]) for name in weights}
        params = zeros, {name: mx.nd.zeros(shape) for name, shape in aux_shapes.items()}
    _check_shapes({**shapes, **aux_shapes}, params)
    # In a module for inference, MXNet 1.9.1 fuses operators on CPUs, and not always rightly: a relu
    # after a BatchNorm changes what others read of the BatchNorm. In one for training it does not;
    # the gradient of one parameter makes it that. In int8 the operators are fused ones.
    for_training = bool(weights) and not is_int8(symbol)
    module = mx.mod.Module(
        symbol, context=contexts, label_names=labels, fixed_param_names=weights[:-1]
    )
    label_shapes = [(name, shapes[name]) for name in labels] or None
    module.bind([("data", tuple(data_shape))], label_shapes, for_training=for_training)
    module.set_params(*params)
    return module


def _check_shapes(shapes: Dict[str, Shape], params: Tuple[NDArrays, NDArrays]) -> None:
    for kind, arrays in zip(("arg", "aux"), params):
        for name, array in arrays.items():
            if array.shape != shapes[name]:
                raise ModelError(
                    f"{kind}:{name} has the shape {array.shape}, for such images it must be "
                    f"{shapes[name]}: give another --image-shape?"
                )


def _cast_params(params: Tuple[NDArrays, NDArrays], symbol: mx.sym.Symbol, half: str) -> None:
    """Cast those of `params` to `half` that the variables of `symbol` have in it."""
    attributes = symbol.attr_dict()
    for arrays in params:
        for name in arrays:
            if attributes.get(name, {}).get("__dtype__") == rewriting.TYPE_CODES[half]:
                arrays[name] = mx.nd.amp_cast(arrays[name], dtype=_numpy_type(half))


def _numpy_type(dtype: str) -> np.dtype:
    # numpy has no bfloat16: this is how MXNet names it.
    return np.dtype([("bfloat16", np.uint16)]) if dtype == "bfloat16" else np.dtype(dtype)
