"""Channels of like ranges, before a network is quantized.

int8 has one scale for all channels of a layer's input. Between a depthwise convolution and the
pointwise one that reads it there is no BatchNorm in Xception: on CIFAR-10 the largest channel had 7
times the range of the median one, which is left with few of the 255 steps. Scaling channel c of the
one by 1 / s, and the weights that read it by s, changes nothing in float32, and evens the ranges
out:

    pointwise -> relu -> depthwise      s = range(c): each channel of both weights has a scale of
                                        its own, so that this costs nothing
    depthwise -> pointwise              s = range(c)^a / weights(c)^(1 - a): the weights' columns
                                        share a scale, and take over a part of the spread

The second is SmoothQuant's (Xiao et al. 2023, section 4), the first Nagel et al. 2019,
"Data-free quantization through weight equalization and bias correction".
"""

from dataclasses import dataclass
from typing import Dict, List, Optional

import mxnet as mx
import numpy as np

from model.network.graph import Graph, Node

# a, above. On CIFAR-10: 0.5 and 0.75 are alike.
_SHARE_OF_WEIGHTS = 0.75
# The least range of a channel, as a share of the largest.
_LEAST = 1e-3

Params = Dict[str, mx.nd.NDArray]


@dataclass(frozen=True)
class Link:
    """A layer and the one that alone reads it, directly or through a relu: `value` is read."""

    layer: Node
    value: Node
    reader: Node


def equalized(symbol: mx.sym.Symbol, arg_params: Params, calibration: mx.io.DataIter) -> Params:
    """Return arg_params of the same function whose channels have like ranges.

    symbol : for inference, BatchNorm folded into the convolutions. calibration : images; it is at
    its beginning again afterwards.
    """
    links = links_of(Graph.of(symbol))
    if not links:
        return arg_params
    ranges = ranges_of(symbol, arg_params, [link.value.name for link in links], calibration)
    params = {name: value.asnumpy() for name, value in arg_params.items()}
    for link in links:
        scale = _scale(ranges[link.value.name], params[_weight(link.reader)], link)
        weight, bias = _weight(link.layer), _bias(link.layer)
        params[weight] = params[weight] / scale.reshape(-1, 1, 1, 1)
        if bias:
            params[bias] = params[bias] / scale
        by_input = (-1, 1, 1, 1) if _is_depthwise(link.reader) else (1, -1, 1, 1)
        params[_weight(link.reader)] = params[_weight(link.reader)] * scale.reshape(by_input)
    return {name: mx.nd.array(value, dtype=value.dtype) for name, value in params.items()}


def links_of(graph: Graph) -> List[Link]:
    """Return what can be scaled: one of the two convolutions is depthwise, and nothing else reads
    what is between them."""
    readers = graph.readers()
    links = []
    for layer in graph.operators("Convolution"):
        value = layer
        if _only(readers[layer], "Activation") and readers[layer][0].attrs["act_type"] == "relu":
            (value,) = readers[layer]
        if _only(readers[value], "Convolution"):
            link = Link(layer, value, readers[value][0])
            own_weights = all(
                len(readers[each.inputs[1].node]) == 1 for each in (link.layer, link.reader)
            )
            if link.reader.inputs[0].node is value and own_weights and _is_scalable(link):
                links.append(link)
    return links


def _is_scalable(link: Link) -> bool:
    """Return whether one is depthwise and the other has no groups: in other grouped convolutions a
    channel's weights are elsewhere."""
    if _groups(link.layer) == 1:
        return _is_depthwise(link.reader) and _groups(link.reader) == _filters(link.layer)
    return _is_depthwise(link.layer) and _groups(link.reader) == 1


def _only(readers: List[Node], op: str) -> bool:
    return len(readers) == 1 and readers[0].op == op


def ranges_of(
    symbol: mx.sym.Symbol, arg_params: Params, names: List[str], images: mx.io.DataIter
) -> Dict[str, np.ndarray]:
    """Return the largest absolute value of each channel of these layers' outputs, (C,)."""
    internals = symbol.get_internals()
    outputs = mx.sym.Group([internals[f"{name}_output"] for name in names])
    ((_, shape),) = [tuple(each) for each in images.provide_data]
    executor = outputs.simple_bind(mx.cpu(), data=shape, grad_req="null")
    executor.copy_params_from(arg_params, {}, allow_extra_params=True)
    ranges: List[np.ndarray] = []
    for batch in images:
        found = executor.forward(is_train=False, data=batch.data[0])
        of_batch = [mx.nd.max(mx.nd.abs(each), axis=(0, 2, 3)).asnumpy() for each in found]
        ranges = list(map(np.maximum, ranges, of_batch)) if ranges else of_batch
    images.reset()
    return dict(zip(names, ranges))


def _scale(channel: np.ndarray, weight: np.ndarray, link: Link) -> np.ndarray:
    """Return what each channel is divided by. channel : its range; weight : of the reader."""
    if not channel.max():
        return np.ones_like(channel)
    channel = np.maximum(channel, _LEAST * channel.max())
    if _is_depthwise(link.reader):
        return channel / channel.max()
    columns = np.abs(weight).max(axis=(0, 2, 3))
    columns = np.maximum(columns, _LEAST * columns.max())
    scale = channel**_SHARE_OF_WEIGHTS / columns ** (1 - _SHARE_OF_WEIGHTS)
    return scale / np.exp(np.log(scale).mean())


def _groups(convolution: Node) -> int:
    return int(convolution.attrs.get("num_group", 1))


def _filters(convolution: Node) -> int:
    return int(convolution.attrs["num_filter"])


def _is_depthwise(convolution: Node) -> bool:
    return 1 < _groups(convolution) == _filters(convolution)


def _weight(convolution: Node) -> str:
    return convolution.inputs[1].node.name


def _bias(convolution: Node) -> Optional[str]:
    return convolution.inputs[2].node.name if len(convolution.inputs) > 2 else None
