"""Scores of a network on labelled images.

    python -m model.evaluate PREFIX EPOCH --data-val X.rec

The figures that training prints for its validation images, for the checkpoint of any epoch: every
image counts once, whatever the batch size and the number of devices. --ten-crop and --scales look
at each image several times and average the probabilities (Krizhevsky et al. 2012, section 4.1;
Simonyan and Zisserman 2015, section 3.2).
"""

import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

from log.command import OneLineParser, command, numbers, print_notices, whole
from model.arguments import add_prefix_and_epoch, gpu_ids
from model.devices import import_mxnet
from model.inference.preprocessing import add_preprocessing_args


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = _parser()
    args = parser.parse_args(argv)
    num_devices = len(args.gpus) or args.cpus
    if args.batch_size % num_devices:
        parser.error(
            f"--batch-size: {args.batch_size} can't be divided among {num_devices} devices"
        )
    return args


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m model.evaluate",
        description="Score the network of a checkpoint on labelled images, each counted once.",
    )
    add_prefix_and_epoch(parser)
    parser.add_argument("--data-val", metavar="REC", required=True, help="records to score it on")
    parser.add_argument(
        "--batch-size",
        type=whole(1),
        default=32,
        metavar="N",
        help="images per batch (default: %(default)s)",
    )
    parser.add_argument(
        "--gpus", type=gpu_ids, default=(), metavar="IDS", help="GPUs, as in 0,1 (default: CPU)"
    )
    parser.add_argument(
        "--cpus", type=whole(1), default=1, metavar="N", help="CPU contexts (default: %(default)s)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="data type of the computation (default: %(default)s)",
    )
    add_preprocessing_args(parser, "image_shape")
    parser.add_argument(
        "--ten-crop",
        action="store_true",
        help="average over ten crops of each image's central square: centre, corners, and their "
        "mirror images",
    )
    parser.add_argument(
        "--scales",
        type=lambda text: numbers(text, "short sides as in 256,288,320", whole(1)),
        metavar="S,S,...",
        help="average over the images resized to these short sides, in pixels (default: as they "
        "are in the records; for --ten-crop, that of the validation images in training)",
    )
    parser.add_argument(
        "--per-class", action="store_true", help="print recall and precision of each class"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="PREFIX",
        help="write PREFIX-classes.csv, PREFIX-confusion.csv and PREFIX-confusion.png",
    )
    parser.add_argument(
        "--data-nthreads",
        type=whole(1),
        default=4,
        metavar="N",
        help="decoding threads (default: 4)",
    )
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    with command("model.evaluate", writes_files=True) as outcome:
        args = parse_arguments(argv)
        import_mxnet(1 if args.gpus else args.cpus)
        from model.inference import reports, scoring

        ready = scoring.prepare(args)
        print_notices("model.evaluate", ready.notices)
        outcome.begun()
        scores = ready.run()
        names = ready.names
        print(f"{ready.source}: {scores.count} images of {args.data_val}")
        for name, value in scores.values():
            print(f"{name} {value:.6f}")
        if args.per_class:
            reports.print_table(scores, names)
        if args.report:
            for path in reports.write_report(scores, names, args.report):
                print(path)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
