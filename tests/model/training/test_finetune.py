"""model.training.finetune: what is frozen."""

import mxnet as mx
import numpy as np
import pytest

from model.training.finetune import frozen_params, training_symbol
from tests.model.training.modules import small_symbol


@pytest.mark.parametrize("freeze", ["none", "entry", "all-but-head"])
def test_what_is_frozen_normalises_as_in_inference(freeze):
    symbol = small_symbol(dropout=0)
    inside = training_symbol(symbol, frozen_params(symbol, freeze), 1).get_internals()
    same = []
    for name in ("Entry_flow_b4_add", "flatten"):
        executor = inside[f"{name}_output"].simple_bind(mx.cpu(), data=(2, 3, 64, 64))
        for arrays in (executor.arg_dict, executor.aux_dict):
            for array in arrays.values():
                array[:] = mx.nd.random.uniform(0.5, 1, array.shape)
        training, inference = (executor.forward(is_train=t)[0].asnumpy() for t in (True, False))
        same.append(np.allclose(training, inference, rtol=1e-4))
    assert same == {"none": [False] * 2, "entry": [True, False], "all-but-head": [True] * 2}[freeze]
