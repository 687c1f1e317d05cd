"""symbol_xception.py: structure and arguments."""

import json
import re

import mxnet as mx
import numpy as np
import pytest

from model.network.running import RunningNetwork
from symbol_xception import (
    ORIGINAL_FILTERS,
    REDUCED_FILTERS,
    get_symbol,
    get_xception_symbol,
)
from tests.network_of_2017 import layers
from tests.networks import SMALL, bind, train


def expected_shapes(filters, num_classes):
    """(shapes of the trained parameters, shapes of the moving statistics) by name."""
    trained = {"fc1_weight": (num_classes, filters[6]), "fc1_bias": (num_classes,)}
    moving = {}
    for kind, name, c_in, c_out in layers(filters):
        if kind == "sep":
            trained[f"{name}_depthwise_kernel_weight"] = (c_in, 1, 3, 3)
            trained[f"{name}_pointwise_kernel_conv2d_weight"] = (c_out, c_in, 1, 1)
        else:
            k = int(kind[-1])
            trained[f"{name}_conv2d_weight"] = (c_out, c_in, k, k)
        trained.update({f"{name}_bn_gamma": (c_out,), f"{name}_bn_beta": (c_out,)})
        moving.update({f"{name}_bn_moving_mean": (c_out,), f"{name}_bn_moving_var": (c_out,)})
    return trained, moving


def shapes(net, size=64, inputs=("data", "softmax_label")):
    args, _, auxs = net.infer_shape(data=(2, 3, size, size))
    trained = {k: v for k, v in zip(net.list_arguments(), args) if k not in inputs}
    return trained, dict(zip(net.list_auxiliary_states(), auxs))


def nodes(net, op):
    """{name: attributes} of the operators of a kind."""
    graph = json.loads(net.tojson())["nodes"]
    return {node["name"]: node.get("attrs", {}) for node in graph if node["op"] == op}


# Structure


def test_original_filters_have_the_published_parameter_counts():
    trained, moving = shapes(get_xception_symbol(1000, ORIGINAL_FILTERS))
    assert sum(int(np.prod(shape)) for shape in trained.values()) == 22855952
    assert sum(int(np.prod(shape)) for shape in moving.values()) == 54528


@pytest.mark.parametrize("filters", [REDUCED_FILTERS, ORIGINAL_FILTERS, (2, 3, 5, 7, 11, 13, 17)])
def test_names_and_shapes_of_parameters(filters):
    net = get_xception_symbol(10, filters)
    assert shapes(net) == expected_shapes(filters, 10)
    names = net.list_arguments() + net.list_auxiliary_states()
    assert len(set(names)) == len(names)
    assert net.list_arguments()[0] == "data"
    assert net.list_arguments()[-1] == "softmax_label"
    assert [name for name in names if name.endswith("bias")] == ["fc1_bias"]


@pytest.mark.parametrize("padding", ["half", "keras", "torch"])
def test_names_of_operators(padding):
    """Users cut features out of a checkpoint's symbol by these names."""
    pools = ["pool", *(["pool_reversed", "pool_restored"] if padding == "keras" else [])]
    expected = ["global_pool", "dropout", "flatten", "fc1", "softmax"]
    expected += [f"Middle_flow_block_{i}_add" for i in range(8)]
    for kind, name, _, _ in layers(SMALL):
        parts = {"conv3": ["conv2d", "bn", "relu"], "conv1": ["conv2d", "bn"]}.get(
            kind, ["depthwise_kernel", "pointwise_kernel_conv2d", "bn"]
        )
        if name.startswith("Exit_flow_b6"):
            parts.append("relu")
        elif kind == "sep" and name != "Entry_flow_b2_sepconv1":
            parts.append("pre_relu")
        expected += [f"{name}_{part}" for part in parts]
        if kind == "conv1":
            expected += [name.replace("conv1", part) for part in ("add", *pools)]
    graph = json.loads(get_xception_symbol(7, SMALL, padding=padding).tojson())["nodes"]
    assert sorted(n["name"] for n in graph if n["op"] != "null") == sorted(expected)


def test_convolutions():
    net = get_xception_symbol(workspace=77)
    convolutions = nodes(net, "Convolution")
    assert len(convolutions) == 74
    depthwise = {name for name, attrs in convolutions.items() if attrs["num_group"] != "1"}
    assert len(depthwise) == 34
    for name, attrs in convolutions.items():
        assert name.endswith("_depthwise_kernel") == (name in depthwise)
        assert attrs["workspace"] == "77"
        assert attrs["no_bias"] == "True"
    trained, _ = shapes(net)
    for name in depthwise:
        channels = convolutions[name]["num_filter"]
        assert convolutions[name]["num_group"] == channels
        assert trained[f"{name}_weight"] == (int(channels), 1, 3, 3)


def test_batch_norms():
    norms = nodes(get_xception_symbol(bn_mom=0.75, bn_eps=1e-3), "BatchNorm")
    assert len(norms) == 40
    for attrs in norms.values():
        assert attrs["fix_gamma"] == "False"
        assert float(attrs["eps"]) == 1e-3
        assert float(attrs["momentum"]) == 0.75
    (attrs, *_) = nodes(get_xception_symbol(), "BatchNorm").values()
    assert (float(attrs["eps"]), float(attrs["momentum"])) == (2e-5, 0.9)


def test_relus():
    # Stem; entry flow, without the first, which would come right after the stem's; middle; exit.
    assert len(nodes(get_xception_symbol(), "Activation")) == 2 + (1 + 2 + 2) + 8 * 3 + (2 + 2)


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (71, 64), (224, 224)])
def test_outputs(size):
    net = get_xception_symbol(7, SMALL)
    assert net.list_outputs() == ["softmax_output"]
    assert net.infer_shape(data=(2, 3, *size))[1] == [(2, 7)]
    assert net.infer_shape(data=(2, 3, *size))[0][-1] == (2,)
    features = get_xception_symbol(filter_list=SMALL, features=True)
    assert features.list_outputs() == ["features_output"]
    assert features.infer_shape(data=(2, 3, *size))[1] == [(2, SMALL[6])]
    trained, moving = expected_shapes(SMALL, 7)
    del trained["fc1_weight"], trained["fc1_bias"]
    assert shapes(features) == (trained, moving)


def test_size_of_the_last_feature_map():
    net = get_xception_symbol(10, SMALL).get_internals()["Exit_flow_b6_sepconv2_relu_output"]
    for size, left in ((32, 1), (224, 7), (299, 10)):
        assert net.infer_shape(data=(2, 3, size, size))[1] == [(2, SMALL[6], left, left)]


@pytest.mark.parametrize("padding", ["keras", "torch"])
def test_padding_of_others(padding):
    """The parameters stay; the sizes are those of Keras' model.summary(), and PyTorch's."""
    net = get_xception_symbol(7, SMALL, padding=padding)
    assert shapes(net) == expected_shapes(SMALL, 7)
    for name, size in (
        ("Entry_flow_b1_conv1_conv2d", 149),
        ("Entry_flow_b1_conv2_conv2d", 147),
        ("Entry_flow_b2_add", 74),
        ("Entry_flow_b3_add", 37),
        ("Entry_flow_b4_add", 19),
        ("Exit_flow_b5_add", 10),
    ):
        inside = net.get_internals()[f"{name}_output"]
        assert inside.infer_shape(data=(1, 3, 299, 299))[1][0][2:] == (size, size), name


@pytest.mark.parametrize("features, output", [(False, "softmax"), (True, "features_float32")])
def test_float16(features, output):
    net = get_xception_symbol(10, SMALL, dtype="float16", features=features)
    assert net.list_outputs() == [f"{output}_output"]
    types, outputs, _ = net.infer_type(data="float32")
    assert outputs == [np.float32]
    types = dict(zip(net.list_arguments(), types))
    assert types["data"] == np.float32
    for kind, name, _, _ in layers(SMALL):
        part = "pointwise_kernel_conv2d" if kind == "sep" else "conv2d"
        assert types[f"{name}_{part}_weight"] == np.float16
    inside = net.get_internals()
    for name in [*nodes(net, "Convolution"), *nodes(net, "elemwise_add"), "global_pool"]:
        assert inside[f"{name}_output"].infer_type(data="float32")[1] == [np.float16], name
    if not features:
        assert types["fc1_weight"] == np.float16
        assert inside["fc1_output"].infer_type(data="float32")[1] == [np.float16]


# Arguments


@pytest.mark.parametrize(
    "name, value",
    [
        ("filter_list", (8, 8, 8, 8, 8, 8)),
        ("filter_list", (8,) * 8),
        ("filter_list", (7, 8, 8, 8, 8, 8, 8)),
        ("filter_list", (8, 8, 8, 0, 8, 8, 8)),
        ("filter_list", (8, 8, 8, 8, 8, 8, -8)),
        ("filter_list", (8, 8, 8.5, 8, 8, 8, 8)),
        ("num_classes", 0),
        ("num_classes", -3),
        ("num_classes", 2.5),
        ("num_classes", True),
        ("num_classes", "ten"),
        ("dropout", 1),
        ("dropout", -0.1),
        ("dropout", float("nan")),
        ("bn_mom", 1),
        ("bn_mom", -0.5),
        ("bn_eps", 0),
        ("bn_eps", -1e-5),
        ("bn_eps", float("nan")),
        ("workspace", 0),
        ("workspace", 1.5),
        ("dtype", "int8"),
        ("dtype", None),
        ("padding", "valid"),
    ],
)
def test_bad_argument_is_named_with_its_value(name, value):
    shown = list(value) if name == "filter_list" else value
    with pytest.raises(ValueError, match=f"^{name} .*{re.escape(repr(shown))}$"):
        get_xception_symbol(**{name: value})


def test_called_as_by_mxnets_image_classification_scripts():
    net = get_symbol(
        num_classes=7,
        network="xception",
        num_layers=50,
        image_shape="3,224,224",
        gpus="0",
        batch_size=128,
        kv_store="device",
        dtype="float32",
        conv_workspace=256,
    )
    assert net.infer_shape(data=(2, 3, 224, 224))[1] == [(2, 7)]
    assert {attrs["workspace"] for attrs in nodes(net, "Convolution").values()} == {"256"}
    assert net.tojson() == get_xception_symbol(7, workspace=256).tojson()
    known = {"filter_list": SMALL, "dropout": 0.5, "bn_mom": 0.5, "bn_eps": 0.1, "workspace": 3}
    for more in ({"dtype": "float16"}, {"features": True}, {"padding": "torch"}):
        expected = get_xception_symbol(7, **known, **more)
        assert get_symbol(7, conv_workspace=4, **known, **more).tojson() == expected.tojson()


# Function


def test_dropout_in_training_only():
    executor = bind(get_xception_symbol(7, SMALL, dropout=0.5, bn_mom=0), (4, 3, 32, 32))

    def output(is_train, seed):
        mx.random.seed(seed)
        return executor.forward(is_train=is_train)[0].asnumpy()

    assert not np.array_equal(output(True, 1), output(True, 2))
    np.testing.assert_array_equal(output(False, 1), output(False, 2))
    executor = bind(get_xception_symbol(7, SMALL, dropout=0, bn_mom=0), (4, 3, 32, 32))
    np.testing.assert_array_equal(output(True, 1), output(True, 2))


def test_padding_of_pytorch():
    """Stem as in Keras, max-pooling as in 2017. The two kinds of pooling are the same for odd
    sizes: 39x39 pixels are pooled from 17, 9, 5 and 3; 43x43 from 19, 10, 5 and 3."""
    nets = [
        get_xception_symbol(filter_list=SMALL, features=True, padding=padding)
        for padding in ("keras", "torch")
    ]
    for size, same in ((39, True), (43, False)):
        keras, torch = (bind(net, (2, 3, size, size)).forward()[0].asnumpy() for net in nets)
        assert np.allclose(keras, torch, rtol=1e-4) == same, size


def test_memonger_gives_the_same_bits_in_less_memory():
    net = get_xception_symbol(7, (8, 8, 16, 64, 64, 64, 64))
    networks = [RunningNetwork(net, memonger=memonger) for memonger in (False, True)]
    plain, less = (bind(network.symbol, (8, 3, 128, 128)) for network in networks)
    for _ in range(2):  # the second step sees the moving statistics of the first
        (output, gradients), (same, same_gradients) = train(plain), train(less)
        np.testing.assert_array_equal(same, output)
        for name, gradient in gradients.items():
            np.testing.assert_array_equal(same_gradients[name], gradient, err_msg=name)
        for name, value in plain.aux_dict.items():
            np.testing.assert_array_equal(
                less.aux_dict[name].asnumpy(), value.asnumpy(), err_msg=name
            )

    def megabytes(executor):
        return int(re.search(r"Total (\d+) MB allocated", executor.debug_str()).group(1))

    assert megabytes(plain) > 20
    assert megabytes(less) < 0.7 * megabytes(plain), (megabytes(less), megabytes(plain))
