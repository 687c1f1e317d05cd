"""A network scored on records: the work of model.evaluate."""

import argparse
import math
from dataclasses import dataclass
from typing import Iterator, List, Tuple

import mxnet as mx
import numpy as np
from tqdm import tqdm

from data import inspect, iterators
from data.formats.recordset import names_of_classes, scan
from log.notices import Notices
from model import ModelError, devices
from model.inference.preprocessing import prepared
from model.network.errors import mxnet_errors
from model.network.inference import bind_network
from model.network.loading import Network, load_network
from model.network.scores import Scores, check_probabilities, count_batch, predictions


@dataclass(frozen=True)
class Scoring:
    """A network and images, checked and ready.

    source : the network's checkpoint. batches : (batch, probabilities), `num_batches` of them.
    names : of the classes, by label. notices : what is to be said before.
    """

    source: str
    batches: Iterator[Tuple[mx.io.DataBatch, np.ndarray]]
    num_batches: int
    names: List[str]
    records: str
    notices: Notices

    def run(self) -> Scores:
        """Return the scores; each image counts once. Raises ModelError."""
        scores = Scores(len(self.names))
        with mxnet_errors(self.records):
            for batch, probabilities in tqdm(
                self.batches, total=self.num_batches, unit="batch", disable=None
            ):
                count_batch(scores, batch, probabilities)
        return scores


def prepare(args: argparse.Namespace) -> Scoring:
    """Check what can be checked before the first batch. args : those of model.evaluate.

    Raises ModelError or DataError where the network, the devices or the records can't be used.
    """
    devices.check_bfloat16(args.dtype)
    if args.gpus:
        devices.check_gpus(args.gpus, devices.gpus())
    network = load_network(args.prefix, args.epoch)
    network, notices = prepared(network, args)
    shape = network.input_shape
    inspect.require(args.data_val, None)
    scanned = scan(args.data_val)
    contexts = [mx.gpu(i) for i in args.gpus] or [mx.cpu(i) for i in range(args.cpus)]
    batch_size = iterators.fitting_batch_size(args.batch_size, scanned.num_images, len(contexts))
    module = bind_network(network, (batch_size, *shape), contexts, args.dtype)
    ((_, (_, num_classes)),) = module.output_shapes
    inspect.check_labels(scanned, num_classes)
    record_args = iterators.record_args(
        args.data_val,
        shape,
        batch_size,
        network.mean,
        network.std,
        args.data_nthreads,
        args.gpus[0] if args.gpus else None,
    )
    views = [{"resize": s, "data_shape": (3, s, s)} for s in short_sides(args, network, shape)]
    streams = [iterators.EpochIter({**record_args, **view}) for view in views or [{}]]
    names = network.classes or names_of_classes(args.data_val)
    if not names or len(names) != num_classes:
        names = list(map(str, range(num_classes)))
    return Scoring(
        source=network.source,
        batches=_checked(predictions(module, streams, shape[1:], args.ten_crop), network.source),
        num_batches=math.ceil(scanned.num_images / batch_size),
        names=names,
        records=args.data_val,
        notices=notices,
    )


def _checked(
    batches: Iterator[Tuple[mx.io.DataBatch, np.ndarray]], name: str
) -> Iterator[Tuple[mx.io.DataBatch, np.ndarray]]:
    for batch, probabilities in batches:
        check_probabilities(probabilities, name)
        yield batch, probabilities


def short_sides(
    args: argparse.Namespace, network: Network, shape: Tuple[int, int, int]
) -> Tuple[int, ...]:
    """Return the short sides, in pixels, that images are resized to; none for images as they are
    in the records. shape : of the network's input. Raises ModelError."""
    scales = args.scales or ()
    if args.ten_crop and not scales:
        if not network.short_side:
            raise ModelError(
                f"{args.prefix}: does not say how large its validation images were: --ten-crop "
                "needs --scales"
            )
        scales = (network.short_side,)
    for scale in scales:
        if scale < max(shape[1:]):
            raise ModelError(
                f"--scales: {scale} is less than the network's input, {shape[1]}x{shape[2]}"
            )
    return scales
