"""From the network as it is saved to the network as it runs, and back.

saved      portable: true channel counts, plain operators, float32
  |  pad, inference_params     ^  crop
  v                            |
running    fast: whole vectors of channels, fused operators, half precision if asked for
"""

from typing import List, Tuple

import mxnet as mx
import numpy as np

from model.network import rewriting
from model.network.graph import Graph
from model.network.params import (
    Entries,
    NDArrays,
    ndarray_params,
    numpy_params,
    parameter_shapes,
)

#: What the gradients of a network in float16 are multiplied by, so that small ones do not vanish
#: (Micikevicius et al. 2018, "Mixed precision training", section 3.2, where 8 to 32,768 did).
LOSS_SCALE = 128


class RunningNetwork:
    """The network that runs for a saved one.

    saved : the symbol as it is saved.
    device_type : ``cpu`` or ``gpu``.
    dtype : ``float32``; with ``bfloat16`` or ``float16`` the convolutions and what is between them
        are computed in it. Parameters, gradients, moving statistics, the first convolution and the
        head stay in float32. In float16, gradients are `LOSS_SCALE` times as large. A network in
        int8 (`model.quantize`) stays as it is.
    for_training : False for inference alone. Then BatchNorm is folded into the convolutions, and
        their weights are kept in `dtype`. (MXNet's oneDNN backend would fold it too, but in
        bfloat16 it rounds towards zero: features were 9 % too small. It still fuses relus and
        sums.)
    memonger : keep only the blocks' outputs from the forward for the backward pass, and compute
        what is between them a second time (Chen et al. 2016, "Training deep nets with sublinear
        memory cost"), through MXNet's `force_mirroring` attribute. Same bits, less memory.

    symbol : the symbol that runs.
    saved_shapes, shapes : entry of the .params file -> shape, as saved and as it runs.

    On CPUs, and in float16, the numbers of channels are rounded up to whole vectors. An added
    channel has zero weights, gamma and beta, so its outputs, gradients and updates are zero.
    """

    def __init__(
        self,
        saved: mx.sym.Symbol,
        device_type: str = "cpu",
        dtype: str = "float32",
        for_training: bool = True,
        memonger: bool = False,
    ):
        graph = Graph.of(saved)
        if graph.operators("_contrib_quantize_v2"):
            # Of model.quantize: padded and fused before.
            device_type, dtype, for_training = "any", "float32", True
        if device_type == "cpu" or dtype == "float16":
            rewriting.pad_channels(graph)
        self._folded: List[rewriting.FoldedNorm] = []
        if not for_training:
            self._folded = rewriting.fold_batch_norm(graph)
        elif device_type == "cpu":
            rewriting.fuse_relu(graph)
        if dtype != "float32":
            rewriting.use_half_precision(graph, dtype, cast_weights=for_training)
        if dtype == "float16" and for_training:
            rewriting.scale_loss(graph, LOSS_SCALE)
        if memonger:
            rewriting.recompute_in_backward(graph)
        self.symbol = graph.symbol()
        self.saved_shapes = parameter_shapes(saved)
        self.shapes = parameter_shapes(self.symbol)

    def pad(self, entry: str, array: np.ndarray) -> np.ndarray:
        """Return `array`, of the shape in which `entry` is saved, in the shape in which it runs.

        entry : ``arg:NAME`` or ``aux:NAME``. array : the parameter, or a state of its optimizer.
        """
        added = [runs - saved for saved, runs in zip(array.shape, self.shapes[entry])]
        return np.pad(array, [(0, channels) for channels in added]) if any(added) else array

    def crop(self, entry: str, array: np.ndarray) -> np.ndarray:
        """Return `array`, of the shape in which `entry` runs, in the shape in which it is saved."""
        return array[tuple(map(slice, self.saved_shapes[entry]))]

    def inference_params(self, params: Entries) -> Entries:
        """Return what `symbol` reads, for inference, made from the saved parameters."""
        params = dict(params)
        for weight, gamma, beta, mean, var, eps in self._folded:
            scale = params.pop(gamma) / np.sqrt(params.pop(var) + eps)
            params[weight] = params[weight] * scale[:, None, None, None]
            params[beta] = params[beta] - params.pop(mean) * scale
        return {entry: self.pad(entry, array) for entry, array in params.items()}


def bind_for_inference(
    symbol: mx.sym.Symbol,
    arg_params: NDArrays,
    aux_params: NDArrays,
    data_shape: Tuple[int, ...],
    contexts: List[mx.Context],
    dtype: str = "float32",
) -> mx.mod.Module:
    """Return a module that computes the network's output, for these parameters alone.

    symbol, arg_params, aux_params : the network as it is saved. data_shape : (N, 3, H, W).
    contexts : devices, which divide the N images evenly. dtype : as for `RunningNetwork`.
    """
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
