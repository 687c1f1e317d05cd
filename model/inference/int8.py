"""A network in int8: the work of model.quantize."""

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import mxnet as mx
from mxnet.contrib.quantization import quantize_model_mkldnn

from data.inspect import require
from data.iterators import record_args
from model import ModelError
from model.checkpoint import Checkpoints, Place
from model.inference import mxnet_errors
from model.network.loading import Network, load_network
from model.network.params import ndarray_params, numpy_params
from model.network.running import RunningNetwork


def prepare(args: argparse.Namespace) -> Tuple[Network, Checkpoints]:
    """Return the network to quantize, and where the result goes. args : those of model.quantize.
    Raises ModelError or DataError where these can't be used."""
    require(args.calibrate, None)
    network = load_network(args.prefix, args.epoch)
    if network.image_shape is None:
        raise ModelError(f"{args.prefix}: its checkpoint does not say how large its images are")
    checkpoints = Checkpoints(args.out)
    if checkpoints.places():
        raise ModelError(f"{args.out} has checkpoints already: choose another prefix")
    return network, checkpoints


def write(args: argparse.Namespace, network: Network, checkpoints: Checkpoints) -> Path:
    """Write the network in int8 as a checkpoint; return its .params file. Raises ModelError."""
    place = Place(args.epoch)
    batch_size = min(args.images, 32)
    try:
        with mxnet_errors(args.calibrate):
            images = mx.io.ImageRecordIter(
                **record_args(
                    args.calibrate, network.image_shape, batch_size, network.mean, network.std, 4
                )
            )
            symbol, *params = quantize(network, mx.io.ResizeIter(images, args.images // batch_size))
    except StopIteration:
        raise ModelError(f"{args.calibrate}: no record of an image in it") from None
    checkpoints.lock()
    run = {**network.run, "quantized_from": f"{args.prefix}, {place}", "validation": None}
    checkpoints.save(place, symbol.tojson(), numpy_params(*params), {}, run)
    return checkpoints.params_file(place)


def quantize(
    network: Network, calibration: mx.io.DataIter
) -> Tuple[mx.sym.Symbol, Dict[str, Any], Dict[str, Any]]:
    """Return (symbol, arg_params, aux_params) of `network` in int8.

    calibration : images like those to come; the ranges of the layers' inputs are taken from them.
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
def _quiet() -> Iterator[None]:
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
