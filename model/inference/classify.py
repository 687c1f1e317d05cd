"""What a network predicts for image files, classes or features: the work of model.predict."""

import argparse
import dataclasses
import io
import itertools
from typing import Callable, Iterator, List, Tuple

import mxnet as mx
import numpy as np

from log.files import write_whole
from log.notices import Notices
from model import ModelError, devices
from model.inference.images import Unreadable, image_paths, network_input
from model.inference.preprocessing import prepared
from model.network.errors import mxnet_errors
from model.network.inference import bind_network
from model.network.layers import features_symbol, is_xception
from model.network.loading import Network, load_network
from model.network.scores import check_probabilities

#: A class: its number, its name, its probability.
Ranked = Tuple[int, str, float]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A network that is ready, and the images to come. args : those of model.predict.

    notices : what is to be said before.
    """

    network: Network
    module: mx.mod.Module
    args: argparse.Namespace
    notices: Notices

    def classes(
        self, unreadable: Callable[[Unreadable], None]
    ) -> Iterator[Tuple[str, List[Ranked]]]:
        """Yield each image's path and its `args.top` most probable classes, the first one first.

        unreadable : is called for an image that can't be read, which is left out.
        Raises ModelError.
        """
        for path, row in self._outputs(unreadable):
            check_probabilities(row[None], self.network.source)
            best = np.argsort(-row, kind="stable")[: self.args.top].tolist()
            names = self.network.classes or list(map(str, range(len(row))))
            yield path, [(i, names[i], float(row[i])) for i in best]

    def write_features(self, unreadable: Callable[[Unreadable], None]) -> Tuple[int, int]:
        """Write `args.features`, a file for np.load: ``features``, float32 (images, features), and
        ``images``, their paths. Return the shape of the first.

        unreadable : as for `classes`. Raises ModelError, OSError.
        """
        rows = list(self._outputs(unreadable))
        ((_, (_, width)),) = self.module.output_shapes
        features = np.array([row for _, row in rows], np.float32).reshape(len(rows), width)
        content = io.BytesIO()
        np.savez(content, features=features, images=np.array([path for path, _ in rows], str))
        write_whole(self.args.features, content.getvalue())
        return len(rows), width

    def _outputs(
        self, unreadable: Callable[[Unreadable], None]
    ) -> Iterator[Tuple[str, np.ndarray]]:
        """Yield (path, the network's output for that image)."""
        size, shape = self.args.batch_size, self.network.input_shape
        images = self._inputs(unreadable)
        while batch := list(itertools.islice(images, size)):
            data = np.zeros((size, *shape), np.float32)
            data[: len(batch)] = [image for _, image in batch]
            with mxnet_errors("MXNet"):
                self.module.forward(mx.io.DataBatch([mx.nd.array(data)]), is_train=False)
                outputs = self.module.get_outputs()[0].asnumpy()
            yield from zip((path for path, _ in batch), outputs)

    def _inputs(self, unreadable: Callable[[Unreadable], None]) -> Iterator[Tuple[str, np.ndarray]]:
        for path in image_paths(self.args.images):
            try:
                image = network_input(path, self.network)
            except Unreadable as error:
                unreadable(error)
                continue
            yield path, image


def prepare(args: argparse.Namespace) -> Prediction:
    """Check what can be checked before the first image. args : those of model.predict.

    Raises ModelError if the network or the device can't be used.
    """
    if args.gpu is not None:
        devices.check_gpus([args.gpu], devices.gpus())
    devices.check_bfloat16(args.dtype)
    network, notices = prepared(load_network(args.prefix, args.epoch), args)
    if args.features:
        network = _without_classifier(network)
    elif is_xception(network.symbol) and "fc1_bias" not in network.arg_params:
        raise ModelError(f"{network.source}: a network without a classifier; it has --features")
    contexts = [mx.cpu() if args.gpu is None else mx.gpu(args.gpu)]
    module = bind_network(network, (args.batch_size, *network.input_shape), contexts, args.dtype)
    return Prediction(network, module, args, notices)


def _without_classifier(network: Network) -> Network:
    try:
        symbol = features_symbol(network.symbol)
    except ModelError as error:
        raise ModelError(f"{network.source}: {error}") from None
    names = symbol.list_arguments()
    arg_params = {name: array for name, array in network.arg_params.items() if name in names}
    return dataclasses.replace(network, symbol=symbol, arg_params=arg_params)
