"""--mixup, --cutmix and --random-erasing: the same bits on resume, and on any number of devices."""

import mxnet as mx
import numpy as np
import pytest

import symbol_xception
from data.iterators import SyntheticIter
from data.mixing import Mixing, MixingIter, balanced_weights
from model.network.params import initial_params
from model.network.scores import new_metric
from model.training.finetune import frozen_params, training_symbol
from model.training.module import ResumableModule
from tests.runs import digest, entries, figures, start_until
from tests.script.conftest import arguments

FLAGS = [
    "--mixup=0.4", "--cutmix=1", "--random-erasing=0.5", "--label-smoothing=0.1",
    "--class-weights=balanced",
]  # fmt: skip


def test_a_mixed_run_resumes_exactly(run, records, through, tmp_path):
    given = [*arguments(records), *FLAGS, "--num-epochs=2", "--checkpoint-batches=4"]
    whole = run(*given, "--model-prefix=whole")
    assert whole.returncode == 0, whole.stderr
    assert "images are mixed" in whole.stdout
    killed = start_until("line Epoch[1] Batch [5-10]", tmp_path, *given, "--model-prefix=x")
    killed.kill()
    killed.communicate()
    resumed = run(*given, "--model-prefix=x", "--retrain")
    assert "epoch 1, batch " in resumed.stdout
    assert digest(tmp_path, "x", 2) == digest(tmp_path, "whole", 2)
    logs = [tmp_path / f"log/{name}.log" for name in ("x", "whole")]
    assert figures(logs[0]) == figures(logs[1])
    # The network is saved as without, and its weights are others.
    plain, mixed = through / "x-symbol.json", tmp_path / "whole-symbol.json"
    assert mixed.read_text() == plain.read_text()
    left, right = entries(through, "x", 2), entries(tmp_path, "whole", 2)
    assert left.keys() == right.keys()
    assert not np.array_equal(left["arg:fc1_weight"], right["arg:fc1_weight"])
    # A checkpoint knows how it was trained.
    again = run(*given[: -len(FLAGS) - 2], "--model-prefix=x", "--retrain", "--num-epochs=3")
    assert "changed since that checkpoint: mixup 0.4 -> 0.0" in again.stdout
    assert again.returncode == 0


def gradients_and_figures(devices: int) -> tuple:
    """Return the classifier's gradients of a mixed batch, the figures, and what was trained on.

    BatchNorm normalises by moving statistics: each device would have others of its own images.
    """
    symbol = symbol_xception.get_xception_symbol(5, (4, 4, 6, 6, 8, 8, 10), dropout=0)
    symbol = training_symbol(symbol, frozen_params(symbol, "all-but-head"), 1, label_smoothing=0.1)
    mx.random.seed(0)
    params = initial_params(symbol, mx.init.Xavier())
    mx.random.seed(1)
    images = SyntheticIter(6, (3, 32, 32), 5, batches=1)
    mixed = MixingIter(images, Mixing(mixup=1), 5, smoothing=0.1)
    module = ResumableModule(symbol, [mx.cpu(i) for i in range(devices)])
    module.bind(mixed.provide_data, mixed.provide_label)
    module.init_params(None, *params)
    batch = mixed.next()
    module.forward_backward(batch)
    metric = new_metric(5)
    module.update_metric(metric, batch.label)
    of_devices = module.gradients()["fc1_weight"]
    return (
        sum(array.asnumpy() for array in of_devices),
        dict(metric.get_name_value()),
        module.get_outputs()[0].asnumpy(),
        batch,
    )


def test_devices_share_a_mixed_batch():
    one, figures_of_one, p, batch = gradients_and_figures(1)
    two, figures_of_two, _, _ = gradients_and_figures(2)
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5 * abs(one).max())
    assert figures_of_one == pytest.approx(figures_of_two, rel=1e-5)
    # The figures are those of the labels of the larger shares.
    main = batch.main_labels[0].asnumpy().astype(int)
    assert figures_of_one["accuracy"] == pytest.approx(np.mean(p.argmax(axis=1) == main))
    assert figures_of_one["cross-entropy"] == pytest.approx(
        -np.log(p[range(6), main]).mean(), rel=1e-4
    )


@pytest.mark.parametrize("mixing", [Mixing(), Mixing(mixup=1)], ids=["whole", "mixed"])
def test_classes_have_weights(mixing):
    """The gradient is weight * (p - label); p, and so the figures, are as without."""
    symbol = symbol_xception.get_xception_symbol(5, (4, 4, 6, 6, 8, 8, 10), dropout=0)
    weights = balanced_weights([40, 10, 20, 0, 30])
    assert weights @ [40, 10, 20, 0, 30] == pytest.approx(100) and weights[3] == 0
    images = SyntheticIter(6, (3, 32, 32), 5, batches=1)
    labels = mx.nd.array([0, 1, 2, 4, 4, 0])
    images._labels = labels
    mixed = MixingIter(images, mixing, 5, 0.1, weights=weights)
    batch = mixed.next()
    mx.random.seed(0)
    params = initial_params(symbol, mx.init.Xavier())
    outputs = []
    for weighted in (True, False):
        module = ResumableModule(symbol, [mx.cpu()], weighted=weighted)
        module.bind(mixed.provide_data, mixed.provide_label)
        module.init_params(None, *params)
        module.forward_backward(batch)
        outputs.append(module.get_outputs()[0].asnumpy())
        if weighted:
            gradient = module.gradients()["fc1_bias"][0].asnumpy()
    np.testing.assert_array_equal(*outputs)
    rows = batch.label[0].asnumpy()
    weight = rows.sum(axis=1, keepdims=True)
    if not mixing:
        np.testing.assert_allclose(weight[:, 0], weights[labels.asnumpy().astype(int)], rtol=1e-6)
    expected = (weight * (outputs[0] - rows / weight)).sum(axis=0)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_the_classifier_learns_from_mixed_labels():
    """Its bias has the gradient p - label, summed over the batch; label smoothing is in the label,
    and not once more in the network."""
    symbol = symbol_xception.get_xception_symbol(5, (4, 4, 6, 6, 8, 8, 10), dropout=0)
    symbol = training_symbol(symbol, [], 1, label_smoothing=0.1)
    images = SyntheticIter(6, (3, 32, 32), 5, batches=1)
    mixed = MixingIter(images, Mixing(mixup=1), 5, smoothing=0.1)
    module = ResumableModule(symbol, [mx.cpu()])
    module.bind(mixed.provide_data, mixed.provide_label)
    module.init_params(mx.init.Xavier())
    batch = mixed.next()
    module.forward_backward(batch)
    difference = module.get_outputs()[0].asnumpy() - batch.label[0].asnumpy()
    np.testing.assert_allclose(
        module.gradients()["fc1_bias"][0].asnumpy(), difference.sum(axis=0), atol=1e-5
    )
