"""``keras``: a Keras model of Xception, or its weights, to a checkpoint."""

import argparse
from pathlib import Path

from log.command import Outcome
from model.convert.arguments import add_activation_argument, add_checkpoint_arguments

NAME = "keras"
HELP = "a Keras model of Xception, or its weights, to a checkpoint"
DESCRIPTION = (
    "Convert Keras' Xception, with its own classifier, another Dense layer or none, to the "
    "checkpoint PREFIX-0000. FILE is a whole model (.keras, .h5) or weights alone (.h5, "
    ".weights.h5, .weights.json)."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="FILE", type=Path, help="Keras' file")
    add_checkpoint_arguments(parser, "that of the model, or 299", "8/7 of the image size")
    add_activation_argument(parser)


def run(args: argparse.Namespace, outcome: Outcome) -> str:
    from model.convert.checkpoint import check_free, write
    from model.convert.keras import reading

    check_free(args.prefix)
    return write(reading.read(args.weights, args.activation), args, outcome)
