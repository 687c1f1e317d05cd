"""``sliced``: a checkpoint of a sliced network, such as the 2017 script's, to a new one."""

import argparse

from log.command import Outcome, whole
from model.convert.arguments import add_checkpoint_arguments

NAME = "sliced"
HELP = "a checkpoint of a sliced network, such as the 2017 script's, to one of this script"
DESCRIPTION = (
    "Convert OLD_PREFIX-symbol.json and OLD_PREFIX-EPOCH.params of a network with a convolution "
    "for each channel: the 2017 script's, or an older converter's from Keras."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old_prefix", metavar="OLD_PREFIX")
    parser.add_argument("epoch", metavar="EPOCH", type=whole(0), help="of both checkpoints")
    add_checkpoint_arguments(parser)


def run(args: argparse.Namespace, outcome: Outcome) -> str:
    from model.convert import sliced
    from model.convert.checkpoint import Source, check_free, write

    check_free(args.prefix)
    params, arguments, from_keras = sliced.read(args.old_prefix, args.epoch)
    path = f"{args.old_prefix}-{args.epoch:04d}.params"
    return write(Source(path, params, arguments, from_keras, args.epoch), args, outcome)
