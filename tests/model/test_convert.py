"""model/convert/: every way in and out, against TensorFlow, onnxruntime and the old networks."""

import json
import multiprocessing
import os
import shutil
import subprocess
import zipfile
from concurrent.futures import ProcessPoolExecutor

import h5py
import mxnet as mx
import numpy as np
import onnx
import onnxruntime
import pytest

from model.convert.__main__ import main
from model.network.loading import parameter_shapes
from symbol_xception import ORIGINAL_FILTERS, REDUCED_FILTERS, get_xception_symbol
from tests.conftest import ROOT
from tests.script import test_symbol_xception as of_2017

KERAS_3 = ROOT / ".venv-keras3" / "bin" / "python"
SMALL = (8, 8, 8, 12, 12, 16, 16)


@pytest.fixture(scope="session")
def tf():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    return tensorflow


def random_values(random, name, shape, fan_in):
    """Values for a parameter with which the outputs differ from image to image."""
    if "gamma" in name:
        return random.uniform(0.7, 1.3, shape)
    if "var" in name:
        return random.uniform(0.5, 1.5, shape)
    if len(shape) == 1:
        return random.normal(0, 0.1, shape)
    if len(shape) == 2:  # the classifier's: features get up to a thousand
        return random.normal(0, 0.02 / fan_in**0.5, shape)
    gain = 1 if "depthwise" in name else 2
    return random.normal(0, (gain / fan_in) ** 0.5, shape)


def randomize(model, seed):
    """Give a Keras model random weights and moving statistics."""
    random = np.random.RandomState(seed)
    weights = []
    for variable in model.weights:
        shape = tuple(variable.shape)
        inputs = shape[:2] if "depthwise" in variable.name else shape[:-1]
        weights.append(random_values(random, variable.name, shape, fan_in=np.prod(inputs)))
    model.set_weights(weights)
    return model


@pytest.fixture(scope="session")
def keras_model(tf):
    """Xception for images of any size."""
    images = tf.keras.layers.Input((None, None, 3))
    return randomize(tf.keras.applications.Xception(weights=None, input_tensor=images), 0)


@pytest.fixture(scope="session")
def keras_files(keras_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    keras_model.save_weights(folder / "legacy.h5")
    keras_model.save(folder / "whole.h5")
    keras_model.save_weights(folder / "new.weights.h5")
    keras_model.save(folder / "new.keras")
    return folder


@pytest.fixture(scope="session")
def from_keras(keras_files):
    """The prefix of the checkpoint made from legacy.h5."""
    prefix = str(keras_files / "legacy")
    assert main(["keras", str(keras_files / "legacy.h5"), prefix]) == 0
    return prefix


def entries(prefix, epoch=0):
    arrays = mx.nd.load(f"{prefix}-{epoch:04d}.params")
    return {name: array.asnumpy() for name, array in arrays.items()}


def outputs(symbol, arg_params, aux_params, images):
    """The outputs for `images` (N, 3, H, W), as any script of MXNet's would get them."""
    labels = [(name, images.shape[:1]) for name in symbol.list_arguments() if "label" in name]
    module = mx.mod.Module(symbol, label_names=[name for name, _ in labels])
    module.bind([("data", images.shape)], labels or None, for_training=False)
    module.set_params(arg_params, aux_params, allow_extra=True)
    module.forward(mx.io.DataBatch([mx.nd.array(images)]), is_train=False)
    return [array.asnumpy() for array in module.get_outputs()]


def pictures(number, size):
    """(number, 3, size, size) values from -1 to 1: coarse squares of colour, and noise."""
    random = np.random.RandomState(size)
    coarse = random.uniform(-0.8, 0.8, (number, 3, 4, 4)).repeat(-(-size // 4), 2)
    coarse = coarse.repeat(-(-size // 4), 3)[:, :, :size, :size]
    return (coarse + random.uniform(-0.2, 0.2, coarse.shape)).astype(np.float32)


def random_network(num_classes, filters=REDUCED_FILTERS, **arguments):
    """Return (symbol, arg_params, aux_params) with random parameters and moving statistics."""
    symbol = get_xception_symbol(num_classes, filters, **arguments)
    random = np.random.RandomState(0)
    split = {"arg": {}, "aux": {}}
    for entry, shape in parameter_shapes(symbol).items():
        kind, name = entry.split(":")
        value = random_values(random, name, shape, fan_in=np.prod(shape[1:]))
        split[kind][name] = mx.nd.array(value, dtype=arguments.get("dtype", "float32"))
    return symbol, split["arg"], split["aux"]


def with_features(symbol):
    return mx.sym.Group([symbol, symbol.get_internals()["flatten_output"]])


# Keras


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
    """Keras 3 reads what is written here, and what it writes is read."""
    main(["to-keras", from_keras, "0", str(tmp_path / "back.h5")])
    script = """
import keras
model = keras.applications.Xception(weights=None)
model.load_weights("back.h5")
model.save_weights("new.weights.h5")
model.save("new.keras")
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
    for name in ("new.weights.h5", "new.keras"):
        assert main(["keras", str(tmp_path / name), str(tmp_path / name[-2:])]) == 0
        found = entries(tmp_path / name[-2:])
        assert all(np.array_equal(found[entry], array) for entry, array in expected.items())


def edited(path, edit):
    """Apply `edit` to the HDF5 file `path`; return it."""
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


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


# Sliced networks


def network_of_keras_names(num_classes, filters):
    """Keras' Xception as it was built for MXNet when that had no grouped convolutions: for 299x299
    pixels, or sizes whose halves are as even or odd. BatchNorm is MXNet's default: gamma is 1."""
    f0, f1, f2, f3, f4, f5, f6 = filters

    def norm(x, name):
        return mx.sym.BatchNorm(x, name=name)

    def conv(x, f, k, s, name):
        kernel = {"kernel": (k, k), "stride": (s, s)}
        return mx.sym.Convolution(x, num_filter=f, no_bias=True, name=name, **kernel)

    def sep(x, c, f, name):
        channels = mx.sym.SliceChannel(x, num_outputs=c)
        kernels = [
            mx.sym.Convolution(
                channels[i],
                num_filter=1,
                kernel=(3, 3),
                pad=(1, 1),
                no_bias=True,
                name=f"{name}_depthwise_kernel{i}",
            )
            for i in range(c)
        ]
        x = conv(mx.sym.Concat(*kernels), f, 1, 1, f"{name}_pointwise_kernel")
        return norm(x, f"{name}_bn")

    def relu(x):
        return mx.sym.Activation(x, act_type="relu")

    def halve(x, odd):
        if odd:
            x = mx.sym.Pad(x, mode="edge", pad_width=(0, 0, 0, 0, 1, 1, 1, 1))
        pooling = {"kernel": (3, 3), "stride": (2, 2), "pooling_convention": "full"}
        return mx.sym.Pooling(x, pool_type="max", **pooling)

    x = mx.sym.Variable("data")
    x = relu(norm(conv(x, f0 // 2, 3, 2, "block1_conv1"), "block1_conv1_bn"))
    x = relu(norm(conv(x, f0, 3, 1, "block1_conv2"), "block1_conv2_bn"))
    for i, (block, c, f, g, odd) in enumerate(
        [(2, f0, f1, f1, True), (3, f1, f2, f2, False), (4, f2, f3, f3, True)]
        + [(block, f3, f3, f3, None) for block in range(5, 13)]
        + [(13, f3, f3, f4, True)]
    ):
        if odd is None:
            y = x
            for j in (1, 2, 3):
                y = sep(relu(y), c, f, f"block{block}_sepconv{j}")
            x = x + y
            continue
        number = min(i, 3) + 1
        shortcut = conv(x, g, 1, 2, f"convolution2d_{number}")
        y = sep(relu(x) if i else x, c, f, f"block{block}_sepconv1")
        y = sep(relu(y), f, g, f"block{block}_sepconv2")
        x = halve(y, odd) + norm(shortcut, f"batchnormalization_{number}")
    x = relu(sep(x, f4, f5, "block14_sepconv1"))
    x = relu(sep(x, f5, f6, "block14_sepconv2"))
    x = mx.sym.Pooling(x, kernel=(1, 1), global_pool=True, pool_type="avg")
    x = mx.sym.FullyConnected(x, num_hidden=num_classes, name="predictions")
    return mx.sym.SoftmaxOutput(x, name="softmax")


SLICED = {"2017": (of_2017.network_of_2017, 64), "keras": (network_of_keras_names, 43)}


def save_sliced(naming, prefix):
    """Save a sliced network with random parameters after epoch 50; return (images, output)."""
    build, size = SLICED[naming]
    net = build(7, SMALL)
    executor = of_2017.bind(net, (2, 3, size, size))
    for _ in range(40):  # until the moving statistics fit the data: the softmax saturates before
        of_2017.train(executor)
    arrays = (executor.arg_dict, executor.aux_dict)
    params, aux_params = ({k: v.copy() for k, v in each.items()} for each in arrays)
    (output,) = executor.forward(is_train=False)
    images = params.pop("data").asnumpy()
    del params["softmax_label"]
    if naming == "keras":  # fixed gammas, whose values MXNet reads over
        gammas = {name: array for name, array in params.items() if name.endswith("gamma")}
        params.update({name: mx.nd.random.uniform(2, 3, g.shape) for name, g in gammas.items()})
    mx.model.save_checkpoint(prefix, 50, net, params, aux_params)
    return images, output.asnumpy()


@pytest.fixture(scope="module")
def sliced(tmp_path_factory):
    """Naming -> (prefix, images, output). Made without oneDNN, where these networks run."""
    folder = tmp_path_factory.mktemp("sliced")
    patch = pytest.MonkeyPatch()
    patch.setenv("MXNET_MKLDNN_ENABLED", "0")
    patch.setenv("MXNET_STORAGE_FALLBACK_LOG_VERBOSE", "0")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        made = {name: (str(folder / name), pool.submit(save_sliced, name, str(folder / name)))
                for name in SLICED}  # fmt: skip
        made = {name: (prefix, *saved.result()) for name, (prefix, saved) in made.items()}
    patch.undo()
    return made


@pytest.mark.parametrize("naming", SLICED)
def test_sliced_networks_give_the_same_outputs(sliced, naming, tmp_path):
    old, images, theirs = sliced[naming]
    new = str(tmp_path / "new")
    assert main(["sliced", old, "50", new, "--image-size", "43"]) == 0
    (ours,) = outputs(*mx.model.load_checkpoint(new, 50), images)
    assert theirs.max() < 0.99 and np.abs(theirs[0] - theirs[1]).max() > 1e-3
    assert np.abs(ours - theirs).max() <= 1e-5
    settings = json.loads((tmp_path / "new-0050.json").read_text())["run"]["settings"]
    assert settings["rgb_std"] == [127.5 if naming == "keras" else 1] * 3
    assert settings["image_shape"] == [3, 43, 43] and settings["short_side"] == 49


def test_a_sliced_network_with_something_wrong(sliced, tmp_path, capsys):
    old = sliced["2017"][0]
    shutil.copy(f"{old}-symbol.json", tmp_path / "x-symbol.json")
    name = "arg:Middle_flow_block_2_sepconv1_depthwise_kernel_3_weight"
    whole = mx.nd.load(f"{old}-0050.params")
    for edit, says in (
        (lambda arrays: arrays.pop(name), f"{name} is missing"),
        (
            lambda arrays: arrays.update({name: mx.nd.zeros((1, 1, 5, 5))}),
            f"{name} has the shape (1, 1, 5, 5), Xception's has (1, 1, 3, 3)",
        ),
        (lambda arrays: arrays.update(extra=mx.nd.zeros(1)), "extra is not in Xception"),
    ):
        arrays = dict(whole)
        edit(arrays)
        mx.nd.save(str(tmp_path / "x-0050.params"), arrays)
        assert main(["sliced", str(tmp_path / "x"), "50", str(tmp_path / "new")]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1, error
    assert main(["sliced", str(tmp_path / "x"), "7", str(tmp_path / "new")]) == 2
    assert "x-0007.params" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["x-0050.params", "x-symbol.json"]


# ONNX


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
