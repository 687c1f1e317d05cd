"""--pretrained, --freeze and --head-lr-mult."""

import json
import shutil

import mxnet as mx
import numpy as np
import pytest

from model.network.layers import architecture
from model.network.params import initial_params
from symbol_xception import get_xception_symbol
from tests.networks import save_network
from tests.runs import digest, entries, refused


def test_pretrained_weights_are_where_it_starts(run, records, through, tmp_path):
    """With a learning rate that changes nothing, these weights come out; with --head-lr-mult,
    another classifier."""
    pretrained = f"--pretrained={through / 'x'},2"
    tiny = [*records.arguments, pretrained, "--num-epochs=1", "--lr=1e-30", "--wd=0"]
    before = entries(through, "x", 2)
    for name, more, same_head, says in (
        ("same", [], True, "with its classifier of 10 classes"),
        ("head", ["--head-lr-mult=1e28"], False, "with its classifier of 10 classes"),
        ("new", ["--num-classes=12"], False, "with a new classifier of 12 classes: it has one of"),
    ):
        process = run(*tiny, *more, f"--model-prefix={name}", f"--log-file={name}.log")
        assert process.returncode == 0, process.stderr
        assert process.stdout.count("starts from") == 1 and says in process.stdout
        after = entries(tmp_path, name, 1)
        for entry, array in before.items():
            if "fc1" in entry:
                assert (after[entry].shape == array.shape) == (name != "new")
                assert np.array_equal(after[entry], array) == same_head, entry
            elif entry.startswith("arg:"):
                assert np.array_equal(after[entry], array), entry


@pytest.mark.parametrize("freeze", ["entry", "all-but-head"])
def test_frozen_layers_stay_and_resume_is_exact(run, records, through, tmp_path, freeze):
    fine_tuning = [*records.arguments, f"--freeze={freeze}", "--head-lr-mult=3", "--num-epochs=2"]
    pretrained = f"--pretrained={through / 'x'},2"
    process = run(*fine_tuning, pretrained, "--model-prefix=a", "--log-file=a.log")
    assert process.returncode == 0, process.stderr
    before, after = entries(through, "x", 2), entries(tmp_path, "a", 2)
    for entry, array in before.items():
        frozen = "fc1" not in entry and (freeze == "all-but-head" or "Entry_flow" in entry)
        assert np.array_equal(after[entry], array) == frozen, entry
    # Nothing in the saved network tells that it was trained with a part of it frozen.
    assert (tmp_path / "a-symbol.json").read_bytes() == (through / "x-symbol.json").read_bytes()

    # Stopped within the second epoch, and gone on with, without --pretrained.
    for ending in ("symbol.json", "0001.params", "0001.states", "0001.json"):
        shutil.copy(tmp_path / f"a-{ending}", tmp_path / f"b-{ending}")
    process = run(*fine_tuning, "--model-prefix=b", "--log-file=b.log", "--retrain")
    assert process.returncode == 0, process.stderr
    assert "changed since" not in process.stdout
    assert digest(tmp_path, "b", 2) == digest(tmp_path, "a", 2)


def test_momentum_begins_anew_where_the_frozen_part_changes(run, records, through, tmp_path):
    arguments = [*records.arguments, "--model-prefix=x", "--num-epochs=2"]
    pretrained = f"--pretrained={through / 'x'},2"
    assert run(*arguments[:-1], "--num-epochs=1", pretrained, "--freeze=entry").returncode == 0
    process = run(*arguments, "--retrain")
    assert process.returncode == 0, process.stderr
    assert "changed since that checkpoint: freeze entry -> none" in process.stdout


def test_a_plain_checkpoint_with_a_classifier_of_another_name(run, records, tmp_path):
    """As MXNet's fine-tune.py leaves it. What it does not say is assumed, and said."""
    whole = get_xception_symbol(10, (8, 8, 8, 8, 8, 8, 8))
    head = mx.sym.FullyConnected(whole.get_internals()["flatten_output"], num_hidden=10, name="fc")
    symbol = mx.sym.SoftmaxOutput(head, name="softmax")
    params = initial_params(symbol, mx.init.Xavier())
    mx.model.save_checkpoint(str(tmp_path / "plain"), 3, symbol, *params)
    process = run(*records.arguments, "--pretrained=plain,3", "--dry-run", "--rgb-std=2,2,2")
    assert process.returncode == 0, process.stderr
    assert "starts from plain,3, with its classifier of 10 classes" in process.stdout
    warned = "warning: plain, epoch 3 does not say how its images are prepared; assumed: mean 0,0,0"
    assert f"{warned} (--rgb-mean)\n" in process.stdout


def test_a_plain_checkpoint_of_another_network_is_one_line(run, records, tmp_path):
    """To resume from it, too: its MXNet states are a pickle, which nobody reads."""
    symbol = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=10, name="fc1")
    symbol = mx.sym.SoftmaxOutput(symbol, name="softmax")
    params = {"fc1_weight": mx.nd.ones((10, 768)), "fc1_bias": mx.nd.ones(10)}
    mx.model.save_checkpoint(str(tmp_path / "x"), 1, symbol, params, {})
    (tmp_path / "x-0001.states").write_bytes(b"cposix\nmkdir\n(Vbroken-into\ntR.")
    for flags, says in (
        ("--pretrained=x,1 --model-prefix=y", "x-symbol.json: not this script's network: it lacks"),
        ("--retrain --model-prefix=x", "x-0001.params has no x-0001.json: not written by this"),
        ("--retrain=auto --model-prefix=x", "x-0001.params has no x-0001.json: not written by"),
    ):
        assert says in refused(run(*records.arguments, *flags.split()))
    assert not (tmp_path / "broken-into").exists()


def test_fine_tuning_keeps_the_network_and_its_pixels(run, records, tmp_path):
    """Keras' padding and epsilon, filters of nobody's, and [-1, 1]: as the checkpoint says."""
    filters = (4, 4, 6, 6, 8, 8, 10)
    settings = {"rgb_mean": [127.5] * 3, "rgb_std": [127.5] * 3, "image_shape": [3, 32, 32]}
    save_network(tmp_path / "k", filters, settings, padding="keras", bn_eps=1e-3)
    process = run(*records.arguments, "--pretrained=k,0", "--model-prefix=x", "--num-epochs=1")
    assert process.returncode == 0, process.stderr
    saved = json.loads((tmp_path / "x-0001.json").read_text())["run"]["settings"]
    assert (saved["padding"], saved["bn_eps"]) == ("keras", 1e-3)
    assert (saved["filters"], saved["rgb_std"]) == (list(filters), [127.5] * 3)
    assert architecture(mx.sym.load(str(tmp_path / "x-symbol.json")))["padding"] == "keras"

    process = run(*records.arguments, "--pretrained=k,0", "--filters=original", "--model-prefix=y")
    wrong = "k,0: arg:Entry_flow_b1_conv1_conv2d_weight has the shape (2, 3, 3, 3)"
    assert wrong in refused(process)
    # Converted weights say nothing of a learning rate.
    process = run(*records.arguments, "--retrain", "--model-prefix=k")
    assert process.returncode == 2 and "give --lr" in process.stderr
