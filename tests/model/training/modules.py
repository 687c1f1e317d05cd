"""Modules that train a thin network, for tests of what they learn and remember."""

import mxnet as mx
import numpy as np

import symbol_xception
from model.network.params import ndarray_params
from model.training.finetune import training_symbol
from model.training.module import ResumableModule
from model.training.optimizers import Method
from tests.networks import THINNEST


def small_symbol(**arguments):
    return symbol_xception.get_xception_symbol(5, filter_list=THINNEST, **arguments)


def bound(
    method=None, symbol=None, devices=1, params=None, states=None, updates=0, images=6, lr=0.01
):
    """Return a module of `symbol` that is ready to train on CPU contexts, as with `params` and
    `states` after so many `updates`; 5 batches are an epoch. images : in a batch."""
    method = method or Method()
    symbol = symbol if symbol is not None else small_symbol()
    symbol = training_symbol(symbol, [], 1, method.label_smoothing, method.no_bias_decay)
    contexts = [mx.cpu(i) for i in range(devices)]
    module = ResumableModule(
        symbol, contexts, accumulate=method.accumulate, batches=5, ema=method.ema
    )
    module.bind([("data", (images, 3, 32, 32))], [("softmax_label", (images,))])
    mx.random.seed(0)
    arg_params, aux_params = ndarray_params(params) if params else (None, None)
    module.init_params(mx.init.Xavier(), arg_params=arg_params, aux_params=aux_params)
    if states is not None:
        module.restore_states(states)
    module.init_optimizer(
        kvstore="device",
        optimizer=method.optimizer,
        optimizer_params={
            "learning_rate": lr, "begin_num_update": updates, **method.optimizer_params()
        },
    )  # fmt: skip
    return module


def some_images(seed):
    rng = np.random.RandomState(seed)
    return rng.uniform(0, 255, (6, 3, 32, 32)), rng.randint(0, 5, 6)


def step(module, number, seed=None, first=0, count=6, scale=1):
    """Train on batch `number`: `count` images of `some_images`, the first of them `first`."""
    images, labels = some_images(number if seed is None else seed)
    images, labels = images[first : first + count], labels[first : first + count]
    batch = mx.io.DataBatch([mx.nd.array(scale * images)], [mx.nd.array(labels)])
    batch.seed = batch.number = number
    module.forward_backward(batch)
    module.update()
