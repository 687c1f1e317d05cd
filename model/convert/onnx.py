"""A network as an ONNX file."""

import json
import tempfile
from pathlib import Path

import mxnet as mx
import numpy as np

from model import ModelError
from model.network.layers import architecture

#: The operators' version that MXNet 1.9.1 exports, and the file format's of that time, 2020.
OPSET, IR_VERSION = 13, 7
# Not in the exported graph: casts, as it is in float32 throughout, what does nothing in inference,
# and the slices that reverse an image before and after max-pooling, which MXNet can't export and
# ONNX, which has 'same' pooling, does not need.
_LEFT_OUT = ("Cast", "Dropout", "slice")


def export(network, output: str, image_shape: tuple) -> bytes:
    """Return the ONNX file of `network` (model.network.Network): input ``data`` (N, 3, H, W),
    float32, pixels as its preprocessing leaves them; output named `output`: ``softmax``,
    ``logits`` or ``features``.

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
    graph = model.graph
    graph.node[-1].output[0] = graph.output[0].name = output
    graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    # Constants need not be inputs; where they are, runtimes don't fold them.
    _keep(graph.input, {"data"})
    _keep(graph.initializer, {name for node in graph.node for name in node.input})
    for node in graph.node:
        if made["padding"] == "keras" and node.op_type == "MaxPool":
            _keep(node.attribute, {"kernel_shape", "strides"})
            node.attribute.append(onnx.helper.make_attribute("auto_pad", "SAME_UPPER"))
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


def _keep(values, names):
    """Remove from a list of ONNX's those of other names."""
    for value in [value for value in values if value.name not in names]:
        values.remove(value)


def _inference_symbol(symbol, made, output):
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


def _source(nodes, number, output) -> list:
    while nodes[number]["op"] in _LEFT_OUT:
        number, output = nodes[number]["inputs"][0][:2]
    return [number, output, 0]
