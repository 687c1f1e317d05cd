"""Networks of few filters, for tests in which the filters do not matter."""

import mxnet as mx

from model.checkpoint import Checkpoints, Place
from model.network.params import initial_params, numpy_params
from symbol_xception import get_xception_symbol

#: 20 and 24 are no multiples of the 16 channels that run at a time.
THIN = (16, 16, 16, 20, 24, 32, 32)
#: The fewest: all of them run padded.
THINNEST = (4, 4, 6, 6, 8, 8, 10)


def save_network(prefix, filters, settings=None, **kwargs):
    """Write a network that has not been trained, for --pretrained=`prefix`,0."""
    symbol = get_xception_symbol(10, filters, **kwargs)
    mx.random.seed(0)
    initializer = mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2)
    params = numpy_params(*initial_params(symbol, initializer))
    settings = {"rgb_mean": [0] * 3, "rgb_std": [1] * 3, **(settings or {})}
    run = {"settings": settings, "lr": None}
    Checkpoints(prefix).save(Place(0), symbol.tojson(), params, {}, run)
