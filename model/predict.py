"""What a network sees in images.

    python -m model.predict model/xception 125 cat.jpg photos/ --top 3
    find . -name '*.png' | python -m model.predict model/xception 125 - --json

Images are prepared as those of the network's validation were. Exit code 0: all images were read;
1: some were not, or the run failed; 2: the arguments or the checkpoint can't be used.
"""

import argparse
import csv
import json
import os
import shutil
import sys

from log.command import OneLineParser, whole
from model import ModelError, mxnet_reason


def parse_arguments(argv) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m model.predict",
        description="Classify images with the checkpoint PREFIX-EPOCH.",
    )
    parser.add_argument("prefix", metavar="PREFIX", help="of the checkpoint")
    parser.add_argument("epoch", metavar="EPOCH", type=whole(0), help="of the checkpoint")
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="an image file; a folder, for the images in it and in its folders; or -, for paths of "
        "image files on standard input, one a line",
    )
    parser.add_argument(
        "--top", type=whole(1), default=5, metavar="K", help="classes an image (default: 5)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a JSON list, an object an image")
    form.add_argument("--csv", action="store_true", help="CSV, a row for each class of an image")
    parser.add_argument(
        "--batch-size", type=whole(1), default=16, metavar="N", help="(default: 16)"
    )
    parser.add_argument(
        "--gpu", type=whole(0), metavar="ID", help="GPU to run on (default: none, the CPU)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="what the network computes in (default: float32)",
    )
    parser.add_argument(
        "--short-side",
        type=whole(1),
        metavar="N",
        help="pixels that an image's short side is resized to before its centre is cut out "
        "(default: as in the validation of the checkpoint's training)",
    )
    return parser.parse_args(argv)


# Output


def print_bars(results):
    columns = min(shutil.get_terminal_size().columns, 100)
    for path, ranked in results:
        print(path)
        width = min(max(len(name) for _, name, _ in ranked), columns // 2)
        for _, name, probability in ranked:
            bar = "█" * round(probability * (columns - width - 12))
            print(f"  {name:{width}.{width}}  {probability:.4f}  {bar}".rstrip())


def print_json(results):
    separator = "["
    for path, ranked in results:
        classes = [{"class": i, "name": name, "probability": p} for i, name, p in ranked]
        print(separator, json.dumps({"image": path, "classes": classes}), sep="\n", end="")
        separator = ","
    print("[]" if separator == "[" else "\n]")


def print_csv(results):
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("image", "rank", "class", "name", "probability"))
    for path, ranked in results:
        for rank, (i, name, probability) in enumerate(ranked, start=1):
            writer.writerow((path, rank, i, name, f"{probability:.6g}"))


def main(argv=None) -> int:
    args = parse_arguments(argv)
    from model.devices import import_mxnet

    code, unreadable = 2, []
    try:
        mx = import_mxnet()
        from model.inference.classify import load, predictions

        network = load(args)
        code = 1
        sys.stdout.reconfigure(errors="replace")
        show = print_json if args.json else print_csv if args.csv else print_bars
        try:
            show(predictions(network, args, unreadable))
        except mx.base.MXNetError as error:
            raise ModelError(f"MXNet: {mxnet_reason(error)}") from None
    except ModelError as error:
        print(f"model.predict: error: {error}", file=sys.stderr)
        return code
    except BrokenPipeError:  # as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 1 if unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
