"""From the network as it is saved to the network as it runs, and back.

saved      portable: true channel counts, plain operators, float32
  |  pad, inference_params     ^  crop
  v                            |
running    fast: whole vectors of channels, fused operators, half precision if asked for
"""

import re
from typing import Any, List, Optional, Tuple

import mxnet as mx
import numpy as np

from model.network import rewriting
from model.network.errors import mxnet_errors
from model.network.graph import Graph
from model.network.params import (
    Entries,
    NDArrays,
    initial_params,
    ndarray_params,
    numpy_params,
    parameter_shapes,
)

#: What the gradients of a network in float16 are multiplied by, so that small ones do not vanish
#: (Micikevicius et al. 2018, "Mixed precision training", section 3.2, where 8 to 32,768 did).
LOSS_SCALE = 128

# Images that MXNet plans memory for; what is between the layers grows with their number.
_PLANNED_IMAGES = 4


class RunningNetwork:
    """The network that runs for a saved Xception.

    saved : the symbol as it is saved; `is_xception`. The changes are right for no other network.
    device_type : ``cpu`` or ``gpu``.
    dtype : ``float32``; with ``bfloat16`` or ``float16`` the convolutions and what is between them
        are computed in it. Parameters, gradients, moving statistics, the first convolution and the
        head stay in float32. In float16, gradients are `LOSS_SCALE` times as large.
    for_training : False for inference alone. Then BatchNorm is folded into the convolutions, and
        their weights are kept in `dtype`. (MXNet's oneDNN backend would fold it too, but in
        bfloat16 it rounds towards zero: features were 9 % too small. It still fuses relus and
        sums.)
    memonger : keep only the blocks' outputs from the forward for the backward pass, and compute
        what is between them a second time (Chen et al. 2016, "Training deep nets with sublinear
        memory cost"), through MXNet's `force_mirroring` attribute. Same bits, less memory.

    weighted : labels are of the shape (N, classes); the sum of a row is what the gradient of its
        image is multiplied by.

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
        weighted: bool = False,
    ):
        graph = Graph.of(saved)
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
        if device_type == "gpu" and for_training:
            rewriting.draw_by_mxnet_seed(graph)
            if memonger:
                rewriting.average_statistics_twice(graph)
        if memonger:
            rewriting.recompute_in_backward(graph)
        self.saved_shapes = parameter_shapes(saved)
        self.symbol = graph.symbol()
        self.shapes = parameter_shapes(self.symbol)
        if weighted:
            rewriting.weigh_loss(graph)
            self.symbol = graph.symbol()

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


class RunningModule(mx.mod.Module):
    """Module that trains the running network of a saved Xception.

    Parameters go in and come out as those of the network as it is saved; `saved_form` and
    `running_form` do the same for whatever has a parameter's shape.

    symbol : the network as it is saved. context, dtype, memonger, weighted : as for
    `RunningNetwork`, the device of the first context. kwargs : as for mx.mod.Module.

    loss_scale : what the gradients are multiplied by.
    """

    def __init__(
        self,
        symbol: mx.sym.Symbol,
        context: List[mx.Context],
        dtype: str = "float32",
        memonger: bool = False,
        weighted: bool = False,
        **kwargs: Any,
    ):
        self._saved = symbol
        self._running = RunningNetwork(
            symbol, context[0].device_type, dtype, memonger=memonger, weighted=weighted
        )
        self.loss_scale = LOSS_SCALE if dtype == "float16" else 1
        super().__init__(self._running.symbol, context=context, **kwargs)

    def init_params(
        self,
        initializer: Optional[mx.init.Initializer] = None,
        arg_params: Optional[NDArrays] = None,
        aux_params: Optional[NDArrays] = None,
        allow_missing: bool = False,
        **kwargs: Any,
    ) -> None:
        params = numpy_params(arg_params or {}, aux_params or {})
        if arg_params is None or allow_missing:
            # Of the saved shapes: how widely a weight is drawn depends on its shape.
            params = {**numpy_params(*initial_params(self._saved, initializer)), **params}
        padded = {entry: self._running.pad(entry, array) for entry, array in params.items()}
        arg_params, aux_params = ndarray_params(padded)
        super().init_params(None, arg_params, aux_params, **kwargs)

    def get_params(self) -> Tuple[NDArrays, NDArrays]:
        params = numpy_params(*super().get_params())
        return ndarray_params({e: self._running.crop(e, array) for e, array in params.items()})

    def saved_form(self, name: str, array: np.ndarray) -> np.ndarray:
        """Return `array`, of the shape in which parameter `name` runs, in that in which it is
        saved."""
        return self._running.crop(self._entry(name), array)

    def running_form(self, name: str, array: np.ndarray) -> np.ndarray:
        """Return `array`, of the shape in which parameter `name` is saved, in that in which it
        runs."""
        return self._running.pad(self._entry(name), array)

    def saved_shape(self, name: str) -> Tuple[int, ...]:
        return self._running.saved_shapes[self._entry(name)]

    def _entry(self, name: str) -> str:
        return f"{'aux' if name in self._exec_group.aux_names else 'arg'}:{name}"


def planned_bytes(
    symbol: mx.sym.Symbol,
    data_shape: Tuple[int, ...],
    device_type: str,
    dtype: str,
    memonger: bool = False,
    for_training: bool = True,
) -> int:
    """Return the bytes that MXNet plans for what is between the layers of the running network.

    The arguments are those of `RunningNetwork`; data_shape : (N, 3, H, W). It is bound to the CPU,
    whatever runs it. Nothing is written to, so no page of it is taken. MXNet 1.9.1 plans four bytes
    for each element (src/nnvm/plan_memory.cc) and allocates what the data type takes. Raises
    ModelError.
    """
    network = RunningNetwork(symbol, device_type, dtype, for_training, memonger).symbol
    images = min(_PLANNED_IMAGES, data_shape[0])
    inputs = {"data": (images, *data_shape[1:]), "softmax_label": (images,)}
    gradients = {
        name: "write" if for_training and name not in inputs else "null"
        for name in network.list_arguments()
    }
    with mxnet_errors(f"{images} images of {data_shape[1:]}"):
        executor = network.simple_bind(mx.cpu(), grad_req=gradients, **inputs)
    total = re.search(r"Total (\d+) MB allocated", executor.debug_str())
    assert total, "MXNet's debug_str has another form"
    planned = (int(total[1]) << 20) * data_shape[0] // images
    return planned if dtype == "float32" else planned // 2
