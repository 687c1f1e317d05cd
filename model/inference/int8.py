"""A network in int8: the work of model.quantize."""

import contextlib
import os
import sys

import mxnet as mx
from mxnet.contrib.quantization import quantize_model_mkldnn

from model.network.loading import ndarray_params, numpy_params
from model.network.running import RunningNetwork


def quantize(network, calibration) -> tuple:
    """Return (symbol, arg_params, aux_params) of `network` in int8.

    network : model.network.loading.Network. calibration : DataIter of images like those to come.
    """
    running = RunningNetwork(network.symbol, for_training=False)
    params = running.inference_params(numpy_params(network.arg_params, network.aux_params))
    with _quiet():
        # Ranges from the smallest to the largest value: the entropy mode, which cuts them off, cost
        # 9 points of accuracy on the digits; this one none.
        return quantize_model_mkldnn(
            running.symbol,
            *ndarray_params(params),
            ctx=mx.cpu(),
            calib_mode="naive",
            calib_data=calibration,
            quantized_dtype="auto",
        )


@contextlib.contextmanager
def _quiet():
    """Send what MXNet's C++ code prints, a line for each layer, nowhere; exceptions pass."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
