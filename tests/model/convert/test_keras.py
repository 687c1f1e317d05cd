"""From Keras' own Xception and back, against TensorFlow and Keras 3."""

import json
import os
import subprocess

import mxnet as mx
import numpy as np
import pytest

from model.convert.__main__ import main
from symbol_xception import get_xception_symbol
from tests.model.convert.conftest import KERAS_3
from tests.model.convert.networks import (
    SMALL,
    assert_loads,
    entries,
    outputs,
    pictures,
    random_network,
    with_features,
)


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
    theirs, their_features = (x.numpy() for x in pooled(images.transpose(0, 2, 3, 1)))
    symbol, arg_params, aux_params = mx.model.load_checkpoint(from_keras, 0)
    ours, features = outputs(with_features(symbol), arg_params, aux_params, images)
    assert 0.002 < theirs.max() < 0.9 and np.abs(theirs[0] - theirs[1]).max() > 5e-4
    assert np.abs(ours - theirs).max() <= 1e-5
    assert np.abs(features - their_features).max() <= 1e-4 * np.abs(their_features).max()


def test_a_whole_model_of_keras_gives_the_same_checkpoint(keras_files, from_keras, tmp_path):
    expected = entries(from_keras)
    assert len(expected) == 236
    assert main(["keras", str(keras_files / "new.keras"), str(tmp_path / "x")]) == 0
    found = entries(tmp_path / "x")
    assert found.keys() == expected.keys()
    for entry, array in expected.items():
        np.testing.assert_array_equal(found[entry], array, err_msg=entry)


def test_back_to_keras(tf, keras_model, from_keras, tmp_path, capsys):
    capsys.readouterr()
    assert main(["to-keras", from_keras, "0", str(tmp_path / "back.h5")]) == 0
    assert capsys.readouterr().out == (
        f"{tmp_path}/back.h5: for Xception(weights=None, classes=1000); "
        "mean 127.5,127.5,127.5, std 127.5,127.5,127.5 of pixels from 0 to 255\n"
    )
    pixels = np.linspace(0, 255, 7, dtype=np.float32)
    expected = tf.keras.applications.xception.preprocess_input(pixels.copy())
    np.testing.assert_allclose((pixels - 127.5) / 127.5, expected, atol=1e-6)
    assert_loads(keras_model, tmp_path / "back.h5")


def test_how_keras_loads_what_was_trained_otherwise(keras_files, from_keras, tmp_path, capsys):
    made, plain = str(tmp_path / "made"), str(tmp_path / "plain")
    pixels = ["--image-size", "150", "--rgb-mean", "0,0,0", "--rgb-std", "1,1,1"]
    assert main(["keras", str(keras_files / "legacy.h5"), made, *pixels]) == 0
    mx.model.save_checkpoint(plain, 0, *mx.model.load_checkpoint(from_keras, 0))
    capsys.readouterr()
    for prefix in (made, plain):
        assert main(["to-keras", prefix, "0", f"{prefix}.h5"]) == 0
    assert capsys.readouterr().out == (
        f"{made}.h5: for Xception(weights=None, classes=1000, input_shape=(150, 150, 3)); "
        "mean 0,0,0, std 1,1,1 of pixels from 0 to 255\n"
        f"{plain}.h5: for Xception(weights=None, classes=1000); "
        "the checkpoint does not say how its images are normalised\n"
    )


def test_keras_3(from_keras, tmp_path):
    """Keras 3 reads what is written here, and what it writes is read: at full size."""
    main(["to-keras", from_keras, "0", str(tmp_path / "back.h5")])
    script = """
import keras
from keras_models import without_initial_weights
with without_initial_weights(keras):
    model = keras.applications.Xception(weights=None)
model.load_weights("back.h5")
model.save_weights("new.weights.h5")
"""
    if not KERAS_3.exists():
        pytest.skip("no Keras 3: ./run.sh test installs it")
    process = subprocess.run(
        [KERAS_3, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": os.path.dirname(__file__)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    expected = entries(from_keras)
    assert main(["keras", str(tmp_path / "new.weights.h5"), str(tmp_path / "new")]) == 0
    found = entries(tmp_path / "new")
    assert all(np.array_equal(found[entry], array) for entry, array in expected.items())


def test_what_keras_has_no_network_for(tmp_path, capsys):
    mx.model.save_checkpoint(str(tmp_path / "x"), 1, *random_network(7, SMALL))
    assert main(["to-keras", str(tmp_path / "x"), "1", str(tmp_path / "x.h5")]) == 2
    assert "filter_list" in capsys.readouterr().err
    assert not (tmp_path / "x.h5").exists()
