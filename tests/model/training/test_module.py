"""model.training.module: all that training has learned and remembers, saved and restored."""

import mxnet as mx
import numpy as np
import pytest

from model import ModelError
from model.network.params import numpy_params
from model.training.optimizers import Method
from tests.model.training.modules import bound, small_symbol, step

METHOD = Method("nag", 0.9, 1e-3)


@pytest.mark.parametrize("devices", [1, 3])
def test_a_module_goes_on_exactly(devices):
    """Parameters, moving statistics (each device's own), momentum and dropout: the same bits."""
    through = bound(METHOD, devices=devices, lr=0.1)
    for i in range(3):
        step(through, i)
    params = numpy_params(*through.get_params())
    states = through.training_state(at_epoch_end=False)
    resumed = bound(METHOD, None, devices, params, states, updates=3, lr=0.1)
    for i in range(3, 6):
        step(through, i)
        step(resumed, i)
    for left, right in (
        (numpy_params(*through.get_params()), numpy_params(*resumed.get_params())),
        (through.training_state(False), resumed.training_state(False)),
    ):
        assert left.keys() == right.keys()
        assert all(np.array_equal(left[key], right[key]) for key in left)
    assert any(key.endswith(":0") for key in states)


def test_an_update_on_two_devices_has_the_gradients_of_both():
    """The kvstore's update is nag's on the sum of the halves' gradients over the whole batch."""
    symbol = small_symbol(dropout=0.0)
    two = bound(METHOD, symbol, devices=2, lr=0.1)
    start = numpy_params(*two.get_params())
    rng = np.random.RandomState(0)
    images, labels = rng.uniform(0, 255, (6, 3, 32, 32)), rng.randint(0, 5, 6)
    gradients = []
    for half in (slice(0, 3), slice(3, 6)):
        one = bound(METHOD, symbol, params=start, images=3, lr=0.1)
        batch = mx.io.DataBatch([mx.nd.array(images[half])], [mx.nd.array(labels[half])])
        one.forward(batch, is_train=True)
        one.backward()
        names = one._exec_group.param_names
        found = {n: g[0].asnumpy() for n, g in zip(names, one._exec_group.grad_arrays)}
        gradients.append({n: one._running.crop(f"arg:{n}", g) for n, g in found.items()})
    batch = mx.io.DataBatch([mx.nd.array(images)], [mx.nd.array(labels)])
    batch.seed = 0
    two.forward_backward(batch)
    two.update()
    updated = numpy_params(*two.get_params())
    for name in names:
        weight = start[f"arg:{name}"]
        decay = 1e-3 if name.endswith(("_weight", "_gamma")) else 0
        gradient = (gradients[0][name] + gradients[1][name]) / 6 + decay * weight
        # Nesterov's first step from rest: (1 + momentum) times the gradient's.
        expected = weight - 0.1 * 1.9 * gradient
        assert np.allclose(updated[f"arg:{name}"], expected, rtol=1e-4, atol=1e-5), name


def test_a_state_of_other_devices_goes_on(tmp_path):
    """Saved on 3 devices, resumed on 1: momentum and parameters as they were."""
    symbol = small_symbol(dropout=0.0)
    three = bound(METHOD, symbol, devices=3, lr=0.1)
    step(three, 0)
    params = numpy_params(*three.get_params())
    one = bound(METHOD, symbol, 1, params, three.training_state(False), updates=1, lr=0.1)
    left, right = one.training_state(True), three.training_state(True)
    assert left.keys() == right.keys()
    assert all(np.array_equal(left[key], right[key]) for key in left)


def test_states_of_another_network_are_refused():
    states = {"nothing:0": np.zeros(3, "f4")}
    with pytest.raises(ModelError, match="missing"):
        bound(states=states)
    good = bound().training_state(True)
    assert good == {}
    module = bound()
    step(module, 0)
    with pytest.raises(ModelError, match="nothing:0 has no place"):
        bound(states={**module.training_state(True), **states})
