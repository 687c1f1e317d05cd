"""The network as it runs: the saved one's function, in whole vectors and half precision."""

import json
import re
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

from data.iterators import EpochIter
from model import quantize
from model.devices import has_bfloat16
from model.network import rewriting
from model.network.inference import bind_for_inference
from model.network.loading import load_network
from model.network.params import initial_params, ndarray_params, numpy_params
from model.network.running import RunningNetwork
from model.training.module import ResumableModule
from symbol_xception import get_xception_symbol
from tests.networks import save_network
from tests.runs import ROOT, start

# None but the last is a multiple of 16.
ODD = (40, 24, 24, 36, 44, 52, 64)
XAVIER = mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2)


def odd_network(**kwargs):
    return get_xception_symbol(7, ODD, dropout=kwargs.pop("dropout", 0.0), **kwargs)


def odd_params(symbol, seed=0):
    """Parameters as of a trained network: the moving statistics and BatchNorm's are random too."""
    mx.random.seed(seed)
    params = numpy_params(*initial_params(symbol, XAVIER))
    rng = np.random.RandomState(seed)
    for entry, array in params.items():
        if entry.endswith(("gamma", "moving_var")):
            array[:] = rng.uniform(0.5, 1.5, array.shape)
        elif array.ndim == 1:
            array[:] = rng.normal(0, 0.1, array.shape)
    return params


def a_batch(i, size=8, side=64):
    rng = np.random.RandomState(i)
    images = mx.nd.array(rng.uniform(-1, 1, (size, 3, side, side)))
    batch = mx.io.DataBatch([images], [mx.nd.array(rng.randint(0, 7, size))])
    batch.seed = i
    return batch


def bound(symbol, params, lr=0.01, shape=(8, 3, 64, 64), dtype="float32"):
    module = ResumableModule(symbol, [mx.cpu()], dtype)
    module.bind([("data", shape)], [("softmax_label", shape[:1])])
    module.init_params(None, *ndarray_params(params))
    module.init_optimizer(
        kvstore="device",
        optimizer="nag",
        optimizer_params={"learning_rate": lr, "momentum": 0.9, "wd": 1e-3},
    )
    return module


def in_float64(symbol, params, updates):
    """The parameters, and the last output and gradients, after updates of Nesterov's momentum.

    float64 for both networks: what differs by more than its rounding is not the same function.
    """
    types = {name: "float64" for name in symbol.list_arguments()}
    executor = symbol.simple_bind(mx.cpu(), data=(4, 3, 64, 64), type_dict=types)
    arrays = {**{f"arg:{n}": a for n, a in executor.arg_dict.items()}}
    arrays.update({f"aux:{n}": a for n, a in executor.aux_dict.items()})
    for entry, array in params.items():
        arrays[entry][:] = mx.nd.array(array, dtype="float64")
    update = mx.optimizer.get_updater(
        mx.optimizer.create("nag", learning_rate=0.05, momentum=0.9, wd=1e-3, rescale_grad=1 / 4)
    )
    for i in range(updates):
        batch = a_batch(i, 4)
        executor.forward(
            is_train=True,
            data=batch.data[0].astype("float64"),
            softmax_label=batch.label[0].astype("float64"),
        )
        executor.backward()
        for index, name in enumerate(symbol.list_arguments()):
            if name not in ("data", "softmax_label"):
                update(index, executor.grad_dict[name], executor.arg_dict[name])
    mx.nd.waitall()
    result = {entry: arrays[entry].asnumpy() for entry in params}
    gradients = {f"arg:{n}": g.asnumpy() for n, g in executor.grad_dict.items() if n != "data"}
    gradients.pop("arg:softmax_label")
    states = {f"arg:{symbol.list_arguments()[i]}": s.asnumpy() for i, s in update.states.items()}
    return executor.outputs[0].asnumpy(), result, gradients, states


def test_padding_is_exact_and_stays_zero(monkeypatch):
    """Outputs, gradients, and parameters and momentum after updates with weight decay."""
    # There is no fused BatchNorm in float64.
    monkeypatch.setattr(rewriting, "fuse_relu", lambda graph: None)
    saved = odd_network()
    network = RunningNetwork(saved)
    params = odd_params(saved)
    padded = {entry: network.pad(entry, array) for entry, array in params.items()}
    assert sum(padded[entry].shape != params[entry].shape for entry in params) > 100
    expected, *expected_arrays = in_float64(saved, params, 3)
    output, *arrays = in_float64(network.symbol, padded, 3)
    np.testing.assert_allclose(output, expected, rtol=1e-9)
    for of_saved, of_running in zip(expected_arrays, arrays):
        for entry, array in of_saved.items():
            running = of_running[entry]
            scale = np.abs(array).max()
            np.testing.assert_allclose(
                network.crop(entry, running), array, rtol=0, atol=1e-8 * scale, err_msg=entry
            )
            if entry.endswith("moving_var"):
                continue  # of nothing but zeros; it fades from where it began
            running[tuple(map(slice, array.shape))] = 0
            assert not running.any(), entry


def test_the_running_network_trains_as_the_saved_one():
    """In float32, with everything fused: one step's output and gradients, then updates."""
    saved = odd_network()
    params = odd_params(saved)
    module = bound(saved, params, lr=1e-3)
    plain = mx.mod.Module(saved)
    plain.bind([("data", (8, 3, 64, 64))], [("softmax_label", (8,))])
    plain.init_params(None, *ndarray_params(params))
    plain.init_optimizer(
        optimizer="nag", optimizer_params={"learning_rate": 1e-3, "momentum": 0.9, "wd": 1e-3}
    )
    operators = [node["op"] for node in json.loads(module.symbol.tojson())["nodes"]]
    assert operators.count("_contrib_BatchNormWithReLU") == 23
    for i in range(3):
        for each in (plain, module):
            each.forward_backward(a_batch(i))
        outputs = [each.get_outputs()[0].asnumpy() for each in (plain, module)]
        np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-3, atol=1e-4)
        for index, name in enumerate(module._exec_group.param_names if i == 0 else ()):
            (expected,), (running,) = (
                each._exec_group.grad_arrays[index] for each in (plain, module)
            )
            gradient = module._running.crop(f"arg:{name}", running.asnumpy())
            error = np.abs(gradient - expected.asnumpy()).max()
            # A beta before another BatchNorm has no gradient but rounding.
            assert error < 1e-4 * max(np.abs(expected.asnumpy()).max(), 1), name
        for each in (plain, module):
            each.update()
    mx.nd.waitall()  # MXNet's own module does not wait for the moving statistics
    expected, found = (numpy_params(*each.get_params()) for each in (plain, module))
    for entry, array in expected.items():
        assert np.abs(found[entry] - array).max() < 2e-4 * max(np.abs(array).max(), 1), entry


def test_wide_and_high_images_train():
    """oneDNN has the gradient of global pooling in another layout where these are wide."""
    symbol = odd_network()
    for height, width in ((32, 64), (64, 32), (96, 96)):
        module = bound(symbol, odd_params(symbol), shape=(1, 3, height, width))
        images = mx.nd.random.uniform(-1, 1, (1, 3, height, width))
        batch = mx.io.DataBatch([images], [mx.nd.zeros(1)])
        batch.seed = 0
        module.forward_backward(batch)
        mx.nd.waitall()


def test_parameters_and_states_survive_running():
    """Saved, running, saved: the same bits; and shapes as saved."""
    saved = odd_network()
    module = bound(saved, odd_params(saved))
    for i in range(2):
        module.forward_backward(a_batch(i))
        module.update()
    params, states = numpy_params(*module.get_params()), module.training_state(at_epoch_end=True)
    again = bound(saved, params)
    again._put_states(states)
    for first, second in (
        (params, numpy_params(*again.get_params())),
        (states, again.training_state(at_epoch_end=True)),
    ):
        assert first.keys() == second.keys() and first
        assert all(np.array_equal(first[key], second[key]) for key in first)
    assert params["arg:Middle_flow_block_0_sepconv1_pointwise_kernel_conv2d_weight"].shape == (
        36, 36, 1, 1,
    )  # fmt: skip
    assert states["Exit_flow_b5_sepconv2_bn_gamma:0"].shape == (44,)


def test_a_network_begins_as_mxnet_would_begin_it():
    saved = odd_network()
    mx.random.seed(3)
    plain = mx.mod.Module(saved)
    plain.bind([("data", (2, 3, 32, 32))], [("softmax_label", (2,))])
    plain.init_params(XAVIER)
    mx.random.seed(3)
    module = ResumableModule(saved, [mx.cpu()])
    module.bind([("data", (2, 3, 32, 32))], [("softmax_label", (2,))])
    module.init_params(XAVIER)
    expected, found = (numpy_params(*each.get_params()) for each in (plain, module))
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[entry], found[entry]) for entry in expected)


# On GPUs: what is known of MXNet's source, seen in the graph


def test_dropout_on_gpus_draws_by_the_seed_and_not_by_cudnn():
    saved = odd_network(dropout=0.3)
    on_gpu = RunningNetwork(saved, "gpu").symbol.attr_dict()["dropout"]
    assert on_gpu == {**saved.attr_dict()["dropout"], "cudnn_off": "True"}
    for here in (RunningNetwork(saved), RunningNetwork(saved, "gpu", for_training=False)):
        assert here.symbol.attr_dict()["dropout"] == saved.attr_dict()["dropout"]


def test_memonger_on_gpus_changes_the_statistics_as_one_forward_pass_does():
    """cuDNN's BatchNorm changes them in each forward pass: each must be computed twice, and twice
    with this momentum must be once with that of the network."""
    saved = odd_network(bn_mom=0.9)
    network = RunningNetwork(saved, "gpu", memonger=True).symbol
    executor = network.simple_bind(mx.cpu(), data=(2, 3, 64, 64))
    computed = re.findall(r"Op:BatchNorm, Name=(\S+)", executor.debug_str())
    norms = [name for name in saved.attr_dict() if name.endswith("_bn")]
    assert len(norms) == 40
    assert sorted(computed) == sorted(norms + [f"{name}_mirror" for name in norms])
    for name in norms:
        root = float(network.attr_dict()[name]["momentum"])
        assert root * root == pytest.approx(0.9, abs=1e-15)
    for other in (RunningNetwork(saved, "gpu"), RunningNetwork(saved, memonger=True)):
        assert {other.symbol.attr_dict()[name]["momentum"] for name in norms} == {"0.9"}


# Half precision


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
@pytest.mark.parametrize("device_type", ["cpu", "gpu"])
def test_types_of_half_precision(half, device_type):
    """Convolutions in it, but the first; parameters, BatchNorm's too, and the head in float32."""
    network = RunningNetwork(odd_network(), device_type, half)
    internals = network.symbol.get_internals()
    args, outputs, auxs = internals.infer_type(data="float32")
    code = np.dtype([("bfloat16", np.uint16)]) if half == "bfloat16" else np.float16
    assert {str(np.dtype(t)) for t in args + auxs} == {"float32"}
    types = {name: np.dtype(t) for name, t in zip(internals.list_outputs(), outputs)}
    assert types["Entry_flow_b1_conv1_conv2d_output"] == "float32"
    convolutions = [n for n in types if n.endswith(("kernel_output", "conv2d_output"))]
    assert len(convolutions) == 74
    assert all(types[n] == code for n in convolutions if "b1_conv1_" not in n)
    assert all(types[f"Middle_flow_block_{i}_add_output"] == code for i in range(8))
    assert {str(types[n]) for n in ("global_pool_output", "fc1_output", "softmax_output")} == {
        "float32"
    }
    assert network.symbol.infer_shape(data=(2, 3, 64, 64))[1] == [(2, 7)]


def test_bfloat16_stays_close_to_float32():
    if not has_bfloat16():
        pytest.skip("no bfloat16 on this CPU")
    saved = odd_network()
    params = odd_params(saved)
    outputs = []
    for dtype in ("float32", "bfloat16"):
        module = bound(saved, params, dtype=dtype)
        module.forward_backward(a_batch(0))
        outputs.append(module.get_outputs()[0].asnumpy())
        assert {str(np.dtype(a.dtype)) for a in module._exec_group.execs[0].arg_arrays} == {
            "float32"
        }
    assert 0 < np.abs(outputs[1] - outputs[0]).max() < 0.05


def test_the_loss_scale_changes_no_update(monkeypatch):
    """A power of two: the same bits. Run in float32, which a CPU has."""
    monkeypatch.setattr(rewriting, "use_half_precision", lambda *_, **__: None)
    saved = odd_network()
    params = odd_params(saved)
    scaled, plain = (bound(saved, params, dtype=dtype) for dtype in ("float16", "float32"))
    for i in range(2):
        for module in (scaled, plain):
            module.forward_backward(a_batch(i))
            module.update()
    expected, found = (numpy_params(*each.get_params()) for each in (plain, scaled))
    assert all(np.array_equal(expected[entry], found[entry]) for entry in expected)

    # An overflow: the update is left out, and counted.
    scaled.forward_backward(a_batch(2))
    scaled._exec_group.grad_arrays[0][0][0] = np.inf
    updates = scaled._optimizer.num_update
    before = numpy_params(*scaled.get_params())
    scaled.update()
    after = numpy_params(*scaled.get_params())
    assert all(np.array_equal(after[entry], before[entry]) for entry in after)
    scaled.forward_backward(a_batch(3))
    scaled.update()
    assert scaled._optimizer.num_update == updates + 2


# Inference


@pytest.mark.parametrize("features", [False, True])
def test_inference_gives_the_saved_networks_output(features):
    saved = odd_network(features=features)
    params = odd_params(saved)
    batch = a_batch(0, 3)
    plain = mx.mod.Module(saved, label_names=None if features else ["softmax_label"])
    plain.bind(
        [("data", (3, 3, 64, 64))],
        None if features else [("softmax_label", (3,))],
        for_training=True,
    )
    plain.init_params(None, *ndarray_params(params))
    plain.forward(batch, is_train=False)
    expected = plain.get_outputs()[0].asnumpy()
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 0.02)):
        if dtype == "bfloat16" and not has_bfloat16():
            continue
        module = bind_for_inference(
            saved, *ndarray_params(params), (3, 3, 64, 64), [mx.cpu()], dtype
        )
        module.forward(batch, is_train=False)
        found = module.get_outputs()[0].asnumpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
        # BatchNorm is in the convolutions.
        graph = json.loads(module._exec_group.execs[0].get_optimized_symbol().tojson())
        operators = [node["op"] for node in graph["nodes"]]
        assert operators.count("BatchNorm") == 0
        assert operators.count("_sg_mkldnn_conv") == 74


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """A network of the digits, of a sixth of the default filters, trained just long enough to know
    most of them."""
    folder = tmp_path_factory.mktemp("trained")
    save_network(folder / "thin", (16, 32, 32, 52, 64, 96, 128))
    process = start(
        folder,
        *("--data-type=digits", "--gpus=", "--batch-size=64", "--num-epochs=5", "--mom=0.5"),
        *("--data-dir", digits, "--model-prefix", folder / "m", "--keep=1"),
        f"--pretrained={folder / 'thin'},0",
    )
    assert process.returncode == 0, process.stderr
    return folder / "m"


def record_args(records, batch_size):
    return {
        "path_imgrec": str(records),
        "data_shape": (3, 32, 32),
        "batch_size": batch_size,
        "label_name": "softmax_label",
        "verbose": False,
    }


def test_int8_keeps_the_accuracy(trained, digits, capsys):
    """Within half a point of float32's on the 1,797 digits; and it is int8 that runs."""
    arguments = [str(trained), "5", f"{trained}-int8", "--calibrate"]

    def refused(records):
        capsys.readouterr()
        return quantize.main([*arguments, str(records)]), capsys.readouterr().err

    code, error = refused(ROOT / "README.md")
    assert code == 2 and error.count("\n") == 1
    code, error = refused(digits / "none.rec")
    assert code == 2 and error.endswith("none.rec is missing\n")
    done = subprocess.run(
        [sys.executable, "-m", "model.quantize", *arguments, str(digits / "train.rec")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    accuracies = []
    for prefix in (str(trained), f"{trained}-int8"):
        network = load_network(prefix, 5)
        module = bind_for_inference(
            network.symbol, network.arg_params, network.aux_params, (60, 3, 32, 32), [mx.cpu()]
        )
        right = total = 0
        for name in ("train", "val"):
            images = EpochIter(record_args(digits / f"{name}.rec", 60))
            for batch in images:
                module.forward(batch, is_train=False)
                count = 60 - batch.pad
                found = module.get_outputs()[0].asnumpy().argmax(1)
                right += (found == batch.label[0].asnumpy())[:count].sum()
                total += count
        assert total == 1797
        accuracies.append(right / total)
    assert accuracies[0] > 0.8
    assert abs(accuracies[1] - accuracies[0]) <= 0.005
    assert "_contrib_quantize_v2" in network.symbol.tojson()
    code, error = refused(digits / "train.rec")
    assert code == 2 and "choose another prefix" in error
