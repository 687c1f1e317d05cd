"""Checkpoints of other programs: scored as MXNet itself computes them, or refused in one line."""

import json

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon.model_zoo import vision

import model.network.inference
from data.packing.writer import encode_png, write_records
from model import evaluate, predict, quantize
from model.convert.__main__ import main as convert
from model.network import load_network
from symbol_xception import get_xception_symbol

SMALL = (8, 8, 8, 8, 8, 8, 12)
SIDE, COUNT, CLASSES = 32, 8, 4
MEAN, STD = (123.68, 116.779, 103.939), (58.393, 57.12, 57.375)
LABELS = np.arange(COUNT) % CLASSES


def pixels() -> np.ndarray:
    """Noise in another colour each, (8, 32, 32, 3) R G B."""
    rng = np.random.RandomState(0)
    shape = (COUNT, SIDE, SIDE, 3)
    noise = rng.randint(0, 100, shape) + rng.randint(0, 156, (COUNT, 1, 1, 3))
    return noise.astype(np.uint8)


@pytest.fixture(scope="module")
def val(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "val.rec"
    images = [encode_png(image[:, :, ::-1]) for image in pixels()]
    write_records(path, list(zip(map(int, LABELS), images)), COUNT)
    return path


@pytest.fixture
def trusted(monkeypatch):
    """The networks here are known to be harmless: without a process that tries each."""
    monkeypatch.setattr(model.network.inference, "check_runs", lambda *_: None)


# Networks of other kinds

DATA = mx.sym.Variable("data")


def conv(x, num_filter, name, **kwargs):
    return mx.sym.Convolution(
        x, num_filter=num_filter, kernel=(3, 3), pad=(1, 1), name=name, **kwargs
    )


def relu(x):
    return mx.sym.Activation(x, act_type="relu")


def norm(x, **kwargs):
    return mx.sym.BatchNorm(x, name="b", **kwargs)


def classifier(x):
    x = mx.sym.Pooling(x, kernel=(1, 1), global_pool=True, pool_type="avg")
    x = mx.sym.FullyConnected(mx.sym.Flatten(x), num_hidden=CLASSES, name="fc")
    return mx.sym.SoftmaxOutput(x, name="softmax")


def split(x, groups):
    return mx.sym.reshape(x, shape=(0, -4, groups, -1, 0, 0))


def of_concat():
    return classifier(conv(mx.sym.Concat(relu(conv(DATA, 10, "a")), conv(DATA, 12, "b")), 20, "c"))


def of_a_dense_block():
    x = conv(DATA, 10, "first")
    for i in range(3):
        x = mx.sym.Concat(x, relu(conv(x, 6, f"d{i}")))
    return classifier(conv(x, 8, "last"))


def of_shuffled_groups():
    x = mx.sym.transpose(split(relu(conv(DATA, 12, "a")), 3), axes=(0, 2, 1, 3, 4))
    return classifier(conv(mx.sym.reshape(x, shape=(0, -3, 0, 0)), 12, "b", num_group=4))


def of_a_sum():
    x = conv(DATA, 16, "a", no_bias=True)
    return classifier(relu(norm(x + conv(x, 16, "c", no_bias=True), fix_gamma=False, eps=1e-3)))


def of_two_readers():
    """MXNet's own fused operators for inference are wrong here: by 0.2 in a probability."""
    x = norm(conv(DATA, 10, "a", no_bias=True), fix_gamma=False)
    return classifier(relu(x) + x)


def of_gluon(name):
    net = vision.get_model(name, classes=CLASSES)
    net.initialize(mx.init.Xavier())
    return mx.sym.SoftmaxOutput(net(DATA), name="softmax")


NETWORKS = {
    "concat": of_concat,
    "dense block": of_a_dense_block,
    "groups": of_shuffled_groups,
    "fix_gamma": lambda: classifier(relu(norm(conv(DATA, 10, "a"), fix_gamma=True, eps=1e-3))),
    "default eps": lambda: classifier(relu(norm(conv(DATA, 16, "a", no_bias=True)))),
    "bias": lambda: classifier(relu(norm(conv(DATA, 16, "a"), fix_gamma=False, eps=1e-3))),
    "norm of data": lambda: classifier(conv(norm(DATA, eps=1e-3, fix_gamma=False), 16, "a")),
    "norm of a sum": of_a_sum,
    "two readers": of_two_readers,
    "layer norm": lambda: classifier(conv(mx.sym.LayerNorm(conv(DATA, 10, "a"), axis=1), 6, "c")),
    "reshape": lambda: classifier(mx.sym.mean(split(conv(DATA, 12, "a"), 3), axis=1)),
    "mean": lambda: classifier(conv(mx.sym.mean(conv(DATA, 10, "a"), 1, keepdims=True), 6, "c")),
    "slice": lambda: classifier(
        conv(mx.sym.SliceChannel(conv(DATA, 12, "a"), num_outputs=3)[1], 6, "c")
    ),
    "no convolution": lambda: mx.sym.softmax(mx.sym.FullyConnected(DATA, num_hidden=CLASSES)),
    "gluon": lambda: of_gluon("mobilenetv2_0.25"),
}


def module_of(symbol, shape=(COUNT, 3, SIDE, SIDE)):
    """`symbol` bound by MXNet alone, its parameters and statistics random."""
    labels = [name for name in symbol.list_arguments() if name.endswith("label")]
    module = mx.mod.Module(symbol, label_names=labels)
    module.bind([("data", shape)], [(name, shape[:1]) for name in labels] or None)
    mx.random.seed(0)
    module.init_params(mx.init.Xavier())
    rng = np.random.RandomState(0)
    params = module.get_params()
    for name, array in sorted({**params[0], **params[1]}.items()):
        if name.endswith(("gamma", "var")):
            array[:] = rng.uniform(0.5, 2, array.shape)
        elif array.ndim == 1:
            array[:] = rng.uniform(-0.5, 0.5, array.shape)
        elif array.shape[0] == CLASSES and array.ndim == 2:
            array[:] = 0.01 * array
    module.set_params(*params)
    return module


def inputs(mean=(0, 0, 0), std=(1, 1, 1)):
    return mx.nd.array(((pixels() - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2))


def own_figures(module, data) -> dict:
    module.forward(mx.io.DataBatch([data]), is_train=False)
    outputs = module.get_outputs()[0].asnumpy().astype(np.float64)
    assert outputs.std(axis=0).max() > 1e-5  # it does look at the image
    return {
        "accuracy": np.mean(outputs.argmax(axis=1) == LABELS),
        "cross-entropy": -np.mean(np.log(outputs[np.arange(COUNT), LABELS] + 1e-12)),
    }


def score(val, prefix, *more) -> int:
    return evaluate.main([str(prefix), "0", "--data-val", str(val), *more])


def figures(capsys) -> dict:
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    return {words[0]: float(words[1]) for words in lines if len(words) == 2}


@pytest.mark.parametrize("name", NETWORKS)
def test_figures_are_mxnets_own(name, val, tmp_path, capsys, trusted):
    module = module_of(NETWORKS[name]())
    if name == "gluon":  # 50 layers, whose statistics must fit for an image to come through
        for _ in range(30):
            module.forward_backward(mx.io.DataBatch([inputs()], [mx.nd.array(LABELS)]))
        mx.nd.waitall()
        module._sync_params_from_devices()
    module.save_checkpoint(str(tmp_path / "x"), 0)
    expected = own_figures(module, inputs())
    assert score(val, tmp_path / "x", "--image-shape=3,32,32", "--batch-size=4", "--cpus=2") == 0
    assert figures(capsys) == pytest.approx(expected, abs=2e-6)


# Preprocessing


def test_what_a_checkpoint_does_not_say_is_assumed_aloud_or_given(val, tmp_path, capsys, trusted):
    module = module_of(of_concat())
    module.save_checkpoint(str(tmp_path / "x"), 0)
    shape = "--image-shape=3,32,32"
    assert score(val, tmp_path / "x", shape) == 0
    assert capsys.readouterr().err.strip() == (
        f"model.evaluate: warning: {tmp_path}/x, epoch 0 does not say how its images are prepared; "
        "assumed: mean 0,0,0 (--rgb-mean), std 1,1,1 (--rgb-std)"
    )
    given = [f"--rgb-mean={','.join(map(str, MEAN))}", f"--rgb-std={','.join(map(str, STD))}"]
    assert score(val, tmp_path / "x", shape, *given) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = dict(line.split() for line in out.splitlines()[1:])
    expected = own_figures(module, inputs(MEAN, STD))
    assert float(found["cross-entropy"]) == pytest.approx(expected["cross-entropy"], abs=2e-6)


def test_what_is_said_of_the_pixels_is_in_the_onnx_file(tmp_path, capsys, monkeypatch):
    exported = []
    monkeypatch.setattr("model.convert.onnx.export", lambda *args: exported.append(args) or b"")
    save_xception(tmp_path / "x")
    words = ["onnx", str(tmp_path / "x"), "0", str(tmp_path / "x.onnx"), "--image-size=32"]
    assert convert([*words, "--rgb-mean=1,2,3", "--rgb-std=4", "--short-side=36"]) == 0
    assert capsys.readouterr().err == ""
    assert convert([*words, "--rgb-mean=1,2,3"]) == 0
    assert capsys.readouterr().err.endswith(
        "x, epoch 0 does not say how its images are prepared; assumed: std 1,1,1 (--rgb-std), "
        "no resizing (--short-side)\n"
    )
    said, assumed = (network for network, *_ in exported)
    assert (said.mean, said.std, said.short_side) == ((1, 2, 3), (4, 4, 4), 36)
    assert (assumed.mean, assumed.std, assumed.short_side) == ((1, 2, 3), (1, 1, 1), None)


def test_int8_of_another_network(val, tmp_path, capsys, trusted):
    """Within int8's rounding of the network's own figures; it says how its images are prepared.
    Refused where MXNet's fused operators, which int8 has, are wrong."""

    def quantized(network):
        module = module_of(network())
        module.save_checkpoint(str(tmp_path / "x"), 0)
        words = [str(tmp_path / "x"), "0", str(tmp_path / network.__name__)]
        words += ["--calibrate", str(val), "--images=8", "--image-shape=3,32,32"]
        code = quantize.main([*words, f"--rgb-mean={','.join(map(str, MEAN))}", "--rgb-std=60"])
        return module, code

    module, code = quantized(of_a_dense_block)
    assert code == 0, capsys.readouterr().err
    capsys.readouterr()
    assert score(val, tmp_path / "of_a_dense_block") == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = float(out.split()[-1])
    assert found == pytest.approx(own_figures(module, inputs(MEAN, 60))["cross-entropy"], rel=0.02)

    _, code = quantized(of_two_readers)
    assert code == 1
    assert "MXNet's fused operators, which int8 needs, compute something" in capsys.readouterr().err


# Networks that are close to this script's


def test_a_classifier_of_another_name_is_taken(tmp_path):
    """MXNet's fine-tune.py cuts the network at a layer and adds ``fc``."""
    whole = get_xception_symbol(CLASSES, SMALL)
    cut = whole.get_internals()["flatten_output"]
    symbol = mx.sym.FullyConnected(cut, num_hidden=CLASSES, name="fc")
    symbol = mx.sym.SoftmaxOutput(symbol, name="softmax")
    module = module_of(symbol)
    module.save_checkpoint(str(tmp_path / "x"), 0)
    network = load_network(str(tmp_path / "x"), 0)
    assert network.symbol.tojson() == whole.tojson()
    expected = module.get_params()[0]["fc_weight"].asnumpy()
    assert np.array_equal(network.arg_params["fc1_weight"].asnumpy(), expected)


def save_xception(prefix, edit=lambda params: None, **kwargs):
    """A checkpoint as plain MXNet writes it; `edit` changes its entries, numpy arrays by name."""
    symbol = get_xception_symbol(CLASSES, SMALL, **kwargs)
    arg_params, aux_params = module_of(symbol).get_params()
    edit(arg_params)
    mx.model.save_checkpoint(str(prefix), 0, symbol, arg_params, aux_params)


COMMANDS = {
    "evaluate": lambda folder, val: score(val, folder / "x", "--image-shape=3,32,32"),
    "predict": lambda folder, val: predict.main([str(folder / "x"), "0", "y.png"]),
    "quantize": lambda folder, val: quantize.main(
        [str(folder / "x"), "0", str(folder / "y"), "--calibrate", str(val)]
    ),
    "onnx": lambda folder, val: convert(["onnx", str(folder / "x"), "0", str(folder / "y.onnx")]),
    "to-keras": lambda folder, val: convert(
        ["to-keras", str(folder / "x"), "0", str(folder / "y.h5")]
    ),
    "to-torch": lambda folder, val: convert(
        ["to-torch", str(folder / "x"), "0", str(folder / "y.safetensors")]
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_numbers_that_are_none_are_an_error_in_every_command(command, val, tmp_path, capsys):
    def edit(params):
        params["Middle_flow_block_0_sepconv1_bn_gamma"][3] = np.inf

    save_xception(tmp_path / "x", edit)
    assert COMMANDS[command](tmp_path, val) == 2
    said = capsys.readouterr().err
    assert "x-0000.params: arg:Middle_flow_block_0_sepconv1_bn_gamma has numbers that are" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_sliced_checkpoint_is_recognised_by_every_command(command, val, tmp_path, capsys):
    name = "Entry_flow_b2_sepconv1_depthwise_kernel_0_weight"
    symbol = classifier(conv(DATA, 4, name[: -len("_weight")]))
    module_of(symbol).save_checkpoint(str(tmp_path / "x"), 0)
    assert COMMANDS[command](tmp_path, val) == 2
    said = capsys.readouterr().err
    assert f"python -m model.convert sliced {tmp_path}/x 0 NEW_PREFIX" in said
    assert said.count("\n") == 1


# Symbols that MXNet does not survive


def edited(name) -> dict:
    """The graph of an Xception, wrong in one place."""
    graph = json.loads(get_xception_symbol(CLASSES, SMALL).tojson())
    nodes = graph["nodes"]
    relu, convolution = (
        next(node for node in nodes if node["op"] == op) for op in ("Activation", "Convolution")
    )
    if name == "groups":
        convolution["attrs"]["num_group"] = "0"
    elif name == "output":
        relu["inputs"][0][1] = 50
    elif name == "kernel":
        convolution["attrs"]["kernel"] = "(1000000000, 1000000000)"
    elif name == "cycle":
        relu["inputs"][0][0] = len(nodes) - 1
    elif name == "no head":
        graph["heads"] = []
    elif name == "two heads":
        graph["heads"] *= 2
    elif name == "no data":
        nodes[0]["name"] = "input"
    elif name == "operator":
        relu["op"] = "Frobnicate"
    elif name == "list":
        graph = [graph]
    elif name == "many":
        graph["nodes"] = nodes + [dict(nodes[1], name=f"n{i}") for i in range(100_000)]
    return graph


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("groups", "x, epoch 0: MXNet crashes when it runs this network"),
        ("output", "x, epoch 0: the shapes of its layers do not follow from the images'"),
        ("kernel", "kernel size exceed input"),
        ("cycle", "x-symbol.json: damaged: Entry_flow_b1_conv1_relu reads an operator after it"),
        ("no head", "x-symbol.json: a network with 0 outputs, not with one"),
        ("two heads", "x-symbol.json: a network with 2 outputs, not with one"),
        ("no data", "x-0000.params: a network without an input named data"),
        ("operator", "Frobnicate"),
        ("list", "x-symbol.json: damaged: not the graph of a network"),
        ("many", "operators, at most 100000 can be run"),
    ],
)
def test_a_damaged_symbol_is_one_line(name, says, val, tmp_path, capsys):
    save_xception(tmp_path / "x")
    (tmp_path / "x-symbol.json").write_text(json.dumps(edited(name)))
    capsys.readouterr()
    assert score(val, tmp_path / "x", "--image-shape=3,32,32") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err


@pytest.mark.parametrize(
    ("network", "more", "says"),
    [
        (lambda: mx.sym.FullyConnected(DATA, num_hidden=4), [], "its output is not a softmax's: "),
        (lambda: mx.sym.softmax(conv(DATA, 4, "a")), [], "its output has the shape (8, 4, 32, 32)"),
        (of_concat, ["--dtype=bfloat16"], "it runs in float32, not in bfloat16"),
        (of_concat, ["--image-shape=3,33,32"], None),
        (NETWORKS["no convolution"], ["--image-shape=3,33,32"], "_weight has the shape (4, 3072)"),
    ],
    ids=["logits", "maps", "bfloat16", "another size", "the wrong size"],
)
def test_a_network_that_gives_something_else(
    network, more, says, val, tmp_path, capsys, trusted, monkeypatch
):
    monkeypatch.setattr("model.devices.has_bfloat16", lambda: True)
    module_of(network()).save_checkpoint(str(tmp_path / "x"), 0)
    code = score(val, tmp_path / "x", "--image-shape=3,32,32", *more)
    err = capsys.readouterr().err
    assert "Traceback" not in err
    if says is None:
        assert code == 0
    else:
        assert code in (1, 2) and says in err.splitlines()[-1]
