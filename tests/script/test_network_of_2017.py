"""symbol_xception.py computes the function of the 2017 network."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import mxnet as mx
import numpy as np
import pytest

from symbol_xception import get_xception_symbol
from tests.network_of_2017 import folded, joined, network_of_2017
from tests.networks import SMALL, bind, train


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
