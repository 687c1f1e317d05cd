"""A network in int8, for inference on CPUs that have instructions for it (VNNI).

    python -m model.quantize model/demo 10 model/demo-int8 --calibrate data/digits/train.rec

MXNet's own quantization (mx.contrib.quantization): BatchNorm, relus and sums are folded into the
convolutions, which then compute in int8; what range their inputs have is taken from the images that
--calibrate names. The result is a checkpoint for `model.evaluate`, `model.predict` and MXNet with
oneDNN; it can't be trained.
"""

import argparse
import sys
from typing import Optional, Sequence

from log.command import OneLineParser, command, print_notices, whole
from model.arguments import add_prefix_and_epoch
from model.devices import import_mxnet
from model.inference.preprocessing import add_preprocessing_args


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m model.quantize",
        description=__doc__.split("\n")[0],
    )
    add_prefix_and_epoch(parser)
    parser.add_argument("out", help="prefix of the checkpoint to write, of the same epoch")
    parser.add_argument(
        "--calibrate", required=True, metavar="REC", help="records of training images"
    )
    parser.add_argument(
        "--images", type=whole(1), default=512, metavar="N", help="how many of them (default: 512)"
    )
    add_preprocessing_args(parser, "image_shape")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    with command("model.quantize", writes_files=True) as outcome:
        args = parse_arguments(argv)
        import_mxnet()
        from model.inference import int8

        network, notices, checkpoints = int8.prepare(args)
        print_notices("model.quantize", notices)
        outcome.begun()
        print(int8.write(args, network, checkpoints))
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
