"""``to-torch``: a checkpoint to a safetensors file for PyTorch."""

import argparse

from log.command import Outcome
from model.convert.arguments import add_export_arguments

NAME = "to-torch"
HELP = "a checkpoint to a safetensors file for PyTorch"
DESCRIPTION = (
    "Convert the checkpoint PREFIX-EPOCH of PyTorch's network, fine-tuned or not, to a "
    ".safetensors file for timm's legacy_xception; without a classifier, for its num_classes=0."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_export_arguments(parser, "OUT.safetensors")


def run(args: argparse.Namespace, outcome: Outcome) -> str:
    from model.convert.exporting import expected_pixels, params_for, write_file
    from model.convert.torch import writing
    from model.convert.torch.layers import SYMBOL_ARGUMENTS
    from model.network.loading import load_network

    network = load_network(args.prefix, args.epoch)
    params = params_for(network, SYMBOL_ARGUMENTS, args.prefix, "PyTorch's")
    content = writing.dump(params)
    outcome.begun()
    write_file(args.out, content)
    return f"{args.out}: {expected_pixels(network, 1)}"
