"""``to-keras``: a checkpoint to a Keras weights file."""

import argparse

from log.command import Outcome
from model.convert.arguments import add_export_arguments

NAME = "to-keras"
HELP = "a checkpoint to a Keras weights file"
DESCRIPTION = (
    "Convert the checkpoint PREFIX-EPOCH of Keras' network, fine-tuned or not, to an .h5 file for "
    "load_weights of tf.keras.applications.Xception."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_export_arguments(parser, "OUT.h5")


def check_arguments(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if args.out.suffix != ".h5" or args.out.name.endswith(".weights.h5"):
        parser.error(f"OUT.h5: must end in .h5, and not in .weights.h5, for Keras: {args.out}")


def run(args: argparse.Namespace, outcome: Outcome) -> str:
    from model.convert.exporting import expected_pixels, params_for, write_file
    from model.convert.keras import SYMBOL_ARGUMENTS, writing
    from model.network.loading import load_network

    network = load_network(args.prefix, args.epoch)
    params = params_for(network, SYMBOL_ARGUMENTS, args.prefix, "Keras'")
    content = writing.dump(params)
    outcome.begun()
    write_file(args.out, content)
    constructor = writing.constructor(params, network.image_shape)
    return f"{args.out}: for {constructor}; {expected_pixels(network, 255)}"
