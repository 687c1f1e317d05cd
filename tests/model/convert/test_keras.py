"""From Keras and back, against TensorFlow and Keras 3."""

import json
import os
import shutil
import subprocess
import zipfile

import h5py
import mxnet as mx
import numpy as np
import pytest

from model.convert.__main__ import main
from symbol_xception import get_xception_symbol
from tests.model.convert.networks import (
    SMALL,
    edited,
    entries,
    outputs,
    pictures,
    random_network,
    with_features,
)
from tests.runs import ROOT

KERAS_3 = ROOT / ".venv-keras3" / "bin" / "python"


def test_same_max_pooling_at_every_size(tf):
    """The pooling of padding='keras', cut out of the network, against TensorFlow's 'same'."""
    net = get_xception_symbol(2, (2,) * 7, padding="keras").get_internals()
    nodes = json.loads(net["Entry_flow_b2_pool_restored_output"].tojson())["nodes"]
    first = next(i for i, n in enumerate(nodes) if n["name"] == "Entry_flow_b2_pool_reversed")
    nodes[first]["inputs"] = [[first - 1, 0, 0]]
    nodes[first - 1] = {"op": "null", "name": "data", "inputs": []}
    kept = nodes[first - 1 :]
    for node in kept:
        node["inputs"] = [[source - first + 1, 0, 0] for source, *_ in node["inputs"]]
    graph = {"nodes": kept, "arg_nodes": [0], "heads": [[len(kept) - 1, 0, 0]]}
    pooling = mx.sym.load_json(json.dumps(graph))
    random = np.random.RandomState(0)
    for height in [*range(1, 12), 74, 147]:
        # Negative, so that a padding with zeros would show.
        images = -random.uniform(1, 2, (1, 3, height, height + 1)).astype(np.float32)
        (ours,) = pooling.eval(data=mx.nd.array(images))
        theirs = tf.nn.max_pool2d(images.transpose(0, 2, 3, 1), 3, 2, "SAME").numpy()
        np.testing.assert_array_equal(ours.asnumpy(), theirs.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("size", [299, 224, 150, 71, 97])
def test_keras_gives_the_same_outputs(tf, keras_model, from_keras, size):
    images = pictures(2, size)
    pooled = tf.keras.Model(
        keras_model.input, [keras_model.output, keras_model.get_layer("avg_pool").output]
    )
    theirs, their_features = pooled.predict_on_batch(images.transpose(0, 2, 3, 1))
    symbol, arg_params, aux_params = mx.model.load_checkpoint(from_keras, 0)
    ours, features = outputs(with_features(symbol), arg_params, aux_params, images)
    assert 0.002 < theirs.max() < 0.9 and np.abs(theirs[0] - theirs[1]).max() > 5e-4
    assert np.abs(ours - theirs).max() <= 1e-5
    assert np.abs(features - their_features).max() <= 1e-4 * np.abs(their_features).max()


def test_every_layout_of_keras_gives_the_same_checkpoint(keras_files, from_keras):
    expected = entries(from_keras)
    assert len(expected) == 236
    for name in ("whole.h5", "new.weights.h5", "new.keras"):
        prefix = str(keras_files / name.split(".")[0]) + name[-2:]
        assert main(["keras", str(keras_files / name), prefix]) == 0
        found = entries(prefix)
        assert found.keys() == expected.keys()
        for entry, array in expected.items():
            np.testing.assert_array_equal(found[entry], array, err_msg=f"{name}: {entry}")


@pytest.mark.parametrize(
    "names",
    [("convolution2d_{}", "batchnormalization_{}", 1), ("conv2d_{}", "batch_normalization_{}", 8)],
)
def test_shortcuts_of_any_numbers(keras_files, from_keras, tmp_path, names):
    """As Keras 1 named them, and as Keras does for the third model of a session: 8, 9, 10, 11."""
    path = shutil.copy(keras_files / "legacy.h5", tmp_path)
    *names, first = names
    with h5py.File(path, "r+") as file:
        for old, new in zip(("conv2d", "batch_normalization"), names):
            for i in range(4):
                file.move(f"{old}_{i}" if i else old, new.format(first + i))
    assert main(["keras", str(path), str(tmp_path / "x")]) == 0
    found = entries(tmp_path / "x")
    assert all(np.array_equal(found[entry], a) for entry, a in entries(from_keras).items())


@pytest.mark.parametrize("top", [True, False])
def test_back_to_keras(tf, keras_model, keras_files, from_keras, top, tmp_path):
    """With the top, and the notop file that Keras publishes too."""
    prefix = from_keras
    if not top:
        features = tf.keras.Model(keras_model.input, keras_model.get_layer("avg_pool").output)
        features.save_weights(tmp_path / "notop.h5")
        prefix = str(tmp_path / "notop")
        assert main(["keras", str(tmp_path / "notop.h5"), prefix]) == 0
        symbol = mx.sym.load(f"{prefix}-symbol.json")
        assert symbol.list_outputs() == ["features_output"]
    assert main(["to-keras", prefix, "0", str(tmp_path / "back.h5")]) == 0
    images = tf.keras.layers.Input((None, None, 3))
    arguments = {"weights": None, "include_top": top, "pooling": "avg", "input_tensor": images}
    model = tf.keras.applications.Xception(**arguments)
    model.load_weights(tmp_path / "back.h5")
    for ours, theirs in zip(model.get_weights(), keras_model.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_keras_3(keras_files, from_keras, keras_model, tmp_path):
    """Keras 3 reads what is written here, and what it writes is read: at full size."""
    main(["to-keras", from_keras, "0", str(tmp_path / "back.h5")])
    script = """
import keras
model = keras.applications.Xception(weights=None)
model.load_weights("back.h5")
model.save_weights("new.weights.h5")
"""
    if not KERAS_3.exists():
        pytest.skip("no Keras 3: ./run.sh test installs it")
    process = subprocess.run(
        [KERAS_3, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    expected = entries(from_keras)
    assert main(["keras", str(tmp_path / "new.weights.h5"), str(tmp_path / "new")]) == 0
    found = entries(tmp_path / "new")
    assert all(np.array_equal(found[entry], array) for entry, array in expected.items())


def reshape(name, shape):
    def edit(file):
        del file[name]
        file[name] = np.zeros(shape, np.float32)

    return edit


def link_to_another_file(file):
    del file["block1_conv1"]
    file["block1_conv1"] = h5py.ExternalLink("other.h5", "block1_conv1")


def values_in_another_file(file):
    name = "block1_conv1/block1_conv1/kernel:0"
    del file[name]
    external = [("/etc/passwd", 0, 3456)]
    file.create_dataset(name, (3, 3, 3, 32), np.float32, external=external)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda file: file.pop("block4_sepconv2"), "layer block4_sepconv2 is missing"),
        (
            reshape("block3_sepconv1/block3_sepconv1/pointwise_kernel:0", (1, 1, 128, 255)),
            "layer block3_sepconv1: pointwise_kernel has the shape (1, 1, 128, 255), "
            "Xception's has (1, 1, 128, 256)",
        ),
        (lambda file: file.copy("block14_sepconv2", "dense_7"), "layer dense_7 is not in"),
        (lambda file: file.copy("conv2d", "conv2d_9"), "layer conv2d_9 is not in"),
        (link_to_another_file, "/block1_conv1 is a link"),
        (values_in_another_file, "not stored as Keras stores"),
        (reshape("predictions/predictions/kernel:0", ()), "layer predictions: kernel has the"),
    ],
)
def test_a_keras_file_that_is_not_xceptions(keras_files, tmp_path, capsys, edit, says):
    path = shutil.copy(keras_files / "legacy.h5", tmp_path)
    assert main(["keras", str(edited(path, edit)), str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert says in error and str(path) in error and error.count("\n") == 1
    assert os.listdir(tmp_path) == ["legacy.h5"]


def test_a_keras_file_that_is_damaged(keras_files, tmp_path, capsys):
    content = (keras_files / "new.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: len(content) // 2])
    (tmp_path / "flipped.keras").write_bytes(
        content[:200_000] + bytes([content[200_000] ^ 1]) + content[200_001:]
    )
    content = (keras_files / "legacy.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.h5").write_text("hello")
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    names = sorted(os.listdir(tmp_path))
    for name in [*names, "none.h5"]:
        assert main(["keras", str(tmp_path / name), str(tmp_path / "new")]) == 2, name
        error = capsys.readouterr().err
        assert name in error and error.count("\n") == 1, error
    assert sorted(os.listdir(tmp_path)) == names


def test_what_keras_has_no_network_for(tmp_path, capsys):
    mx.model.save_checkpoint(str(tmp_path / "x"), 1, *random_network(7, SMALL))
    assert main(["to-keras", str(tmp_path / "x"), "1", str(tmp_path / "x.h5")]) == 2
    assert "filter_list" in capsys.readouterr().err
    assert not (tmp_path / "x.h5").exists()
