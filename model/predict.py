"""Classify image files.

    python -m model.predict model/xception 125 cat.jpg photos/ --top 3
    find . -name '*.png' | python -m model.predict model/xception 125 - --json
    python -m model.predict model/xception 125 photos/ --features features.npz

Images are prepared as those of the network's validation were. Exit code 0: all images were read;
1: some were not, or the run failed; 2: the arguments or the checkpoint can't be used.
"""

import argparse
import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Iterable, Optional, Sequence, Tuple

from log import UserError
from log.command import OneLineParser, command, print_error, print_notices, whole
from model.arguments import add_prefix_and_epoch
from model.devices import import_mxnet
from model.inference.preprocessing import add_preprocessing_args

_PROG = "model.predict"

#: An image's path and its classes, the most probable first: number, name, probability.
Result = Tuple[str, Sequence[Tuple[int, str, float]]]


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m model.predict",
        description="Classify images with the checkpoint PREFIX-EPOCH.",
    )
    add_prefix_and_epoch(parser)
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="an image file; a folder, for the images in it and in its folders; or -, for paths of "
        "image files on standard input, one per line",
    )
    parser.add_argument(
        "--top", type=whole(1), default=5, metavar="K", help="classes per image (default: 5)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON list, one object per image")
    form.add_argument("--csv", action="store_true", help="print CSV, one row per image and class")
    form.add_argument(
        "--features",
        type=Path,
        metavar="OUT.npz",
        help="write the pooled features instead of predicting: arrays `features`, float32 (images, "
        "features), and `images`, the paths, for np.load",
    )
    parser.add_argument(
        "--batch-size",
        type=whole(1),
        default=16,
        metavar="N",
        help="images per batch (default: 16)",
    )
    parser.add_argument(
        "--gpus",
        "--gpu",
        dest="gpu",
        type=_gpu,
        metavar="ID",
        help="the one GPU to run on (default: none, the CPU)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="data type of the computation (default: float32)",
    )
    add_preprocessing_args(parser, "image_shape", "short_side")
    return parser.parse_args(argv)


def _gpu(text: str) -> Optional[int]:
    """Return the number of a GPU; None, the CPU, of an empty text, as train_xception.py has it."""
    return whole(0)(text) if text else None


# Output


def print_bars(results: Iterable[Result]) -> None:
    columns = min(shutil.get_terminal_size().columns, 100)
    block = _printable("█", "#")
    for path, ranked in results:
        print(path)
        width = min(max(len(name) for _, name, _ in ranked), columns // 2)
        for _, name, probability in ranked:
            bar = block * round(probability * (columns - width - 12))
            print(f"  {name:{width}.{width}}  {probability:.4f}  {bar}".rstrip())


def _printable(text: str, otherwise: str) -> str:
    """Return `text` if standard output can print it."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeError:
        return otherwise
    return text


def print_json(results: Iterable[Result]) -> None:
    separator = "["
    for path, ranked in results:
        classes = [{"class": i, "name": name, "probability": p} for i, name, p in ranked]
        print(separator, json.dumps({"image": path, "classes": classes}), sep="\n", end="")
        separator = ","
    print("[]" if separator == "[" else "\n]")


def print_csv(results: Iterable[Result]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("image", "rank", "class", "name", "probability"))
    for path, ranked in results:
        for rank, (i, name, probability) in enumerate(ranked, start=1):
            writer.writerow((path, rank, i, name, f"{probability:.6g}"))


def main(argv: Optional[Sequence[str]] = None) -> int:
    with command(_PROG) as outcome:
        args = parse_arguments(argv)
        import_mxnet()
        from model.inference.classify import prepare

        prediction = prepare(args)
        print_notices(_PROG, prediction.notices)
        outcome.begun()

        def unreadable(error: UserError) -> None:
            print_error(_PROG, str(error))
            outcome.code = 1

        if args.features:
            images, features = prediction.write_features(unreadable)
            print(f"{args.features}: {features} features of each of {images} images")
        else:
            show = print_json if args.json else print_csv if args.csv else print_bars
            show(prediction.classes(unreadable))
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
