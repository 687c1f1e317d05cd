"""The layers of Xception: their names, and what is recognised of them in a symbol."""

import ast
import math
import re
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import mxnet as mx

from model import ModelError
from model.network.graph import Edge, Graph, Node
from model.network.params import Entries
from symbol_xception import get_xception_symbol


@dataclass(frozen=True)
class Layer:
    """A convolution with its BatchNorm.

    name : here, as in ``NAME_bn_gamma``.
    keras_name, keras_norm : of the convolution and of its BatchNorm in Keras.
    separable : a 3x3 depthwise convolution, then a pointwise one; else `kernel` x `kernel`.
    in_channels, num_filter : numbers of channels.
    """

    name: str
    keras_name: str
    keras_norm: str
    separable: bool
    kernel: int
    in_channels: int
    num_filter: int

    @property
    def depthwise(self) -> str:
        return f"{self.name}_depthwise_kernel"

    @property
    def pointwise(self) -> str:
        """The name of the convolution before the BatchNorm."""
        return f"{self.name}_pointwise_kernel_conv2d" if self.separable else f"{self.name}_conv2d"


#: The fully connected layer's name here and in Keras.
HEAD, KERAS_HEAD = "fc1", "predictions"
_UNNAMED = re.compile(r"(conv2d|convolution2d|batch_normalization|batchnormalization)(?:_(\d+))?")
_UNNAMED_NOW = {"convolution2d": "conv2d", "batchnormalization": "batch_normalization"}


def layers(filter_list: Sequence[int]) -> List[Layer]:
    """Return every `Layer`, in the order in which Keras lists them: shortcuts after the block."""
    f0, f1, f2, f3, f4, f5, f6 = filter_list
    # Name here and in Keras, channels, filters, and Keras' number of the shortcut, if it has one.
    blocks: List[Tuple[str, str, int, Tuple[int, ...], Optional[int]]] = [
        ("Entry_flow_b2", "block2", f0, (f1, f1), 0),
        ("Entry_flow_b3", "block3", f1, (f2, f2), 1),
        ("Entry_flow_b4", "block4", f2, (f3, f3), 2),
        *((f"Middle_flow_block_{i}", f"block{i + 5}", f3, (f3, f3, f3), None) for i in range(8)),
        ("Exit_flow_b5", "block13", f3, (f3, f4), 3),
        ("Exit_flow_b6", "block14", f4, (f5, f6), None),
    ]
    found = [
        Layer("Entry_flow_b1_conv1", "block1_conv1", "block1_conv1_bn", False, 3, 3, f0 // 2),
        Layer("Entry_flow_b1_conv2", "block1_conv2", "block1_conv2_bn", False, 3, f0 // 2, f0),
    ]
    for name, keras_block, in_channels, num_filters, shortcut in blocks:
        channels = (in_channels, *num_filters)
        for i, (before, after) in enumerate(zip(channels, num_filters), start=1):
            keras_name = f"{keras_block}_sepconv{i}"
            found.append(
                Layer(f"{name}_sepconv{i}", keras_name, f"{keras_name}_bn", True, 3, before, after)
            )
        if shortcut is not None:
            number = f"_{shortcut}" if shortcut else ""
            names = f"{name}_conv1", f"conv2d{number}", f"batch_normalization{number}"
            found.append(Layer(*names, False, 1, in_channels, num_filters[-1]))
    return found


def shortcut_names(names: Iterable[str]) -> Dict[str, str]:
    """Return the shortcuts' layers among Keras' layer `names`: {name: its name in `layers`}.

    These have no names of their own. Keras numbers them, starting anywhere, and Keras 1 called
    them otherwise.
    """
    numbered: Dict[str, List[Tuple[int, str]]] = {}
    for name in names:
        if match := _UNNAMED.fullmatch(name):
            kind = _UNNAMED_NOW.get(match[1], match[1])
            numbered.setdefault(kind, []).append((int(match[2] or 0), name))
    return {
        name: f"{kind}_{i}" if i else kind
        for kind, those in numbered.items()
        for i, (_, name) in enumerate(sorted(those))
    }


def architecture(symbol: mx.sym.Symbol) -> Dict[str, Any]:
    """Return the arguments of `get_xception_symbol` that made `symbol`: filter_list, padding,
    bn_eps, and num_classes, None without a classifier. Raises ModelError if it is another network.
    """
    nodes = {node.name: node.attrs for node in Graph.of(symbol).nodes()}
    try:
        filter_list = tuple(
            int(nodes[name]["num_filter"])
            for name in (
                "Entry_flow_b1_conv2_conv2d", "Entry_flow_b2_conv1_conv2d",
                "Entry_flow_b3_conv1_conv2d", "Entry_flow_b4_conv1_conv2d",
                "Exit_flow_b5_conv1_conv2d", "Exit_flow_b6_sepconv1_pointwise_kernel_conv2d",
                "Exit_flow_b6_sepconv2_pointwise_kernel_conv2d",
            )
        )  # fmt: skip
        padding = "half"
        if ast.literal_eval(nodes["Entry_flow_b1_conv1_conv2d"]["pad"]) == (0, 0):
            padding = "keras" if "Entry_flow_b2_pool_reversed" in nodes else "torch"
        bn_eps = float(nodes["Entry_flow_b1_conv1_bn"]["eps"])
        head = nodes.get(HEAD)
        num_classes = int(head["num_hidden"]) if head else None
        if min(filter_list) < 1 or filter_list[0] % 2 or not 0 < bn_eps < math.inf:
            raise ValueError("get_xception_symbol makes no such network")
    except KeyError as error:
        raise ModelError(f"not this script's network: it lacks {error}") from None
    except (ValueError, SyntaxError):
        raise ModelError("not this script's network: it has layers of its names") from None
    return {
        "filter_list": filter_list,
        "padding": padding,
        "bn_eps": bn_eps,
        "num_classes": num_classes,
    }


# What may differ between a saved network and `get_xception_symbol`'s: how it was trained, and a
# GPU's scratch memory. None of it changes what the network computes.
_OF_TRAINING = {
    "workspace", "momentum", "p", "use_global_stats", "smooth_alpha", "__lr_mult__", "__wd_mult__",
}  # fmt: skip


def is_xception(symbol: mx.sym.Symbol) -> bool:
    """Return whether `symbol` is the network of `get_xception_symbol`, in float32, node by node."""
    try:
        arguments = architecture(symbol)
        is_cut = arguments["num_classes"] is None
        expected = get_xception_symbol(features=is_cut, **arguments)
    except (ModelError, ValueError):
        return False
    return _structure(symbol) == _structure(expected)


def _structure(symbol: mx.sym.Symbol) -> list:
    graph = Graph.of(symbol)
    nodes = graph.nodes()
    number = {node: i for i, node in enumerate(nodes)}
    structure = []
    for node in nodes:
        attrs = {k: v.replace(" ", "") for k, v in node.attrs.items() if k not in _OF_TRAINING}
        inputs = [(number[edge.node], edge.output) for edge in node.inputs]
        structure.append((node.op, node.name, attrs, inputs, node.subgraphs))
    heads = [(number[head.node], head.output) for head in graph.heads]
    return [*structure, heads]


def is_int8(symbol: mx.sym.Symbol) -> bool:
    """Return whether `symbol` is a network of model.quantize."""
    return bool(Graph.of(symbol).operators("_contrib_quantize_v2"))


def with_head_named(symbol: mx.sym.Symbol, params: Entries) -> Tuple[mx.sym.Symbol, Entries]:
    """Return (`symbol`, `params`) with the classifier named `HEAD`, if it is one on the layers of
    Xception: MXNet's fine-tune.py, for one, cuts a network before ``fc1`` and adds ``fc``."""
    graph = Graph.of(symbol)
    classifiers = graph.operators("FullyConnected")
    if len(classifiers) != 1 or classifiers[0].name == HEAD:
        return symbol, params
    try:
        architecture(symbol)
    except ModelError:
        return symbol, params
    (classifier,) = classifiers
    renamed = {}
    for edge, part in zip(classifier.inputs[1:], ("weight", "bias")):
        renamed[f"arg:{edge.node.name}"] = f"arg:{HEAD}_{part}"
        edge.node.name = f"{HEAD}_{part}"
    classifier.name = HEAD
    return graph.symbol(), {renamed.get(entry, entry): array for entry, array in params.items()}


def features_symbol(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """Return `symbol` without its classifier: its output is (N, features), what the last fully
    connected layer reads; an Xception's pooled features. Raises ModelError if there is none."""
    if is_xception(symbol):
        arguments = {**architecture(symbol), "num_classes": 1}
        return get_xception_symbol(features=True, **arguments)
    graph = Graph.of(symbol)
    classifiers = graph.operators("FullyConnected")
    if not classifiers:
        raise ModelError("no fully connected layer (FullyConnected), which would read features")
    features = Node("Flatten", "features", {}, [classifiers[-1].inputs[0]])
    return Graph([Edge(features)], graph.attrs).symbol()
