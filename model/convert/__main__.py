"""Weights from and to other formats.

    python -m model.convert keras xception.h5 model/keras     a Keras model to a checkpoint
    python -m model.convert torch xception.pth model/torch    PyTorch's weights to a checkpoint
    python -m model.convert sliced model/old 50 model/new     a checkpoint of the 2017 script
    python -m model.convert to-keras model/keras 0 out.h5     a checkpoint to a Keras weights file
    python -m model.convert to-torch model/torch 0 out.safetensors    ... to one for PyTorch
    python -m model.convert onnx model/new 50 out.onnx        a checkpoint to an ONNX file

Nothing is written where the input is not what the command says. Exit code 2: the arguments or the
input can't be used; 1: the result could not be written.

Each conversion is a module with NAME, HELP, DESCRIPTION, ``add_arguments(parser)``, ``run(args,
outcome)``, which returns the line to print, and, if it needs it, ``check_arguments(args, parser)``.
"""

import argparse
import sys
from typing import Optional, Sequence

from log.command import OneLineParser, command
from model.convert import from_keras, from_sliced, from_torch, to_keras, to_onnx, to_torch
from model.devices import import_mxnet

#: In the order of --help.
CONVERSIONS = (from_keras, from_torch, from_sliced, to_keras, to_torch, to_onnx)


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m model.convert",
        description="Weights from and to other formats.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parsers = {}
    for conversion in CONVERSIONS:
        parsers[conversion] = commands.add_parser(
            conversion.NAME, help=conversion.HELP, description=conversion.DESCRIPTION
        )
        parsers[conversion].set_defaults(conversion=conversion)
        conversion.add_arguments(parsers[conversion])
    args = parser.parse_args(argv)
    if hasattr(args.conversion, "check_arguments"):
        args.conversion.check_arguments(args, parsers[args.conversion])
    return args


def main(argv: Optional[Sequence[str]] = None) -> int:
    with command("model.convert", writes_files=True) as outcome:
        args = parse_arguments(argv)
        import_mxnet()  # conversions import what needs it when they run, after this door
        print(args.conversion.run(args, outcome))
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
