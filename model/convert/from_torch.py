"""``torch``: PyTorch's Xception to a checkpoint."""

import argparse
from pathlib import Path

from log.command import Outcome
from model.convert.arguments import add_activation_argument, add_checkpoint_arguments

NAME = "torch"
HELP = "PyTorch's weights of Xception to a checkpoint"
DESCRIPTION = (
    "Convert weights of timm's legacy_xception or pretrainedmodels' xception, or of what is made "
    "from them, with any number of classes, to the checkpoint PREFIX-0000. FILE is a .safetensors "
    "file or one of torch.save (.pth), of which only tensors are read."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="FILE", type=Path, help="PyTorch's file")
    add_checkpoint_arguments(parser, "299", "the image size / 0.8975, as in timm")
    add_activation_argument(parser)


def run(args: argparse.Namespace, outcome: Outcome) -> str:
    from model.convert.checkpoint import check_free, write
    from model.convert.torch import reading

    check_free(args.prefix)
    return write(reading.read(args.weights, args.activation), args, outcome)
