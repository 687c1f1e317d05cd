"""To ONNX, against onnxruntime."""

import json

import mxnet as mx
import numpy as np
import onnx
import onnxruntime
import pytest

from model.convert.__main__ import main
from symbol_xception import ORIGINAL_FILTERS, REDUCED_FILTERS, get_xception_symbol
from tests.model.convert.networks import (
    outputs,
    pictures,
    random_network,
)


@pytest.mark.parametrize(
    ("filters", "padding", "dtype", "size", "names"),
    [
        (REDUCED_FILTERS, "half", "float16", 71, ("softmax", "logits", "features")),
        (REDUCED_FILTERS, "keras", "float32", 74, ("softmax",)),
        (ORIGINAL_FILTERS, "half", "float32", 64, ("softmax",)),
        (ORIGINAL_FILTERS, "keras", "float32", 75, ("softmax",)),
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
        for number in (1, 7):
            images = pictures(number, size)
            (expected,) = outputs(inside[name], params, aux, images)
            (found,) = session.run([name], {"data": images})
            scale = max(1, np.abs(expected).max())
            assert np.abs(found - expected).max() <= 1e-5 * scale, (name, number)
        assert np.abs(expected[0] - expected[1]).max() > 1e-3
        assert name != "softmax" or expected.max() < 0.99


def test_an_onnx_file_says_what_it_is(from_keras, keras_files, tmp_path):
    (tmp_path / "names.txt").write_text("".join(f"Größe {i}\n" for i in range(1000)), "utf-8")
    prefix = str(tmp_path / "named")
    arguments = [str(keras_files / "legacy.h5"), prefix, "--classes", str(tmp_path / "names.txt")]
    assert main(["keras", *arguments, "--image-size", "150"]) == 0
    assert main(["onnx", prefix, "0", str(tmp_path / "x.onnx")]) == 0
    model = onnx.load(str(tmp_path / "x.onnx"))
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 13)]
    said = {each.key: json.loads(each.value) for each in model.metadata_props}
    assert said.pop("classes")[7] == "Größe 7"
    assert said == {
        "image_shape": [3, 150, 150],
        "rgb_mean": [127.5] * 3,
        "rgb_std": [127.5] * 3,
        "short_side": 171,
    }
