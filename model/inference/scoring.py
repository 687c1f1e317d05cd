"""A network scored on records: the work of model.evaluate."""

import math

import mxnet as mx

from data import inspect, iterators
from data.formats.classes import class_names
from data.formats.recordfile import scan
from model import ModelError, devices
from model.network.loading import load_network
from model.network.running import bind_for_inference
from model.network.scores import Scores, predictions


def contexts(args) -> list:
    return [mx.gpu(i) for i in args.gpus] or [mx.cpu(i) for i in range(args.cpus)]


def prepare(args) -> tuple:
    """Check what can be checked before the first batch.

    Return (batches with their probabilities, how many, scores to count them in, class names).
    """
    devices.check_bfloat16(args.dtype)
    if args.gpus:
        devices.check_gpus(args.gpus, devices.gpus())
    network = load_network(args.prefix, args.epoch)
    shape = args.image_shape or network.image_shape
    if not shape:
        raise ModelError(f"{args.prefix}: does not say what it was trained on: give --image-shape")
    inspect.require(args.data_val, None)
    scanned = scan(args.data_val)
    _, ((_, num_classes),), _ = network.symbol.infer_shape(data=(1, *shape))
    inspect.check_labels(scanned, num_classes)

    devices_used = contexts(args)
    batch_size = iterators.fitting_batch_size(
        args.batch_size, scanned.num_images, len(devices_used)
    )
    module = bind_for_inference(
        network.symbol, network.arg_params, network.aux_params, (batch_size, *shape), devices_used,
        args.dtype,
    )  # fmt: skip
    record_args = iterators.record_args(
        args.data_val, shape, batch_size, network.mean, network.std, args.data_nthreads
    )
    scales = args.scales
    if args.ten_crop and not scales:
        if not network.short_side:
            raise ModelError(
                f"{args.prefix}: does not say how large its validation images were: --ten-crop "
                "needs --scales"
            )
        scales = (network.short_side,)
    small = [scale for scale in scales or () if scale < max(shape[1:])]
    if small:
        raise ModelError(
            f"--scales: {small[0]} is less than the network's input, {shape[1]}x{shape[2]}"
        )
    views = [{"resize": s, "data_shape": (3, s, s)} for s in scales or ()]
    streams = [iterators.EpochIter({**record_args, **view}) for view in views or [{}]]
    names = network.classes or class_names(args.data_val)
    if not names or len(names) != num_classes:
        names = list(map(str, range(num_classes)))
    batches = predictions(module, streams, shape[1:], args.ten_crop)
    return batches, math.ceil(scanned.num_images / batch_size), Scores(num_classes), names
