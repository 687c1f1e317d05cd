"""What a network sees in images.

    python -m model.predict model/xception 125 cat.jpg photos/ --top 3
    find . -name '*.png' | python -m model.predict model/xception 125 - --json

Images are prepared as those of the network's validation were. Exit code 0: all images were read;
1: some were not, or the run failed; 2: the arguments or the checkpoint can't be used.
"""

import argparse
import csv
import itertools
import json
import os
import shutil
import sys
from pathlib import Path

from log.command import OneLineParser, whole
from model import ModelError, mxnet_reason

_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class Unreadable(Exception):
    """An image that can't be read. One line: the file and the reason."""


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


# From files to the network's input


def image_paths(arguments):
    """Yield the paths that the IMAGE arguments stand for; a folder without images as itself."""
    for argument in arguments:
        if argument == "-":
            yield from filter(None, (line.rstrip("\r\n") for line in sys.stdin))
        elif os.path.isdir(argument):
            inside = sorted(p for p in Path(argument).rglob("*") if p.suffix.lower() in _ENDINGS)
            yield from map(str, inside or [argument])
        else:
            yield argument


def read_image(path):
    """Return the (height, width, 3) uint8 pixels of an image file, channels blue, green, red.
    Raises Unreadable."""
    import cv2
    import numpy as np

    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from None
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if pixels is None:
        raise Unreadable(f"{path}: not an image that can be read")
    return pixels


def prepare_image(pixels, image_shape, short_side, mean, std):
    """Return the network's input, (3, height, width) float32 of `image_shape`, for an image as
    `read_image` gives it.

    What im2rec and ImageRecordIter do to a validation image, to the bit: the short side is resized
    to `short_side` (None: not at all), the centre is cut out, and `mean` taken off and divided by
    `std`, each three numbers in the order red, green, blue.
    """
    import cv2
    import numpy as np

    def with_rows(rows):
        return cv2.resize(pixels, (pixels.shape[1] * rows // pixels.shape[0], rows))

    def with_columns(columns):
        return cv2.resize(pixels, (columns, pixels.shape[0] * columns // pixels.shape[1]))

    if short_side:
        rows, columns = pixels.shape[:2]
        pixels = with_columns(short_side) if rows > columns else with_rows(short_side)
    # ImageRecordIter's way, in two steps, with an image smaller than what is cut out of it.
    height, width = image_shape[1:]
    if pixels.shape[0] < height:
        pixels = with_rows(height)
    if pixels.shape[1] < width:
        pixels = with_columns(width)
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    pixels = pixels[top : top + height, left : left + width, ::-1]
    scale = np.float32(1) / np.asarray(std, np.float32)
    return ((pixels - np.asarray(mean, np.float32)) * scale).transpose(2, 0, 1)


# From the network's output to the terminal


def predictions(network, args, unreadable: list):
    """Yield (path, [(class number, class name, probability)]), the likeliest first, of each image;
    add to `unreadable`, and name on standard error, those that can't be read."""
    import mxnet as mx
    import numpy as np

    from model.network.running import bind_for_inference

    module = bind_for_inference(
        network.symbol,
        network.arg_params,
        network.aux_params,
        (args.batch_size, *network.image_shape),
        [mx.cpu() if args.gpu is None else mx.gpu(args.gpu)],
        args.dtype,
    )
    short_side = args.short_side or network.short_side

    def readable():
        for path in image_paths(args.images):
            try:
                pixels = read_image(path)
            except Unreadable as error:
                unreadable.append(path)
                print(f"model.predict: error: {error}", file=sys.stderr)
                continue
            yield (
                path,
                prepare_image(pixels, network.image_shape, short_side, network.mean, network.std),
            )

    images = readable()
    while batch := list(itertools.islice(images, args.batch_size)):
        data = np.zeros((args.batch_size, *network.image_shape), np.float32)
        data[: len(batch)] = [image for _, image in batch]
        module.forward(mx.io.DataBatch([mx.nd.array(data)]), is_train=False)
        probabilities = module.get_outputs()[0].asnumpy()
        for (path, _), row in zip(batch, probabilities):
            best = np.argsort(-row, kind="stable")[: args.top].tolist()
            names = network.classes or list(map(str, range(len(row))))
            yield path, [(i, names[i], float(row[i])) for i in best]


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


def load(args):
    """Return the checkpoint's network. Raises ModelError where it can't classify images here."""
    from model import devices
    from model.network.loading import load_network

    if args.gpu is not None:
        devices.check_gpus([args.gpu], devices.gpus())
    devices.check_bfloat16(args.dtype)
    network = load_network(args.prefix, args.epoch)
    if not network.image_shape:
        raise ModelError(f"{args.prefix}: its checkpoint does not say which images it takes")
    if "softmax_label" not in network.symbol.list_arguments():
        raise ModelError(f"{args.prefix}: a network without a classifier: nothing to predict")
    return network


def main(argv=None) -> int:
    args = parse_arguments(argv)
    from model.devices import import_mxnet

    code, unreadable = 2, []
    try:
        mx = import_mxnet()
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
