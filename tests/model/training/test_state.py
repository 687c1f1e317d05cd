"""model/training/state.py: names and shapes of all that training holds beside the parameters."""

import mxnet as mx
import numpy as np
import pytest

from model import ModelError
from model.job.cluster import Cluster
from model.training import state


def cut(_name, array):
    """A network of 2 channels that runs with 3."""
    return array[:2]


def grow(_name, array):
    return np.pad(array, (0, 1))


class OneOfThree(Cluster):
    """Worker 1 of 3, each with as many devices as the others; the others' content is given."""

    rank, workers = 1, 3

    def __init__(self, *others):
        super().__init__()
        self.others = others

    def gather(self, content):
        first, last = self.others
        return [first, content, last]


@pytest.mark.parametrize(("optimizer", "states"), [("nag", 1), ("adam", 2), ("rmsprop", 3)])
def test_an_optimizers_states_survive(optimizer, states):
    arguments = {"nag": {"momentum": 0.9}, "rmsprop": {"centered": True}}.get(optimizer, {})
    created = mx.optimizer.create(optimizer, **arguments)
    weights = {"a": mx.nd.ones(3), "b": mx.nd.ones(3)}
    # Two devices, each with a copy of every parameter.
    parameters = [
        state.Parameter(name, [2 * i, 2 * i + 1], weight, (2,))
        for i, (name, weight) in enumerate(weights.items())
    ]
    updater = mx.optimizer.get_updater(created)
    for parameter in parameters:
        for key in parameter.keys:
            updater(key, mx.nd.array([1, 2, 0]), parameter.weight.copy())
    saved = state.optimizer_arrays(updater, parameters, cut)
    assert list(saved) == [f"{name}:{i}" for name in "ab" for i in range(states)]
    assert all(array.shape == (2,) for array in saved.values())
    again = mx.optimizer.get_updater(created)
    state.restore_optimizer(again, created, parameters, saved, grow)
    assert again.states.keys() == updater.states.keys() == {0, 1, 2, 3}
    found = state.optimizer_arrays(again, parameters, lambda _, array: array)
    assert all(np.array_equal(found[name], [*saved[name], 0]) for name in saved)


@pytest.mark.parametrize(
    ("saved", "says"),
    [
        ({"b:0": np.ones(2)}, "a:0 is missing"),
        ({"a:0": np.ones(3)}, r"a:0 is of shape \(3,\), not \(2,\)"),
        ({"a:0": np.ones(2), "b:0": np.ones(2)}, "b:0 has no place"),
    ],
)
def test_an_optimizers_states_of_another_network_are_refused(saved, says):
    optimizer = mx.optimizer.create("nag", momentum=0.9)
    updater = mx.optimizer.get_updater(optimizer)
    parameters = [state.Parameter("a", [0], mx.nd.ones(3), (2,))]
    with pytest.raises(ModelError, match=says):
        state.restore_optimizer(updater, optimizer, parameters, saved, grow)


def test_every_device_of_every_worker_keeps_its_own_statistics():
    """Worker 1 of 3, with 2 devices: its own are the third and the fourth."""

    def statistics(device):
        return {"m": np.full(3, device, "f4"), "v": np.full((3, 2), -device, "f4")}

    def packed(device):
        return b"".join(array.tobytes() for array in statistics(device).values())

    cluster = OneOfThree(packed(0) + packed(1), packed(4) + packed(5))
    own = [statistics(2), statistics(3)]
    blocks = {name: [mx.nd.array(each[name]) for each in own] for name in "mv"}
    everyone = state.statistics_of_all(blocks, cluster)
    saved = state.statistics_arrays(everyone, cut)
    assert sorted(saved) == [f"{name}@{k}" for name in "mv" for k in range(6)]
    for k in range(6):
        assert np.array_equal(saved[f"m@{k}"], statistics(k)["m"][:2])
        assert np.array_equal(saved[f"v@{k}"], statistics(k)["v"][:2])
    cleared = {"m": [mx.nd.zeros(3), mx.nd.zeros(3)]}
    state.restore_statistics(cleared, saved, grow, cluster)
    assert [array.asnumpy().tolist() for array in cleared["m"]] == [[2, 2, 0], [3, 3, 0]]
    # Of another number of devices: all keep what they have.
    state.restore_statistics(cleared, {"m@0": np.ones(2), "m@1": np.ones(2)}, grow, cluster)
    assert cleared["m"][0].asnumpy().tolist() == [2, 2, 0]
    # A single device's are in the parameters.
    assert state.statistics_arrays(everyone[:1], cut) == {}


def test_gradients_that_wait_resume_on_another_number_of_devices():
    gradients = {"w": [mx.nd.array([1, 2, 0]), mx.nd.array([10, 20, 0])]}
    sums = state.GradientSums(gradients)
    assert sums.arrays(cut) == {}
    assert sums.add(gradients, is_due=False) == sums.add(gradients, is_due=False) == 0
    saved = sums.arrays(cut)
    assert saved["+"].tolist() == [2] and saved["w+1"].tolist() == [20, 40]
    for devices in (1, 2, 3):
        blocks = {"w": [mx.nd.zeros(3) for _ in range(devices)]}
        resumed = state.GradientSums(blocks)
        resumed.restore(saved, grow)
        assert resumed.add(blocks, is_due=True) == 3 and resumed.waiting == 0
        assert sum(array.asnumpy() for array in blocks["w"]).tolist() == [22, 44, 0]
        # They wait no longer: the next update is of its own batch.
        blocks["w"][0][:] = 1
        assert resumed.add(blocks, is_due=True) == 1
        assert blocks["w"][0].asnumpy().tolist() == [1, 1, 1]
