"""From the network as it is saved to the network as it runs, and back.

The saved network is the portable one: true channel counts, plain operators, float32. What runs has
whole vectors of channels, fused operators and, if asked for, half precision. Nothing outside this
file and `model.training.module` knows that there are two.
"""

import json

import mxnet as mx
import numpy as np

from model.network.loading import ndarray_params, numpy_params, parameter_shapes

# Channels that the fastest kernels take at a time: 16 for oneDNN with AVX-512; cuDNN's Tensor Cores
# need a multiple of 8.
_BLOCK = 16

#: What the gradients of a network in float16 are multiplied by, so that small ones do not vanish
#: (Micikevicius et al. 2018, "Mixed precision training", section 3.2, where 8 to 32,768 did).
LOSS_SCALE = 128

# The code of a type in a graph (mshadow's TypeFlag).
_TYPE_CODES = {"float32": "0", "float16": "2", "bfloat16": "12"}

# Results that memonger keeps: the blocks' outputs and the head. The rest is computed again in the
# backward pass. Dropout is among the kept ones because it would draw another mask.
_KEPT = {"null", "elemwise_add", "Dropout", "FullyConnected", "SoftmaxOutput"}


class RunningNetwork:
    """The network that runs for a saved one: `symbol`, and the way there and back for whatever has
    a parameter's shape.

    saved : the symbol as it is saved.
    device_type : ``cpu`` or ``gpu``.
    dtype : ``float32``, or ``bfloat16`` or ``float16`` to compute the convolutions and what is
        between them in it. Parameters, gradients, moving statistics and the head stay in float32,
        and so does the first convolution, whose 3 channels are slower in bfloat16. In float16
        gradients come `LOSS_SCALE` times as large. A network in int8 (`model.quantize`) stays what
        it is.
    for_training : or for inference alone. Then BatchNorm is folded into the convolutions, and their
        weights are kept in `dtype`. (MXNet's oneDNN backend would fold it too, but in bfloat16 it
        rounds towards zero, and features came out 9 % too small. It still fuses relus and sums.)
    memonger : keep only the blocks' outputs from the forward for the backward pass, and compute
        what is between them a second time (Chen et al. 2016, "Training deep nets with sublinear
        memory cost"), through MXNet's `force_mirroring` attribute. Same bits, less memory.

    On CPUs, and in float16, the numbers of channels are rounded up to whole vectors. An added
    channel has zeros for weights, gamma and beta, and so for all that comes of them: its outputs,
    gradients and updates are zero.
    """

    def __init__(
        self,
        saved: mx.sym.Symbol,
        device_type: str = "cpu",
        dtype: str = "float32",
        for_training: bool = True,
        memonger: bool = False,
    ):
        graph = json.loads(saved.tojson())
        if any(node["op"] == "_contrib_quantize_v2" for node in graph["nodes"]):
            # Of model.quantize: padded and fused before.
            device_type, dtype, for_training = "any", "float32", True
        if device_type == "cpu" or dtype == "float16":
            _pad_channels(graph)
        self._folded = []
        if not for_training:
            graph, self._folded = _fold_batch_norm(graph)
        elif device_type == "cpu":
            _fuse_relu(graph)
        if dtype != "float32":
            graph = _in_half_precision(graph, dtype, cast_weights=for_training)
        if dtype == "float16" and for_training:
            for node in graph["nodes"]:
                if node["op"] == "SoftmaxOutput":
                    node.setdefault("attrs", {})["grad_scale"] = str(LOSS_SCALE)
        if memonger:
            for node in graph["nodes"]:
                if node["op"] not in _KEPT:
                    node.setdefault("attrs", {})["__force_mirroring__"] = "True"
        self.symbol = mx.sym.load_json(json.dumps(graph))
        self.saved_shapes = parameter_shapes(saved)
        self.shapes = parameter_shapes(self.symbol)

    def pad(self, entry: str, array: np.ndarray) -> np.ndarray:
        """Return what has the shape of the saved parameter `entry` in the shape in which it runs.

        entry : ``arg:NAME`` or ``aux:NAME``. array : the parameter, or a state of its optimizer.
        """
        grown = [there - here for here, there in zip(array.shape, self.shapes[entry])]
        return np.pad(array, [(0, channels) for channels in grown]) if any(grown) else array

    def inference_params(self, params: dict) -> dict:
        """Return what `symbol` needs, for inference, of the saved parameters, entry -> array."""
        params = dict(params)
        for weight, gamma, beta, mean, var, eps in self._folded:
            scale = params.pop(gamma) / np.sqrt(params.pop(var) + eps)
            params[weight] = params[weight] * scale[:, None, None, None]
            params[beta] = params[beta] - params.pop(mean) * scale
        return {entry: self.pad(entry, array) for entry, array in params.items()}

    def crop(self, entry: str, array: np.ndarray) -> np.ndarray:
        """Return what `pad` has made of it, or training of that, in the shape in which it is
        saved."""
        return array[tuple(map(slice, self.saved_shapes[entry]))]


def bind_for_inference(
    symbol: mx.sym.Symbol,
    arg_params: dict,
    aux_params: dict,
    data_shape: tuple,
    contexts: list,
    dtype: str = "float32",
) -> mx.mod.Module:
    """Return a module that computes the network's output and nothing else.

    symbol, arg_params, aux_params : the network as it is saved. data_shape : (N, 3, H, W).
    dtype : as for `RunningNetwork`.

    The module is for these parameters alone.
    """
    network = RunningNetwork(symbol, contexts[0].device_type, dtype, for_training=False)
    # SoftmaxOutput has an input for labels, which inference does not read.
    labels = [name for name in symbol.list_arguments() if name == "softmax_label"]
    module = mx.mod.Module(network.symbol, context=contexts, label_names=labels)
    label_shapes = [(name, data_shape[:1]) for name in labels] or None
    module.bind([("data", tuple(data_shape))], label_shapes, for_training=False)

    running = ndarray_params(network.inference_params(numpy_params(arg_params, aux_params)))
    types = network.symbol.attr_dict()
    for arrays in running:
        for name in arrays:
            if types.get(name, {}).get("__dtype__") == _TYPE_CODES[dtype] != "0":
                arrays[name] = mx.nd.amp_cast(arrays[name], dtype=_numpy_type(dtype))
    module.set_params(*running)
    return module


def _numpy_type(dtype):
    # MXNet's name for the type that numpy has none for.
    return np.dtype([("bfloat16", np.uint16)]) if dtype == "bfloat16" else np.dtype(dtype)


def _pad_channels(graph):
    """Round the channels of the convolutions up. The last one's may be the network's output."""
    convolutions = [node for node in graph["nodes"] if node["op"] == "Convolution"]
    for node in convolutions[:-1]:
        attrs = node["attrs"]
        depthwise = attrs.get("num_group", "1") != "1"
        attrs["num_filter"] = str(-(-int(attrs["num_filter"]) // _BLOCK) * _BLOCK)
        if depthwise:
            attrs["num_group"] = attrs["num_filter"]


def _fuse_relu(graph):
    """Have BatchNorm do the relu where one follows it, and nothing else does."""
    nodes = graph["nodes"]
    readers = [[] for _ in nodes]
    for node in nodes:
        for source, *_ in node["inputs"]:
            readers[source].append(node)
    place = list(range(len(nodes)))
    for number, node in enumerate(nodes):
        node["inputs"] = [[place[source], *rest] for source, *rest in node["inputs"]]
        if node["op"] == "Activation" and node["attrs"]["act_type"] == "relu":
            source = node["inputs"][0][0]
            if nodes[source]["op"] == "BatchNorm" and readers[source] == [node]:
                nodes[source]["op"] = "_contrib_BatchNormWithReLU"
                # The relu's node stays, and MXNet leaves it out: nothing reads it any more.
                place[number] = source


def _fold_batch_norm(graph: dict) -> tuple:
    """Return (`graph` without BatchNorms, the entries that each was folded from, and its epsilon).

    A BatchNorm's beta becomes the bias of the convolution before it.
    """
    old, nodes, folded = graph["nodes"], [], []
    place = {}
    for number, node in enumerate(old):
        inputs = [[place[source], *rest] for source, *rest in node["inputs"]]
        attrs = dict(node.get("attrs", {}))
        if node["op"] == "BatchNorm":
            convolution, gamma, beta, mean, var = (source for source, *_ in node["inputs"])
            names = [old[convolution]["inputs"][1][0], gamma, beta, mean, var]
            kinds = ("arg", "arg", "arg", "aux", "aux")
            entries = [f"{kind}:{old[name]['name']}" for kind, name in zip(kinds, names)]
            folded.append((*entries, float(attrs["eps"])))
            # The convolution comes again, behind its bias, and nothing reads the one before it.
            node, attrs = old[convolution], {**old[convolution]["attrs"], "no_bias": "False"}
            inputs = [*nodes[place[convolution]]["inputs"], inputs[2]]
        nodes.append({**node, "attrs": attrs, "inputs": inputs})
        place[number] = len(nodes) - 1
    return _renumbered(graph, nodes, place), folded


def _renumbered(graph, nodes, place) -> dict:
    return {
        "nodes": nodes,
        "arg_nodes": [i for i, node in enumerate(nodes) if node["op"] == "null"],
        "heads": [[place[source], *rest] for source, *rest in graph["heads"]],
        "attrs": graph["attrs"],
    }


def _in_half_precision(graph: dict, half: str, cast_weights: bool) -> dict:
    """Return `graph` with casts: to `half` where a convolution reads, to float32 for the head.

    cast_weights : have the weights in float32, and cast them too; or else have them in `half`.
    """
    old, nodes = graph["nodes"], []
    place, in_half, casts = {}, set(), {}

    def cast(source, dtype):
        """The place of `source` (a place in the new graph) in `dtype`; one cast serves all."""
        if (source in in_half) == (dtype == half):
            return source
        if not cast_weights and nodes[source]["op"] == "null":
            nodes[source]["attrs"]["__dtype__"] = _TYPE_CODES[half]
            in_half.add(source)
            return source
        if (source, dtype) not in casts:
            name = f"{nodes[source]['name']}_{dtype}"
            attrs = {"dtype": dtype}
            nodes.append(
                {"op": "amp_cast", "name": name, "attrs": attrs, "inputs": [[source, 0, 0]]}
            )
            casts[source, dtype] = len(nodes) - 1
            if dtype == half:
                in_half.add(len(nodes) - 1)
        return casts[source, dtype]

    for number, node in enumerate(old):
        inputs = [[place[source], *rest] for source, *rest in node["inputs"]]
        attrs = dict(node.get("attrs", {}))
        result = False
        if node["op"] == "null":
            # What follows must not make a parameter anything else.
            attrs["__dtype__"] = _TYPE_CODES["float32"]
        elif node["op"] == "Convolution" and old[node["inputs"][0][0]]["op"] != "null":
            inputs = [[cast(source, half), *rest] for source, *rest in inputs]
            result = True
        elif attrs.get("global_pool") == "True":
            inputs = [[cast(source, "float32"), *rest] for source, *rest in inputs]
        elif inputs:
            result = inputs[0][0] in in_half
        nodes.append({**node, "attrs": attrs, "inputs": inputs})
        place[number] = len(nodes) - 1
        if result:
            in_half.add(len(nodes) - 1)
    return _renumbered(graph, nodes, place)
