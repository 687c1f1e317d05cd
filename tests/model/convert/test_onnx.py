"""To ONNX, against onnxruntime and OpenCV."""

import json

import cv2
import mxnet as mx
import numpy as np
import onnx
import onnxruntime
import pytest

from model.convert.__main__ import main
from symbol_xception import REDUCED_FILTERS, get_xception_symbol
from tests.model.convert.networks import SMALL, outputs, pictures, random_network
from tests.networks import save_network


@pytest.mark.parametrize(
    ("filters", "padding", "dtype", "size", "names"),
    [
        (SMALL, "half", "float16", 71, ("softmax", "logits", "features")),
        (SMALL, "keras", "float32", 74, ("softmax", "logits", "features")),
        (SMALL, "keras", "float32", 150, ("softmax",)),
        (SMALL, "torch", "float32", 71, ("softmax",)),
        (REDUCED_FILTERS, "half", "float32", 64, ("softmax",)),
        (SMALL, "keras", "float32", 75, ("softmax",)),
    ],
)
def test_onnxruntime_gives_the_same_outputs(filters, padding, dtype, size, names, tmp_path):
    symbol, params, aux = random_network(7, filters, padding=padding, dtype=dtype)
    prefix = str(tmp_path / "x")
    mx.model.save_checkpoint(prefix, 3, symbol, params, aux)
    params, aux = ({k: v.astype("float32") for k, v in each.items()} for each in (params, aux))
    inside = get_xception_symbol(7, filters, padding=padding).get_internals()
    inside = {"softmax": inside["softmax_output"], "logits": inside["fc1_output"],
              "features": inside["flatten_output"]}  # fmt: skip
    for name in names:
        out = str(tmp_path / f"{name}.onnx")
        assert main(["onnx", prefix, "3", out, "--output", name, f"--image-size={size}"]) == 0
        session = onnxruntime.InferenceSession(out)
        assert [value.name for value in session.get_inputs()] == ["data"]
        assert session.get_outputs()[0].shape == ["N", 7 if name != "features" else filters[6]]
        for number in (1, 7):
            images = pictures(number, size)
            (expected,) = outputs(inside[name], params, aux, images)
            (found,) = session.run([name], {"data": images})
            scale = max(1, np.abs(expected).max())
            assert np.abs(found - expected).max() <= 1e-5 * scale, (name, number)
            # Anew for each size of a batch: OpenCV 4.8 is wrong about a second one.
            opencv = cv2.dnn.readNetFromONNX(out)
            opencv.setInput(images)
            found = opencv.forward()
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= 1e-5 * scale, (name, number)
        assert np.abs(expected[0] - expected[1]).max() > 1e-3
        assert name != "softmax" or expected.max() < 0.99


def test_pads_are_numbers(tmp_path):
    """OpenCV 5's new engine computes auto_pad=SAME_UPPER wrongly."""
    even, odd = [0, 0, 1, 1], [1, 1, 1, 1]
    mx.model.save_checkpoint(str(tmp_path / "x"), 0, *random_network(7, SMALL, padding="keras"))
    for size, pads in ((74, [even, odd, odd, odd]), (75, [odd, even, odd, odd])):
        out = str(tmp_path / "x.onnx")
        assert main(["onnx", str(tmp_path / "x"), "0", out, f"--image-size={size}"]) == 0
        nodes = onnx.load(out).graph.node
        attributes = [{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
                      for node in nodes if node.op_type == "MaxPool"]  # fmt: skip
        assert [each["pads"] for each in attributes] == pads
        assert not any("auto_pad" in each for each in attributes)
        assert not {"Shape", "Reshape"} & {node.op_type for node in nodes}


def test_an_onnx_file_says_what_it_is(tmp_path):
    settings = {
        "image_shape": [3, 71, 75],
        "rgb_mean": [127.5] * 3,
        "rgb_std": [58.4, 57.1, 57.4],
        "short_side": 81,
        "classes": [f"Größe {i}" for i in range(10)],
    }
    save_network(str(tmp_path / "x"), SMALL, settings)
    assert main(["onnx", str(tmp_path / "x"), "0", str(tmp_path / "x.onnx")]) == 0
    model = onnx.load(str(tmp_path / "x.onnx"))
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 13)]
    assert {each.key: json.loads(each.value) for each in model.metadata_props} == settings
