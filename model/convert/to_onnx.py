"""``onnx``: a checkpoint to an ONNX file."""

import argparse
import dataclasses

from log.command import Outcome, print_notices, whole
from model.convert.arguments import add_export_arguments
from model.inference.preprocessing import add_preprocessing_args, prepared

NAME = "onnx"
HELP = "a checkpoint to an ONNX file"
DESCRIPTION = (
    "Convert the checkpoint PREFIX-EPOCH to an ONNX file of any batch size. Its input is RGB, "
    "normalised by the caller; class names and preprocessing are in its metadata."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_export_arguments(parser, "OUT.onnx")
    parser.add_argument(
        "--output",
        choices=("softmax", "logits", "features"),
        default="softmax",
        help="output of the ONNX network: probabilities, logits or pooled features (default: "
        "softmax)",
    )
    parser.add_argument(
        "--image-size",
        type=whole(1),
        metavar="N",
        help="height and width of the input, in pixels (default: that of the checkpoint's "
        "training)",
    )
    add_preprocessing_args(parser, "short_side")


def run(args: argparse.Namespace, outcome: Outcome) -> str:
    from model import ModelError
    from model.convert import onnx
    from model.convert.exporting import write_file
    from model.network.loading import load_network
    from model.network.params import check_image_shape

    network = load_network(args.prefix, args.epoch)
    shape = (3, args.image_size, args.image_size) if args.image_size else network.image_shape
    if not shape:
        raise ModelError(f"{args.prefix}: the checkpoint has no image size: give --image-size")
    network, notices = prepared(dataclasses.replace(network, image_shape=shape), args)
    check_image_shape(network.symbol, shape)
    content = onnx.export(network, args.output, shape)
    print_notices("model.convert", notices)
    outcome.begun()
    write_file(args.out, content)
    size = ", ".join(map(str, shape))
    return f"{args.out}: opset {onnx.OPSET}, data (N, {size}) -> {args.output}"
