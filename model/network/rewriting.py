"""How the graph of a saved network becomes the one that runs: one function for each change.

Each changes a `Graph` of this project's network (`symbol_xception`) in place.
"""

import math
from typing import Dict, List, NamedTuple, Set, Tuple

from model.network.graph import Edge, Graph, Node

# Channels that the fastest kernels take at a time: 16 for oneDNN with AVX-512; cuDNN's Tensor Cores
# need a multiple of 8.
_VECTOR = 16

#: The code of a type in a graph (mshadow's TypeFlag).
TYPE_CODES = {"float32": "0", "float16": "2", "bfloat16": "12"}

# Results that memonger keeps: the blocks' outputs and the head. The rest is computed again in the
# backward pass. Dropout is among the kept ones because it would draw another mask.
_KEPT = {"null", "elemwise_add", "Dropout", "FullyConnected", "SoftmaxOutput"}


def pad_channels(graph: Graph) -> None:
    """Round the channels of the convolutions up. The last one's may be the network's output."""
    for node in graph.operators("Convolution")[:-1]:
        is_depthwise = node.attrs["num_group"] != "1"
        node.attrs["num_filter"] = str(-(-int(node.attrs["num_filter"]) // _VECTOR) * _VECTOR)
        if is_depthwise:
            node.attrs["num_group"] = node.attrs["num_filter"]


def fuse_relu(graph: Graph) -> None:
    """Let a BatchNorm compute the relu after it, if nothing else reads the BatchNorm.

    The last one stays as it is. oneDNN chooses the layout of the gradient of global pooling, and
    the backward pass of MXNet 1.9.1's fused operator takes no other than its own: images wider than
    high, for one, could not be trained on ("could not create a primitive descriptor iterator").
    """
    readers = graph.readers()
    fused = {}
    for relu in graph.operators("Activation"):
        norm = relu.inputs[0].node
        is_pooled = any(reader.op == "Pooling" for reader in readers[relu])
        if norm.op == "BatchNorm" and readers[norm] == [relu] and not is_pooled:
            norm.op = "_contrib_BatchNormWithReLU"
            fused[relu] = norm
    graph.replace(fused)


class FoldedNorm(NamedTuple):
    """The entries of the parameters that a BatchNorm was folded from, and its epsilon."""

    weight: str
    gamma: str
    beta: str
    mean: str
    var: str
    eps: float


def fold_batch_norm(graph: Graph) -> List[FoldedNorm]:
    """Fold each BatchNorm into the convolution before it; its beta becomes the bias there."""
    folded = []
    replaced = {}
    for norm in graph.operators("BatchNorm"):
        convolution = norm.inputs[0].node
        gamma, beta, mean, var = (edge.node.name for edge in norm.inputs[1:])
        weight = convolution.inputs[1].node.name
        entries = (f"arg:{weight}", f"arg:{gamma}", f"arg:{beta}", f"aux:{mean}", f"aux:{var}")
        folded.append(FoldedNorm(*entries, float(norm.attrs["eps"])))
        convolution.attrs["no_bias"] = "False"
        convolution.inputs.append(norm.inputs[2])
        replaced[norm] = convolution
    graph.replace(replaced)
    return folded


def use_half_precision(graph: Graph, half: str, cast_weights: bool) -> None:
    """Cast to `half` what a convolution reads, and to float32 what the head reads.

    cast_weights : keep the weights in float32 and cast them too; otherwise keep them in `half`.
    The first convolution stays in float32: with 3 channels it is slower in bfloat16.
    """
    in_half: Set[Node] = set()
    casts: Dict[Tuple[Node, str], Node] = {}

    def cast(edge: Edge, dtype: str) -> Edge:
        """One cast serves all that read `edge` in `dtype`."""
        source = edge.node
        if (source in in_half) == (dtype == half):
            return edge
        if source.is_variable and not cast_weights:
            source.attrs["__dtype__"] = TYPE_CODES[half]
            in_half.add(source)
            return edge
        if (source, dtype) not in casts:
            name = f"{source.name}_{dtype}"
            casts[source, dtype] = Node("amp_cast", name, {"dtype": dtype}, [Edge(source)])
            if dtype == half:
                in_half.add(casts[source, dtype])
        return Edge(casts[source, dtype])

    for node in graph.nodes():
        if node.is_variable:
            # Or else MXNet would infer the type from what reads it.
            node.attrs["__dtype__"] = TYPE_CODES["float32"]
        elif node.op == "Convolution" and not node.inputs[0].node.is_variable:
            node.inputs = [cast(edge, half) for edge in node.inputs]
            in_half.add(node)
        elif node.attrs.get("global_pool") == "True":
            node.inputs = [cast(edge, "float32") for edge in node.inputs]
        elif node.inputs[0].node in in_half:
            in_half.add(node)


def scale_loss(graph: Graph, factor: float) -> None:
    for node in graph.operators("SoftmaxOutput"):
        node.attrs["grad_scale"] = str(factor)


def weigh_loss(graph: Graph) -> None:
    """Multiply the gradient of each image by the sum of its label, of the shape (N, classes).

    SoftmaxOutput has no weights. It reads what it read, bit for bit: x + weight * (logits - x) with
    x = logits, whose gradient is stopped in x.
    """
    for node in graph.operators("SoftmaxOutput"):
        logits, label = node.inputs

        def add(op: str, *inputs: Edge, **attrs: str) -> Edge:
            return Edge(Node(op, f"class_weights_{op}", attrs, list(inputs)))

        weight = add("sum", label, axis="1", keepdims="True")
        still = add("BlockGrad", logits)
        weighed = add("broadcast_mul", add("elemwise_sub", logits, still), weight)
        node.inputs = [add("elemwise_add", still, weighed), add("broadcast_div", label, weight)]


def draw_by_mxnet_seed(graph: Graph) -> None:
    """Have dropout on a GPU follow mx.random.seed.

    cuDNN's does not: its state starts from a number of C's rand() and continues from batch to batch
    (MXNet 1.9.1, src/operator/nn/dropout-inl.h and src/resource.cc). MXNet's own draws from the
    generators that the seed sets.
    """
    for node in graph.operators("Dropout"):
        node.attrs["cudnn_off"] = "True"


def average_statistics_twice(graph: Graph) -> None:
    """Have two forward passes change the moving statistics as much as one did.

    cuDNN's BatchNorm changes them in the forward pass (src/operator/nn/cudnn/
    cudnn_batch_norm-inl.h), which memonger computes twice; on CPUs it is the backward pass that
    does. With the root of the momentum m: r (r old + (1 - r) new) + (1 - r) new = m old +
    (1 - m) new.
    """
    for node in graph.operators("BatchNorm"):
        node.attrs["momentum"] = repr(math.sqrt(float(node.attrs["momentum"])))


def recompute_in_backward(graph: Graph) -> None:
    """Mark what is not kept from the forward for the backward pass (see `RunningNetwork`)."""
    for node in graph.nodes():
        if node.op not in _KEPT:
            node.attrs["__force_mirroring__"] = "True"
