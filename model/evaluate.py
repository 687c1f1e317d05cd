"""Scores of a network on labelled images.

    python -m model.evaluate PREFIX EPOCH --data-val X.rec

The figures that training prints for its validation images, for the checkpoint of any epoch: every
image counts once, whatever the batch size and the number of devices. --ten-crop and --scales look
at each image several times and average the probabilities (Krizhevsky et al. 2012, section 4.1;
Simonyan and Zisserman 2015, section 3.2).
"""

import argparse
import math
import sys
from pathlib import Path

from data import DataError
from data.arguments import image_shape
from log.command import OneLineParser, numbers, whole
from model import ModelError
from model.arguments import gpu_ids


def parse_arguments(argv) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m model.evaluate",
        description="Score the network of a checkpoint on labelled images, each counted once.",
    )
    parser.add_argument("prefix", help="of the checkpoint files, as --model-prefix")
    parser.add_argument("epoch", type=whole(0), help="epoch of the checkpoint")
    parser.add_argument("--data-val", metavar="REC", required=True, help="records to score it on")
    parser.add_argument(
        "--batch-size",
        type=whole(1),
        default=32,
        metavar="N",
        help="images at a time (%(default)s)",
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
        help="what the network computes in (default: %(default)s)",
    )
    parser.add_argument(
        "--image-shape",
        type=image_shape,
        metavar="3,H,W",
        help="of the network's input (default: as it was trained)",
    )
    parser.add_argument(
        "--ten-crop",
        action="store_true",
        help="average over the middle, the corners and these mirrored, of each image's middle "
        "square",
    )
    parser.add_argument(
        "--scales",
        type=lambda text: numbers(text, "short sides as in 256,288,320", whole(1)),
        metavar="S,S,...",
        help="average over the images resized to these short sides, in pixels (default: as they "
        "are in the records; for --ten-crop, that of the validation images in training)",
    )
    parser.add_argument(
        "--per-class", action="store_true", help="print each class's recall and precision"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="PREFIX",
        help="write PREFIX-classes.csv, PREFIX-confusion.csv and PREFIX-confusion.png",
    )
    parser.add_argument(
        "--data-nthreads", type=whole(1), default=4, metavar="N", help="decoding threads (4)"
    )
    args = parser.parse_args(argv)
    num_devices = len(args.gpus) or args.cpus
    if args.batch_size % num_devices:
        parser.error(f"--batch-size: {args.batch_size} can't be divided over {num_devices} devices")
    return args


def contexts(args) -> list:
    import mxnet as mx

    return [mx.gpu(i) for i in args.gpus] or [mx.cpu(i) for i in range(args.cpus)]


def prepare(args) -> tuple:
    """Check what can be checked before the first batch.

    Return (batches with their probabilities, how many, scores to count them in, class names).
    """
    from model import devices

    devices.import_mxnet()
    from data import records
    from data.formats.recordfile import scan
    from model.network.loading import load_network
    from model.network.running import bind_for_inference
    from model.network.scores import Scores, predictions

    devices.check_bfloat16(args.dtype)
    if args.gpus:
        devices.check_gpus(args.gpus, devices.gpus())
    network = load_network(args.prefix, args.epoch)
    shape = args.image_shape or network.image_shape
    if not shape:
        raise ModelError(f"{args.prefix}: does not say what it was trained on: give --image-shape")
    records.require(args.data_val, None)
    scanned = scan(args.data_val)
    _, ((_, num_classes),), _ = network.symbol.infer_shape(data=(1, *shape))
    records.check_labels(scanned, num_classes)

    devices_used = contexts(args)
    batch_size = records.fitting_batch_size(args.batch_size, scanned.num_images, len(devices_used))
    module = bind_for_inference(
        network.symbol, network.arg_params, network.aux_params, (batch_size, *shape), devices_used,
        args.dtype,
    )  # fmt: skip
    record_args = records.record_args(
        args.data_val, shape, batch_size, network.mean, network.std, args.data_nthreads
    )
    scales = args.scales
    if args.ten_crop and not scales:
        if not network.short_side:
            raise ModelError(
                f"{args.prefix}: does not say how large its validation images were: --ten-crop "
                "needs --scales"
            )
        scales = (network.short_side,)
    small = [scale for scale in scales or () if scale < max(shape[1:])]
    if small:
        raise ModelError(
            f"--scales: {small[0]} is less than the network's input, {shape[1]}x{shape[2]}"
        )
    views = [{"resize": s, "data_shape": (3, s, s)} for s in scales or ()]
    streams = [records.EpochIter({**record_args, **view}) for view in views or [{}]]
    names = network.classes or records.class_names(args.data_val)
    if not names or len(names) != num_classes:
        names = list(map(str, range(num_classes)))
    batches = predictions(module, streams, shape[1:], args.ten_crop)
    return batches, math.ceil(scanned.num_images / batch_size), Scores(num_classes), names


def main(argv=None) -> int:
    from tqdm import tqdm

    args = parse_arguments(argv)
    code = 2
    try:
        batches, total, scores, names = prepare(args)
        code = 1
        from model.network.scores import count_batch, print_table, write_report

        for batch, probabilities in tqdm(batches, total=total, unit="batch", disable=None):
            count_batch(scores, batch, probabilities)
        print(f"{args.prefix}, epoch {args.epoch}: {scores.count} images of {args.data_val}")
        for name, value in scores.values():
            print(f"{name} {value:.6f}")
        if args.per_class:
            print_table(scores, names)
        if args.report:
            for path in write_report(scores, names, args.report):
                print(path)
    except (DataError, ModelError) as error:
        print(f"model.evaluate: error: {error}", file=sys.stderr)
        return code
    except OSError as error:
        print(f"model.evaluate: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
