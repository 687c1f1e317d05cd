"""The classes that a network sees in image files: the work of model.predict."""

import argparse
import itertools
from typing import Callable, Iterator, List, Tuple

import mxnet as mx
import numpy as np

from model import ModelError, devices
from model.inference import mxnet_errors
from model.inference.images import Unreadable, image_paths, prepare_image, read_image
from model.network.loading import Network, load_network
from model.network.running import bind_for_inference

#: A class: its number, its name, its probability.
Ranked = Tuple[int, str, float]


def load(args: argparse.Namespace) -> Network:
    """Return the checkpoint's network. args : those of model.predict. Raises ModelError where it
    can't classify images here."""
    if args.gpu is not None:
        devices.check_gpus([args.gpu], devices.gpus())
    devices.check_bfloat16(args.dtype)
    network = load_network(args.prefix, args.epoch)
    if not network.image_shape:
        raise ModelError(f"{args.prefix}: its checkpoint does not say which images it takes")
    if "softmax_label" not in network.symbol.list_arguments():
        raise ModelError(f"{args.prefix}: a network without a classifier: nothing to predict")
    return network


def classify(
    network: Network, args: argparse.Namespace, unreadable: Callable[[Unreadable], None]
) -> Iterator[Tuple[str, List[Ranked]]]:
    """Yield each image's path and its `args.top` most probable classes, the first one first.

    unreadable : is called for an image that can't be read, which is left out. Raises ModelError.
    """
    with mxnet_errors(args.prefix):
        module = bind_for_inference(
            network.symbol,
            network.arg_params,
            network.aux_params,
            (args.batch_size, *network.image_shape),
            [mx.cpu() if args.gpu is None else mx.gpu(args.gpu)],
            args.dtype,
        )
    short_side = args.short_side or network.short_side

    def readable() -> Iterator[Tuple[str, np.ndarray]]:
        for path in image_paths(args.images):
            try:
                pixels = read_image(path)
            except Unreadable as error:
                unreadable(error)
                continue
            yield (
                path,
                prepare_image(pixels, network.image_shape, short_side, network.mean, network.std),
            )

    images = readable()
    while batch := list(itertools.islice(images, args.batch_size)):
        data = np.zeros((args.batch_size, *network.image_shape), np.float32)
        data[: len(batch)] = [image for _, image in batch]
        with mxnet_errors("MXNet"):
            module.forward(mx.io.DataBatch([mx.nd.array(data)]), is_train=False)
            probabilities = module.get_outputs()[0].asnumpy()
        for (path, _), row in zip(batch, probabilities):
            best = np.argsort(-row, kind="stable")[: args.top].tolist()
            names = network.classes or list(map(str, range(len(row))))
            yield path, [(i, names[i], float(row[i])) for i in best]
