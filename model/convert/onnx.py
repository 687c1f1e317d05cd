"""A network as an ONNX file."""

import json
import tempfile
from pathlib import Path
from typing import Any, Collection, Dict, List, Sequence

import mxnet as mx
import numpy as np

from model import ModelError
from model.network.layers import architecture
from model.network.loading import Network

#: The operators' version that MXNet 1.9.1 exports, and the file format's of that time, 2020.
OPSET, IR_VERSION = 13, 7
# Not in the exported graph: casts, as it is in float32 throughout, what does nothing in inference,
# and the slices that reverse an image before and after max-pooling, which MXNet can't export and
# ONNX does not need, since its padding can be asymmetric.
_LEFT_OUT = ("Cast", "Dropout", "slice")


def export(network: Network, output: str, image_shape: Sequence[int]) -> bytes:
    """Return the ONNX file of `network`: input ``data`` (N, 3, H, W), float32, pixels as its
    preprocessing leaves them, channels red, green, blue; output named `output`: ``softmax``,
    ``logits`` or ``features``, each (N, numbers).

    The preprocessing and the class names are in its metadata, as JSON.
    Raises ModelError where the network has no such output or onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise ModelError("exporting needs onnx: pip install onnx==1.14.1") from None
    made = architecture(network.symbol)
    symbol = _inference_symbol(network.symbol, made, output)
    names = {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
    params = {**network.arg_params, **network.aux_params}
    with tempfile.TemporaryDirectory() as folder:
        exported = mx.onnx.export_model(
            symbol,
            {name: array.astype("float32") for name, array in params.items() if name in names},
            [(1, *image_shape)],
            np.float32,
            str(Path(folder, "x.onnx")),
            dynamic=True,
            dynamic_input_shapes=[("N", *image_shape)],
        )
        model = onnx.load(exported)
    # It is stamped with the latest versions that the onnx package knows.
    model.ir_version = IR_VERSION
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    if made["padding"] == "keras":
        _pad_as_same(model.graph, network.symbol, image_shape)
    _end_plainly(model.graph, output)
    onnx.helper.set_model_props(
        model,
        {
            "image_shape": json.dumps(list(image_shape)),
            "rgb_mean": json.dumps(list(network.mean)),
            "rgb_std": json.dumps(list(network.std)),
            "short_side": json.dumps(network.short_side),
            "classes": json.dumps(network.classes, ensure_ascii=False),
        },
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _pad_as_same(graph: Any, symbol: mx.sym.Symbol, image_shape: Sequence[int]) -> None:
    """Have max-pooling pad as TensorFlow's 'same' does: after an even number of rows or columns, on
    both sides of an odd one. In numbers, for ONNX's own SAME_UPPER is computed wrongly by some."""
    from onnx import helper

    inside = symbol.get_internals()
    _, shapes, _ = inside.infer_shape(data=(1, *image_shape))
    shape_of = dict(zip(inside.list_outputs(), shapes))
    for node in graph.node:
        if node.op_type == "MaxPool":
            rows, columns = shape_of[f"{node.output[0]}_reversed_output"][2:]
            _keep(node.attribute, {"kernel_shape", "strides"})
            node.attribute.append(helper.make_attribute("pads", [rows % 2, columns % 2, 1, 1]))


def _end_plainly(graph: Any, output: str) -> None:
    """Have the graph end in `output`, of shape (N, numbers), without the reshapes that MXNet puts
    after its last product, and without what nothing needs then."""
    last = graph.node[-1]
    if output != "features":
        products = [node for node in graph.node if node.op_type == "Gemm"]
        if output == "softmax":
            last.input[0] = products[-1].output[0]
        else:
            last = products[-1]
    last.output[0] = graph.output[0].name = output
    graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    needed = {output}
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
    for node in [node for node in graph.node if not needed.intersection(node.output)]:
        graph.node.remove(node)
    # Constants need not be inputs; where they are, runtimes don't fold them.
    _keep(graph.input, {"data"})
    _keep(graph.initializer, needed)


def _keep(values: Any, names: Collection[str]) -> None:
    """Remove from a list of ONNX's those of other names."""
    for value in [value for value in values if value.name not in names]:
        values.remove(value)


def _inference_symbol(symbol: mx.sym.Symbol, made: Dict[str, Any], output: str) -> mx.sym.Symbol:
    """Return the symbol that ends in `output`, of what `architecture` says is `made`."""
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        node["inputs"] = [_source(graph["nodes"], *entry[:2]) for entry in node["inputs"]]
    inside = mx.sym.load_json(json.dumps(graph)).get_internals()
    if output == "features":
        return inside["flatten_output" if made["num_classes"] else "features_output"]
    if not made["num_classes"]:
        raise ModelError(f"this network has no classifier: --output features, not {output}")
    logits = inside["fc1_output"]
    return logits if output == "logits" else mx.sym.softmax(logits, name="softmax")


def _source(nodes: List[Dict[str, Any]], number: int, output: int) -> List[int]:
    while nodes[number]["op"] in _LEFT_OUT:
        number, output = nodes[number]["inputs"][0][:2]
    return [number, output, 0]
