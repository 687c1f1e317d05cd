"""Networks of few filters, for tests in which the filters do not matter."""

import mxnet as mx
import numpy as np

from model.checkpoint import Checkpoints, Place
from model.network.params import initial_params, numpy_params
from symbol_xception import get_xception_symbol

#: 20 and 24 are no multiples of the 16 channels that run at a time.
THIN = (16, 16, 16, 20, 24, 32, 32)
SMALL = (8, 8, 8, 12, 12, 16, 16)
#: The fewest: all of them run padded.
THINNEST = (4, 4, 6, 6, 8, 8, 10)


def save_network(prefix, filters, settings=None, **kwargs):
    """Write a network that has not been trained, for --pretrained=`prefix`,0."""
    symbol = get_xception_symbol(10, filters, **kwargs)
    mx.random.seed(0)
    initializer = mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2)
    params = numpy_params(*initial_params(symbol, initializer))
    settings = {"rgb_mean": [0] * 3, "rgb_std": [1] * 3, **(settings or {})}
    unknown = ("lr", "lr_epoch", "batches", "figures", "validation", "best")
    run = {"settings": settings, **dict.fromkeys(unknown)}
    Checkpoints(prefix).save(Place(0), symbol.tojson(), params, {}, run)


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
