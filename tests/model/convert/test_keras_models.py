"""Fine-tuned Keras models, against the Keras that built them, and what is refused of them."""

import json
import os
import shutil
from pathlib import Path

import h5py
import mxnet as mx
import numpy as np
import pytest

from model import ModelError
from model.convert.__main__ import main
from model.convert.keras import structure
from tests.model.convert import keras_models
from tests.model.convert.networks import assert_loads, edited, entries, outputs

SIZE = keras_models.SIZE


pytestmark = pytest.mark.usefixtures("thin")


def convert(path, prefix, *arguments):
    """Convert; return the settings of the checkpoint."""
    assert main(["keras", str(path), str(prefix), *arguments]) == 0
    return json.loads(Path(f"{prefix}-0000.json").read_text())["run"]["settings"]


@pytest.mark.parametrize("kind", keras_models.KINDS)
@pytest.mark.parametrize("version", ["2", "3"])
def test_fine_tuned_models_give_the_same_outputs(saved, version, kind, tmp_path, capsys):
    folder = saved(version)
    settings = convert(folder / f"{kind}.keras", tmp_path / "x")
    said = capsys.readouterr().err
    assert ("pixels from -1 to 1" in said) == (kind == "flat")
    assert settings["image_shape"] == [3, SIZE, SIZE]
    mean, std = np.float32(settings["rgb_mean"]), np.float32(settings["rgb_std"])
    images = ((keras_models.pixels() - mean) / std).transpose(0, 3, 1, 2)
    (ours,) = outputs(*mx.model.load_checkpoint(str(tmp_path / "x"), 0), images)
    theirs = np.load(folder / "outputs.npz")[kind]
    if kind == "flat":  # logits
        theirs = np.exp(theirs) / np.exp(theirs).sum(1, keepdims=True)
    if kind == "sequential":  # one sigmoid
        assert ours.shape == (2, 2)
        ours = ours[:, 1:]
    assert np.abs(theirs[0] - theirs[1]).max() > 0.01
    assert np.abs(ours - theirs).max() <= 1e-5

    expected = entries(tmp_path / "x")
    numbers = [",".join(map(str, settings[name])) for name in ("rgb_mean", "rgb_std")]
    for name in (f"{kind}-weights.h5", f"{kind}.weights.h5", f"{kind}.weights.json", f"{kind}.h5",
                 f"{kind}-folder"):  # fmt: skip
        if not (folder / name).exists():
            continue
        if kind == "sequential" and "weights" in name:
            assert main(["keras", str(folder / name), str(tmp_path / "y")]) == 2
            assert "normalization is not in Keras' Xception" in capsys.readouterr().err
            continue
        arguments = []
        if "weights" in name:
            arguments = [f"--image-size={SIZE}"]
            arguments += [f"--rgb-{n}={v}" for n, v in zip(("mean", "std"), numbers)]
            arguments.append("--activation=softmax")
        capsys.readouterr()
        assert convert(folder / name, tmp_path / name, *arguments) == settings
        assert ("assumed" in capsys.readouterr().err) == (kind == "flat" and not arguments)
        found = entries(tmp_path / name)
        assert found.keys() == expected.keys()
        for entry, array in expected.items():
            np.testing.assert_array_equal(found[entry], array, err_msg=f"{name}: {entry}")


def test_weights_that_keras_loads_by_order(base, tmp_path, capsys):
    """As the file is that Keras publishes: named in the order of creation, by Keras 1."""
    base.save_weights(tmp_path / "today.h5")
    words = {"Conv2D": "convolution2d", "SeparableConv2D": "separableconvolution2d",
             "BatchNormalization": "batchnormalization"}  # fmt: skip
    shortcuts = [layer for layer in base.layers if layer.name[:4] in ("conv", "batc")]
    creation = [layer for layer in base.layers if layer.weights and layer not in shortcuts]
    for block, pair in zip((2, 3, 4, 13), zip(shortcuts[::2], shortcuts[1::2])):
        names = [layer.name for layer in creation]
        place = names.index(f"block{block}_sepconv1")
        creation[place:place] = pair
    numbers, names = dict.fromkeys(words, 0), {}
    for layer in creation:
        kind = type(layer).__name__
        numbers[kind] += 1
        names[layer.name] = f"{words[kind]}_{numbers[kind]}"
    with h5py.File(tmp_path / "published.h5", "w") as file:
        listed = [names.get(layer.name, layer.name) for layer in base.layers]
        file.attrs["layer_names"] = [name.encode() for name in listed]
        for name, layer in zip(listed, base.layers):
            group = file.create_group(name)
            arrays = {f"{name}_{i}:0".encode(): w for i, w in enumerate(layer.get_weights())}
            group.attrs["weight_names"] = list(arrays)
            for word, array in arrays.items():
                group[word] = array
    assert_loads(base, tmp_path / "published.h5")
    convert(tmp_path / "today.h5", tmp_path / "today")
    assert "order" not in capsys.readouterr().err
    convert(tmp_path / "published.h5", tmp_path / "published")
    assert "layers in the file's order" in capsys.readouterr().err
    found = entries(tmp_path / "published")
    for entry, array in entries(tmp_path / "today").items():
        np.testing.assert_array_equal(found[entry], array, err_msg=entry)

    def swap_the_first(file):
        names = list(file.attrs["layer_names"])
        names[1], names[4] = names[4], names[1]
        file.attrs["layer_names"] = names

    edited(tmp_path / "published.h5", swap_the_first)
    assert main(["keras", str(tmp_path / "published.h5"), str(tmp_path / "y")]) == 2
    assert "layer convolution2d_2: kernel has the shape" in capsys.readouterr().err


# What is refused


def with_head(head):
    """Return what builds a flat model with `head` (models, features) on the base."""

    def build(models, base):
        x = models.keras.layers.GlobalAveragePooling2D()(base.outputs[0])
        return models.keras.Model(base.inputs[0], head(models, x))

    return build


def before_base(layer):
    """Return what builds a model with `layer` (keras) on the images."""

    def build(models, base):
        images = models.keras.Input((SIZE, SIZE, 3))
        return models.keras.Model(images, base(layer(models.keras)(images)))

    return build


def hidden(models, x):
    return models.dense(2, activation="softmax")(models.dense(9, activation="relu")(x))


def max_pooled(models, base):
    pooled = models.keras.layers.GlobalMaxPooling2D()(base.outputs[0])
    return models.keras.Model(base.inputs[0], pooled)


def two_outputs(models, base):
    both = [base.outputs[0], base.get_layer("block3_pool").output]
    return models.keras.Model(base.inputs[0], both)


def with_training(models, base):
    images = models.keras.Input((SIZE, SIZE, 3))
    return models.keras.Model(images, base(images, training=True))


def changed(name, **attributes):
    """Return what gives the base's configuration with other attributes of the layer `name`."""

    def build(models, base):
        config = json.loads(base.to_json())
        layers = {each["name"]: each["config"] for each in config["config"]["layers"]}
        layers[name].update(attributes)
        return config

    return build


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (with_head(hidden), "(Dense) is a hidden layer before layer dense_"),
        (
            with_head(lambda models, x: models.keras.layers.BatchNormalization()(x)),
            "(BatchNormalization) is after Xception's pooling",
        ),
        (max_pooled, "(GlobalMaxPooling2D) is where Xception has a layer GlobalAveragePooling2D"),
        (two_outputs, "2 outputs: block14_sepconv2_act, block3_pool"),
        (with_training, "(Functional) is called with training=True"),
        (
            before_base(lambda keras: keras.layers.Resizing(71, 71)),
            "(Resizing) is before Xception: only the scaling of pixels can be there",
        ),
        (before_base(lambda keras: lambda x: 1 - x), "begins with a number"),
        (
            changed("block1_conv1", padding="same"),
            "layer block1_conv1 (Conv2D): its padding is same, Xception's is valid",
        ),
        (
            changed("block5_sepconv2", dilation_rate=(2, 2)),
            "block5_sepconv2 (SeparableConv2D): its dilation_rate is (2, 2), Xception's is (1, 1)",
        ),
        (
            changed("block7_sepconv1_act", activation="elu"),
            "block7_sepconv1_act (Activation): its activation is elu, Xception's is relu",
        ),
        (
            changed("block4_pool", strides=(1, 1), pool_size=(2, 2)),
            "block4_pool (MaxPooling2D): its pool_size is (2, 2), Xception's is (3, 3)",
        ),
        (changed("block2_sepconv1_bn", epsilon=1e-5), "several epsilons"),
    ],
)
def test_what_is_refused_of_a_model(models, base, build, says):
    built = build(models, base)
    config = built if isinstance(built, dict) else json.loads(built.to_json())
    with pytest.raises(ModelError) as error:
        structure.follow(config)
    assert says in str(error.value)


def test_a_model_of_images_of_any_size(base):
    config = json.loads(base.to_json())
    assert structure.follow(config).image_shape == (3, SIZE, SIZE)
    config["config"]["layers"][0]["config"]["batch_input_shape"] = [None, None, None, 3]
    assert structure.follow(config).image_shape is None


ACTIVATIONS = [
    # units, activation, loss, --activation, what is said; or the number of classes
    (3, "sigmoid", None, None, "has 3 sigmoids, one for each of several labels"),
    (1, "softmax", None, None, "is a softmax of one output, which is always 1"),
    (3, "tanh", None, None, "has the activation tanh"),
    (3, "softmax", None, "sigmoid", "has the activation softmax, not sigmoid"),
    (3, None, None, None, "is linear, and no loss says"),
    (3, None, "mse", None, "is linear, and no loss says"),
    (3, None, None, "softmax", 3),
    (1, None, None, "sigmoid", 2),
]


@pytest.mark.parametrize(("units", "activation", "loss", "given", "says"), ACTIVATIONS)
def test_activations(saved, tmp_path, capsys, units, activation, loss, given, says):
    """Of the last layer, in a file whose configuration is edited."""
    path = shutil.copy(saved("2") / "flat.h5", tmp_path / "x.h5")

    def edit(file):
        config = json.loads(file.attrs["model_config"])
        dense = config["config"]["layers"][-1]["config"]
        dense.update(units=units, activation=activation)
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["training_config"] = json.dumps({"loss": loss})
        weights = file["model_weights"][dense["name"]]
        (name,) = weights.attrs["weight_names"]
        kernel = weights[name][:, :units]
        del weights[name]
        weights[name] = kernel

    edited(path, edit)
    arguments = ["keras", str(path), str(tmp_path / "x")]
    code = main([*arguments, *([f"--activation={given}"] if given else [])])
    error = capsys.readouterr().err
    if isinstance(says, int):
        assert code == 0 and len(entries(tmp_path / "x")["arg:fc1_bias"]) == says
    else:
        assert code == 2 and says in error and error.count("\n") == 1


def test_one_output_in_weights_alone(saved, tmp_path, capsys):
    path = shutil.copy(saved("2") / "sequential-weights.h5", tmp_path / "x.h5")
    edited(path, lambda file: file.pop("normalization"))
    arguments = ["keras", str(path), str(tmp_path / "x")]
    assert main(arguments) == 2
    assert "has one output, which can't be a softmax" in capsys.readouterr().err
    assert main([*arguments, "--activation=sigmoid"]) == 0
    assert main(["keras", str(saved("2") / "sequential.h5"), str(tmp_path / "whole")]) == 0
    found = entries(tmp_path / "x")
    for entry, array in entries(tmp_path / "whole").items():
        np.testing.assert_array_equal(found[entry], array, err_msg=entry)


def test_files_that_are_something_else(saved, tf, tmp_path, capsys):
    """One line each, with the way out where there is one."""
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(2,))])
    model.save(tmp_path / "saved_model")
    model.save_weights(tmp_path / "weights")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["table/rows"] = np.zeros(3)
    shutil.make_archive(tmp_path / "other", "zip", tmp_path / "folder")
    (tmp_path / "x.weights.json").write_text('{"weight_map": {"a": "../other.h5"}}')
    (tmp_path / "y.weights.json").write_text('{"weight_map": {"a": "none.h5"}}')
    capsys.readouterr()
    for name, says in {
        "none.h5": "No such file or directory",
        "folder": "a folder, not a Keras file",
        "/": "/: a folder, not a Keras file",
        "fifo": "not a regular file",
        "saved_model": "a SavedModel folder; only TensorFlow reads its variables: in TensorFlow, "
        "tf.keras.models.load_model",
        "weights": "a TensorFlow checkpoint; only TensorFlow reads it",
        "weights.index": "a TensorFlow checkpoint; only TensorFlow reads it",
        "other.h5": "an HDF5 file, but not Keras': it has no layers",
        "other.zip": "a zip archive without config.json: not a .keras file",
        "x.weights.json": "'../other.h5' is not a file in its folder",
        "y.weights.json": "No such file or directory",
    }.items():
        assert main(["keras", str(tmp_path / name), str(tmp_path / "new")]) == 2, name
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1, error


def test_groups_within_themselves_end(tmp_path, capsys):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_group("layers/functional")
        file["layers/functional/layers"] = file["layers"]
    assert main(["keras", str(tmp_path / "x.h5"), str(tmp_path / "new")]) == 2
    assert "more groups than a network has" in capsys.readouterr().err
