"""From sliced networks, against these in MXNet without oneDNN, where they run."""

import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor

import mxnet as mx
import numpy as np
import pytest

from model.convert.__main__ import main
from tests.model.convert.networks import (
    SMALL,
    outputs,
)
from tests.network_of_2017 import network_of_2017
from tests.networks import bind, train


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


SLICED = {"2017": (network_of_2017, 64), "keras": (network_of_keras_names, 43)}


def following_at_once(net):
    """The network with moving statistics that are those of the last few batches."""
    graph = json.loads(net.tojson())
    for node in graph["nodes"]:
        if node["op"] == "BatchNorm":
            node["attrs"] = {**node.get("attrs", {}), "momentum": "0.5"}
    return mx.sym.load_json(json.dumps(graph))


def save_sliced(naming, prefix):
    """Save a sliced network with random parameters after epoch 50; return (images, output)."""
    build, size = SLICED[naming]
    net = build(7, SMALL)
    executor = bind(following_at_once(net), (2, 3, size, size))
    for _ in range(10):  # until the moving statistics fit the data: the softmax saturates before
        train(executor)
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
    (tmp_path / "names.txt").write_text("".join(f"Größe {i}\n" for i in range(7)), "utf-8")
    arguments = ["--image-size", "43", "--classes", str(tmp_path / "names.txt")]
    assert main(["sliced", old, "50", new, *arguments]) == 0
    (ours,) = outputs(*mx.model.load_checkpoint(new, 50), images)
    assert theirs.max() < 0.99 and np.abs(theirs[0] - theirs[1]).max() > 1e-3
    assert np.abs(ours - theirs).max() <= 1e-5
    settings = json.loads((tmp_path / "new-0050.json").read_text())["run"]["settings"]
    assert settings["rgb_std"] == [127.5 if naming == "keras" else 1] * 3
    assert settings["image_shape"] == [3, 43, 43] and settings["short_side"] == 49
    assert settings["classes"][6] == "Größe 6"


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
        (
            lambda arrays: arrays.update({name: mx.nd.full((1, 1, 3, 3), np.nan)}),
            f"{name} has numbers that are NaN or infinite",
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
