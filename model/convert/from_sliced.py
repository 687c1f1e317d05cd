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
    size = "224; 299 for a converter's from Keras"
    add_checkpoint_arguments(parser, size, "8/7 of the image size")


def run(args: argparse.Namespace, outcome: Outcome) -> str:
    from model.convert import sliced
    from model.convert.checkpoint import Images, Source, check_free, write

    check_free(args.prefix)
    params, arguments, from_keras = sliced.read(args.old_prefix, args.epoch)
    path = f"{args.old_prefix}-{args.epoch:04d}.params"
    # Keras' network took pixels from -1 to 1, the 2017 script's took them as they are.
    images = Images(usual_size=299, usual_mean=127.5, usual_std=127.5) if from_keras else Images()
    return write(Source(path, params, arguments, images, args.epoch), args, outcome)
