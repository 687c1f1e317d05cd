"""``keras``: a Keras weights file of Xception to a checkpoint."""

import argparse
from pathlib import Path

from log.command import Outcome
from model.convert.arguments import add_checkpoint_arguments

NAME = "keras"
HELP = "a Keras weights file of Xception to a checkpoint"
DESCRIPTION = (
    "Convert weights of Keras' Xception, with or without the top (.h5, .weights.h5 or .keras), to "
    "the checkpoint PREFIX-0000."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, help="Keras' file")
    add_checkpoint_arguments(parser)


def run(args: argparse.Namespace, outcome: Outcome) -> str:
    from model.convert.checkpoint import Source, check_free, write
    from model.convert.keras import SYMBOL_ARGUMENTS, reading

    check_free(args.prefix)
    params = reading.read(args.weights)
    source = Source(args.weights, params, dict(SYMBOL_ARGUMENTS), from_keras=True)
    return write(source, args, outcome)
