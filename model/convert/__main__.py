"""Weights from and to other formats.

    python -m model.convert keras xception.h5 model/keras     a Keras weights file to a checkpoint
    python -m model.convert sliced model/old 50 model/new     a checkpoint of the 2017 script
    python -m model.convert to-keras model/keras 0 out.h5     a checkpoint to a Keras weights file
    python -m model.convert onnx model/new 50 out.onnx        a checkpoint to an ONNX file

Nothing is written where the input is not what the command says. Exit code 2: the arguments or the
input can't be used; 1: the result could not be written.
"""

import argparse
import platform
import sys
import time
from pathlib import Path

from data import DataError
from log.command import OneLineParser, whole
from model import ModelError


def parse_arguments(argv) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m model.convert",
        description="Weights from and to other formats.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    keras = commands.add_parser(
        "keras",
        help="a Keras weights file of Xception to a checkpoint",
        description="Convert weights of Keras' Xception, with or without the top (.h5, .weights.h5 "
        "or .keras), to the checkpoint PREFIX-0000.",
    )
    keras.add_argument("weights", metavar="WEIGHTS", type=Path, help="Keras' file")
    keras.add_argument("prefix", metavar="PREFIX", help="of the checkpoint to write")
    sliced = commands.add_parser(
        "sliced",
        help="a checkpoint of a sliced network, such as the 2017 script's, to one of this script",
        description="Convert OLD_PREFIX-symbol.json and OLD_PREFIX-EPOCH.params of a network with "
        "a convolution for each channel: the 2017 script's, or an older converter's from Keras.",
    )
    sliced.add_argument("old_prefix", metavar="OLD_PREFIX")
    sliced.add_argument("epoch", metavar="EPOCH", type=whole(0), help="of both checkpoints")
    sliced.add_argument("prefix", metavar="PREFIX", help="of the checkpoint to write")
    for command in (keras, sliced):
        command.add_argument(
            "--classes", metavar="FILE", type=Path, help="class names, one a line, in label order"
        )
        command.add_argument(
            "--image-size",
            type=whole(1),
            metavar="N",
            help="pixels a side of the images it was trained on (default: 299 for Keras' weights, "
            "224 for the 2017 script's)",
        )
        command.add_argument(
            "--short-side",
            type=whole(1),
            metavar="N",
            help="pixels of an image's short side before the centre is cut out "
            "(default: 8/7 of --image-size)",
        )

    to_keras = commands.add_parser(
        "to-keras",
        help="a checkpoint to a Keras weights file",
        description="Convert the checkpoint PREFIX-EPOCH of Keras' network, trained on or not, to "
        "an .h5 file for load_weights of tf.keras.applications.Xception.",
    )
    onnx = commands.add_parser(
        "onnx",
        help="a checkpoint to an ONNX file",
        description="Convert the checkpoint PREFIX-EPOCH to an ONNX file of any batch size. Class "
        "names and preprocessing are in its metadata.",
    )
    for command, name in ((to_keras, "OUT.h5"), (onnx, "OUT.onnx")):
        command.add_argument("prefix", metavar="PREFIX", help="of the checkpoint")
        command.add_argument("epoch", metavar="EPOCH", type=whole(0))
        command.add_argument("out", metavar=name, type=Path, help="the file to write")
    onnx.add_argument(
        "--output",
        choices=("softmax", "logits", "features"),
        default="softmax",
        help="what the network gives: probabilities, what the softmax takes, or the pooled "
        "features (default: softmax)",
    )
    onnx.add_argument(
        "--image-size",
        type=whole(1),
        metavar="N",
        help="pixels a side of the input (default: that of the checkpoint's training)",
    )
    args = parser.parse_args(argv)
    if args.command == "to-keras" and (
        args.out.suffix != ".h5" or args.out.name.endswith(".weights.h5")
    ):
        to_keras.error(f"OUT.h5: must end in .h5, and not in .weights.h5, for Keras: {args.out}")
    return args


# From another format to a checkpoint


def read_keras(args) -> tuple:
    from model.convert import keras

    params = keras.read(args.weights)
    return params, dict(keras.SYMBOL_ARGUMENTS), True, args.weights


def read_sliced(args) -> tuple:
    from model.convert import sliced

    return (*sliced.read(args.old_prefix, args.epoch), f"{args.old_prefix}-{args.epoch:04d}.params")


def checkpoint_from(args):
    """Return what writes the checkpoint: all that can fail but for the writing is done."""
    from data.formats.classes import read_class_names
    from model.checkpoint import Checkpoints, Place
    from model.network.loading import check_params
    from symbol_xception import get_xception_symbol

    checkpoints = Checkpoints(args.prefix)
    if checkpoints.places():
        raise ModelError(f"{args.prefix} has checkpoints: another PREFIX, or delete them")
    read = {"keras": read_keras, "sliced": read_sliced}[args.command]
    params, arguments, from_keras, source = read(args)
    if "arg:fc1_bias" in params:
        arguments["num_classes"] = len(params["arg:fc1_bias"])
    else:
        arguments["features"] = True
    symbol = get_xception_symbol(**arguments)
    check_params(params, symbol, source)
    classes = read_class_names(args.classes) if args.classes else None
    num_classes = arguments.get("num_classes", 0)
    if classes and len(classes) != num_classes:
        raise DataError(
            f"{args.classes}: {len(classes)} names, the network has {num_classes} classes"
        )
    size = args.image_size or (299 if from_keras else 224)
    # Keras' network takes pixels from -1 to 1, the 2017 script's took them as they are.
    mean, std = (127.5, 127.5) if from_keras else (0, 1)
    run = {
        "settings": {
            "image_shape": [3, size, size],
            "rgb_mean": [mean] * 3,
            "rgb_std": [std] * 3,
            "short_side": args.short_side or round(size * 8 / 7),
            "classes": classes,
        },
        "converted_from": str(source),
        # What is not known of the run that made these weights.
        **dict.fromkeys(("lr", "lr_epoch", "batches", "figures", "validation", "best")),
        "versions": {"python": platform.python_version()},
        "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    place = Place(args.epoch if args.command == "sliced" else 0)

    def write():
        checkpoints.save(place, symbol.tojson(), params, {}, run)
        return checkpoints.params_file(place)

    return write


# From a checkpoint to another format


def keras_file_from(args):
    from model.convert import keras
    from model.network.layers import architecture
    from model.network.loading import load_network, numpy_params

    network = load_network(args.prefix, args.epoch)
    made = architecture(network.symbol)
    for name, value in keras.SYMBOL_ARGUMENTS.items():
        if made[name] != value:
            raise ModelError(
                f"{args.prefix}: not Keras' network: its {name} is {made[name]}, Keras' is {value}"
            )
    content = keras.dump(numpy_params(network.arg_params, network.aux_params))

    def write():
        write_file(args.out, content)
        return args.out

    return write


def onnx_file_from(args):
    from model.convert import onnx
    from model.network.loading import load_network

    network = load_network(args.prefix, args.epoch)
    shape = (3, args.image_size, args.image_size) if args.image_size else network.image_shape
    if not shape:
        raise ModelError(f"{args.prefix}: it does not say which images it takes: give --image-size")
    content = onnx.export(network, args.output, shape)

    def write():
        write_file(args.out, content)
        size = ", ".join(map(str, shape))
        return f"{args.out}: opset {onnx.OPSET}, data (N, {size}) -> {args.output}"

    return write


def write_file(path, content):
    from model.checkpoint.generations import write_whole

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda write: write(content))
    except OSError as error:
        path.with_name(f"{path.name}.part").unlink(missing_ok=True)
        raise ModelError(f"{path}: {error.strerror}") from None


def main(argv=None) -> int:
    args = parse_arguments(argv)
    from model.devices import import_mxnet

    convert = {
        "keras": checkpoint_from,
        "sliced": checkpoint_from,
        "to-keras": keras_file_from,
        "onnx": onnx_file_from,
    }[args.command]
    code = 2
    try:
        import_mxnet()
        write = convert(args)
        code = 1
        print(write())
    except (DataError, ModelError) as error:
        print(f"model.convert: error: {error}", file=sys.stderr)
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
