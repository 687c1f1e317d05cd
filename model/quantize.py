"""A network in int8, for inference on CPUs that have instructions for it (VNNI).

    python -m model.quantize model/demo 10 model/demo-int8 --calibrate data/digits/train.rec

MXNet's own quantization (mx.contrib.quantization): BatchNorm, relus and sums are folded into the
convolutions, which then compute in int8; what range their inputs have is taken from the images that
--calibrate names. The result is a checkpoint for `model.evaluate`, `model.predict` and MXNet with
oneDNN; it can't be trained.
"""

import argparse
import sys

from data import DataError
from log.command import OneLineParser, whole
from model import ModelError, mxnet_reason


def parse_arguments(argv) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m model.quantize",
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("prefix", help="of the checkpoint")
    parser.add_argument("epoch", type=whole(0), help="of the checkpoint")
    parser.add_argument("out", help="prefix of the checkpoint to write, of the same epoch")
    parser.add_argument(
        "--calibrate", required=True, metavar="REC", help="records of training images"
    )
    parser.add_argument(
        "--images", type=whole(1), default=512, metavar="N", help="how many of them"
    )
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse_arguments(argv)
    code = 2
    try:
        from model.devices import import_mxnet

        mx = import_mxnet()
        from data.inspect import require
        from data.iterators import record_args
        from model.checkpoint import Checkpoints, Place
        from model.inference.int8 import quantize
        from model.network.loading import load_network, numpy_params

        require(args.calibrate, None)
        network = load_network(args.prefix, args.epoch)
        if network.image_shape is None:
            raise ModelError(f"{args.prefix}: its checkpoint does not say how large its images are")
        checkpoints, place = Checkpoints(args.out), Place(args.epoch)
        if checkpoints.places():
            raise ModelError(f"{args.out} has checkpoints already: choose another prefix")
        code = 1
        batch_size = min(args.images, 32)
        try:
            images = mx.io.ImageRecordIter(
                **record_args(
                    args.calibrate, network.image_shape, batch_size, network.mean, network.std, 4
                )
            )
            int8 = quantize(network, mx.io.ResizeIter(images, args.images // batch_size))
        except mx.base.MXNetError as error:
            raise ModelError(f"{args.calibrate}: {mxnet_reason(error)}") from None
        except StopIteration:
            raise ModelError(f"{args.calibrate}: no record of an image in it") from None
        checkpoints.lock()
        run = {**network.run, "quantized_from": f"{args.prefix}, {place}", "validation": None}
        checkpoints.save(place, int8[0].tojson(), numpy_params(*int8[1:]), {}, run)
    except (DataError, ModelError) as error:
        print(f"python -m model.quantize: error: {error}", file=sys.stderr)
        return code
    print(checkpoints.params_file(place))
    return 0


if __name__ == "__main__":
    sys.exit(main())
