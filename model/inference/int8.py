"""A network in int8: the work of model.quantize."""

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import mxnet as mx
import numpy as np
from mxnet.contrib.quantization import quantize_model_mkldnn

from data.formats.recordset import scan
from data.inspect import require
from data.iterators import record_args
from data.readers import record_iter
from log.notices import Notices
from model import ModelError
from model.checkpoint import Checkpoints, Place
from model.inference.equalizing import equalized
from model.inference.preprocessing import prepared
from model.network.errors import mxnet_errors
from model.network.inference import bind_network, inference_network
from model.network.layers import is_int8, is_xception
from model.network.loading import Network, load_network
from model.network.params import numpy_params

# How much fused operators may round otherwise, as a share of the largest output.
_TOLERANCE = 1e-3


def prepare(args: argparse.Namespace) -> Tuple[Network, Notices, Checkpoints]:
    """Return the network to quantize, what is to be said before, and where the result goes.

    args : those of model.quantize. Raises ModelError or DataError if these can't be used.
    """
    require(args.calibrate, None)
    scan(args.calibrate)  # its framing: MXNet reads all of a file in which no record begins
    network, notices = prepared(load_network(args.prefix, args.epoch), args)
    if is_int8(network.symbol):
        raise ModelError(f"{network.source} is in int8 already")
    checkpoints = Checkpoints(args.out)
    if checkpoints.places():
        raise ModelError(f"{args.out} has checkpoints already: choose another prefix")
    return network, notices, checkpoints


def write(args: argparse.Namespace, network: Network, checkpoints: Checkpoints) -> Path:
    """Write the network in int8 as a checkpoint; return its .params file. Raises ModelError."""
    place = Place(network.epoch)
    batch_size = min(args.images, 32)
    try:
        with mxnet_errors(args.calibrate):
            images = record_iter(
                record_args(
                    args.calibrate, network.input_shape, batch_size, network.mean, network.std, 4
                )
            )
            if not is_xception(network.symbol):
                check_fusing(network, images.next())
                images.reset()
            symbol, *params = quantize(network, mx.io.ResizeIter(images, args.images // batch_size))
    except StopIteration:
        raise ModelError(f"{args.calibrate}: no record of an image in it") from None
    checkpoints.lock()
    settings = {
        **network.run.get("settings", {}),
        "image_shape": list(network.input_shape),
        "rgb_mean": list(network.mean),
        "rgb_std": list(network.std),
        "short_side": network.short_side,
        "classes": network.classes,
    }
    run = {
        **network.run,
        "settings": settings,
        "quantized_from": f"{args.prefix}, {place}",
        "validation": None,
    }
    checkpoints.save(place, symbol.tojson(), numpy_params(*params), {}, run)
    return checkpoints.params_file(place)


def quantize(
    network: Network, calibration: mx.io.DataIter
) -> Tuple[mx.sym.Symbol, Dict[str, Any], Dict[str, Any]]:
    """Return (symbol, arg_params, aux_params) of `network` in int8.

    calibration : images like those to come; the ranges of the layers' inputs are taken from them.
    """
    symbol, arg_params, aux_params = inference_network(
        network.symbol, network.arg_params, network.aux_params
    )
    arg_params = equalized(symbol, arg_params, calibration)
    with _quiet():
        # Ranges from the smallest to the largest value: the entropy mode, which cuts them off, cost
        # 9 points of accuracy on the digits; this one none.
        return quantize_model_mkldnn(
            symbol,
            arg_params,
            aux_params,
            ctx=mx.cpu(),
            calib_mode="naive",
            calib_data=calibration,
            quantized_dtype="auto",
        )


def check_fusing(network: Network, batch: mx.io.DataBatch) -> None:
    """Raise ModelError if MXNet's fused operators, which int8 needs, don't compute `network`.

    Those of MXNet 1.9.1 are wrong for some networks (`model.network.inference.bind_as_it_is`).
    """
    shape = batch.data[0].shape
    outputs = []
    for bind in (bind_network, _bind_fused):
        module = bind(network, shape, [mx.cpu()])
        module.forward(mx.io.DataBatch(batch.data), is_train=False)
        outputs.append(module.get_outputs()[0].asnumpy())
    expected, fused = outputs
    if not np.abs(fused - expected).max() <= _TOLERANCE * np.abs(expected).max():
        raise ModelError(
            f"{network.source}: MXNet's fused operators, which int8 needs, compute something else"
        )


def _bind_fused(network: Network, shape: Tuple[int, ...], contexts: list) -> mx.mod.Module:
    labels = [name for name in network.symbol.list_arguments() if name.endswith("label")]
    module = mx.mod.Module(network.symbol, context=contexts, label_names=labels)
    label_shapes = [(name, shape[:1]) for name in labels] or None
    module.bind([("data", shape)], label_shapes, for_training=False)
    module.set_params(network.arg_params, network.aux_params)
    return module


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
