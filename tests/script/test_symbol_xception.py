"""symbol_xception.py: structure, arguments, and the function of the 2017 network."""

import json
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor

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

SMALL = (8, 8, 8, 12, 12, 16, 16)


def layers(filters):
    """The 2017 script's layers before the classifier: (kind, name, in, out channels)."""
    f0, f1, f2, f3, f4, f5, f6 = filters
    table = [
        ("conv3", "Entry_flow_b1_conv1", 3, f0 // 2),
        ("conv3", "Entry_flow_b1_conv2", f0 // 2, f0),
    ]
    for block, first, middle, last in (
        ("Entry_flow_b2", f0, f1, f1),
        ("Entry_flow_b3", f1, f2, f2),
        ("Entry_flow_b4", f2, f3, f3),
        ("Exit_flow_b5", f3, f3, f4),
    ):
        table += [
            ("conv1", f"{block}_conv1", first, last),
            ("sep", f"{block}_sepconv1", first, middle),
            ("sep", f"{block}_sepconv2", middle, last),
        ]
    for i in range(8):
        table += [("sep", f"Middle_flow_block_{i}_sepconv{j}", f3, f3) for j in (1, 2, 3)]
    table += [("sep", "Exit_flow_b6_sepconv1", f4, f5), ("sep", "Exit_flow_b6_sepconv2", f5, f6)]
    return table


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


def bind(net, shape, dtype="float32", seed=0):
    """An executor with random parameters, data and labels."""
    random = np.random.RandomState(seed)
    types = {name: dtype for name in net.list_arguments()}
    executor = net.simple_bind(mx.cpu(), data=shape, type_dict=types)
    for name, array in sorted({**executor.arg_dict, **executor.aux_dict}.items()):
        if name == "data":
            value = random.uniform(0, 255, array.shape)
        elif name == "softmax_label":
            value = random.randint(0, 7, array.shape)
        elif name.endswith(("gamma", "moving_var")):
            value = random.uniform(0.5, 1.5, array.shape)
        else:
            fan_in = max(1, int(np.prod(array.shape[1:])))
            value = random.normal(0, (2 / fan_in) ** 0.5, array.shape)
        array[:] = mx.nd.array(value, dtype=dtype)
    return executor


def train(executor, seed=5):
    """(output, {name: gradient}) of a training step."""
    mx.random.seed(seed)
    (output,) = executor.forward(is_train=True)
    executor.backward()
    gradients = {k: v.asnumpy() for k, v in executor.grad_dict.items() if k != "softmax_label"}
    return output.asnumpy(), gradients


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


# The same function as the 2017 network


def network_of_2017(num_classes, filters, momentum=0.9):
    """The network as the 2017 script built it: a depthwise layer is a slice into single channels,
    a convolution for each, and a concat; every convolution has a bias."""
    f0, f1, f2, f3, f4, f5, f6 = filters

    def bn(x, name):
        return mx.sym.BatchNorm(x, fix_gamma=False, eps=2e-5, momentum=momentum, name=name + "_bn")

    def conv(x, f, k, s, name):
        x = mx.sym.Convolution(
            x,
            num_filter=f,
            kernel=(k, k),
            stride=(s, s),
            pad=(k // 2, k // 2),
            name=name + "_conv2d",
        )
        return bn(x, name)

    def sep(x, c, f, name):
        channels = mx.sym.SliceChannel(x, num_outputs=c, axis=1)
        kernels = [
            mx.sym.Convolution(
                channels[i],
                num_filter=1,
                kernel=(3, 3),
                pad=(1, 1),
                name=f"{name}_depthwise_kernel_{i}",
            )
            for i in range(c)
        ]
        x = mx.sym.Concat(*kernels, dim=1)
        return bn(
            mx.sym.Convolution(
                x, num_filter=f, kernel=(1, 1), name=name + "_pointwise_kernel_conv2d"
            ),
            name,
        )

    def relu(x):
        return mx.sym.Activation(x, act_type="relu")

    def halve(x):
        return mx.sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max")

    x = mx.sym.Variable("data")
    x = relu(conv(x, f0 // 2, 3, 2, "Entry_flow_b1_conv1"))
    x = relu(conv(x, f0, 3, 1, "Entry_flow_b1_conv2"))

    shortcut = conv(x, f1, 1, 2, "Entry_flow_b2_conv1")
    x = sep(x, f0, f1, "Entry_flow_b2_sepconv1")
    x = sep(relu(x), f1, f1, "Entry_flow_b2_sepconv2")
    x = halve(x) + shortcut

    shortcut = conv(x, f2, 1, 2, "Entry_flow_b3_conv1")
    x = sep(relu(x), f1, f2, "Entry_flow_b3_sepconv1")
    x = sep(relu(x), f2, f2, "Entry_flow_b3_sepconv2")
    x = halve(x) + shortcut

    shortcut = conv(x, f3, 1, 2, "Entry_flow_b4_conv1")
    x = sep(relu(x), f2, f3, "Entry_flow_b4_sepconv1")
    x = sep(relu(x), f3, f3, "Entry_flow_b4_sepconv2")
    x = halve(x) + shortcut

    for i in range(8):
        block = x
        x = sep(relu(x), f3, f3, f"Middle_flow_block_{i}_sepconv1")
        x = sep(relu(x), f3, f3, f"Middle_flow_block_{i}_sepconv2")
        x = sep(relu(x), f3, f3, f"Middle_flow_block_{i}_sepconv3")
        x = x + block

    shortcut = conv(x, f4, 1, 2, "Exit_flow_b5_conv1")
    x = sep(relu(x), f3, f3, "Exit_flow_b5_sepconv1")
    x = sep(relu(x), f3, f4, "Exit_flow_b5_sepconv2")
    x = halve(x) + shortcut

    x = relu(sep(x, f4, f5, "Exit_flow_b6_sepconv1"))
    x = relu(sep(x, f5, f6, "Exit_flow_b6_sepconv2"))

    x = mx.sym.Pooling(x, kernel=(1, 1), global_pool=True, pool_type="avg")
    x = mx.sym.Flatten(mx.sym.Dropout(x, p=0.2))
    x = mx.sym.FullyConnected(x, num_hidden=num_classes, name="fc1")
    return mx.sym.SoftmaxOutput(x, name="softmax")


def joined(values, filters):
    """Put the single channels' arrays together, as {name here: array}; leave out biases."""
    values = dict(values)
    for kind, name, c_in, _ in layers(filters):
        if kind == "sep":
            kernels = [values.pop(f"{name}_depthwise_kernel_{i}_weight") for i in range(c_in)]
            values[f"{name}_depthwise_kernel_weight"] = np.concatenate(kernels)
    return {k: v for k, v in values.items() if k == "fc1_bias" or not k.endswith("_bias")}


def folded(values, filters):
    """`joined`, with what the biases do taken off the moving means."""
    here = joined(values, filters)
    for kind, name, c_in, _ in layers(filters):
        part = "pointwise_kernel_conv2d" if kind == "sep" else "conv2d"
        bias = values[f"{name}_{part}_bias"]
        if kind == "sep":
            depthwise = [values[f"{name}_depthwise_kernel_{i}_bias"][0] for i in range(c_in)]
            bias = bias + values[f"{name}_{part}_weight"][:, :, 0, 0].dot(depthwise)
        here[f"{name}_bn_moving_mean"] = here[f"{name}_bn_moving_mean"] - bias
    return here


def compare_with_2017(biases, dtype):
    """Differences, each relative to the largest absolute value of its array.

    Run in a process of its own: the 2017 network does not run on oneDNN in MXNet 1.9.1.
    """
    shape = (2, 3, 64, 64)
    old = bind(network_of_2017(7, SMALL), shape, dtype)
    fit = bind(network_of_2017(7, SMALL, momentum=0), shape, dtype)
    new = bind(get_xception_symbol(7, SMALL), shape, dtype, seed=1)

    def state():
        return {k: v.asnumpy() for k, v in {**old.arg_dict, **old.aux_dict}.items()}

    def difference(here, there):
        assert here.shape == there.shape
        assert np.abs(there).max() > 0
        return float(np.abs(here - there).max() / np.abs(there).max())

    for name, array in [*old.arg_dict.items(), *fit.arg_dict.items()]:
        if name.endswith("_bias") and name != "fc1_bias" and not biases:
            array[:] = 0
    # Moving statistics that fit the data, without which the softmax saturates.
    train(fit)
    for name, array in old.aux_dict.items():
        array[:] = fit.aux_dict[name]
    values = folded(state(), SMALL)
    targets = {**new.arg_dict, **new.aux_dict}
    assert set(values) == set(targets)
    for name, value in values.items():
        targets[name][:] = mx.nd.array(value, dtype=dtype)

    found = {}
    output, old_output = (e.forward(is_train=False)[0].asnumpy() for e in (new, old))
    assert output.min() > 1e-3 and output.max() < 0.99, output
    found["inference"] = difference(output, old_output)
    # The same seed: the same dropout.
    output, gradients = train(new)
    old_output, old_gradients = train(old)
    assert output.min() > 1e-3 and output.max() < 0.99, output
    found["training"] = difference(output, old_output)
    old_gradients = joined(old_gradients, SMALL)
    assert set(old_gradients) == set(gradients)
    for name, gradient in gradients.items():
        found[f"gradient of {name}"] = difference(gradient, old_gradients[name])
    statistics = folded(state(), SMALL)
    for name, value in new.aux_dict.items():
        found[name] = difference(value.asnumpy(), statistics[name])
    return found


@pytest.mark.parametrize(
    "biases, dtype, tolerance",
    [(False, "float32", 1e-6), (True, "float32", 1e-4), (True, "float64", 1e-10)],
)
def test_the_same_function_as_the_2017_network(biases, dtype, tolerance, monkeypatch):
    monkeypatch.setenv("MXNET_MKLDNN_ENABLED", "0")
    monkeypatch.setenv("MXNET_STORAGE_FALLBACK_LOG_VERBOSE", "0")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(compare_with_2017, biases, dtype).result()
    assert len(found) == 2 + 74 + 2 + 2 * 40 + 2 * 40 + 1
    assert not {name: value for name, value in found.items() if not value < tolerance}
