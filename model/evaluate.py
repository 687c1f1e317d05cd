"""Scores of a network on labelled images.

    python -m model.evaluate PREFIX EPOCH --data-val X.rec

The figures that training prints for its validation images, for the checkpoint of any epoch: every
image counts once, whatever the batch size and the number of devices. --ten-crop and --scales look
at each image several times and average the probabilities (Krizhevsky et al. 2012, section 4.1;
Simonyan and Zisserman 2015, section 3.2).
"""

import argparse
import csv
import math
import sys
from pathlib import Path
from typing import Iterator

import mxnet as mx
import numpy as np

from model import ModelError

#: The figures of a run: top-1 accuracy, top-5 where there are more than 5 classes, cross-entropy.
TOP_K = 5
# What MXNet's metric adds to a probability before it takes the logarithm.
_EPSILON = 1e-12


def new_metric(num_classes: int) -> mx.metric.CompositeEvalMetric:
    """Return the metric that training reports of its own batches."""
    metrics = [mx.metric.Accuracy()]
    if num_classes > TOP_K:
        metrics.append(mx.metric.TopKAccuracy(top_k=TOP_K))
    return mx.metric.CompositeEvalMetric([*metrics, mx.metric.CrossEntropy()])


class Scores:
    """Figures of a network, counted in whole numbers and float64, image by image.

    confusion : (classes, classes) int64: images of the class of a row, taken for that of a column.
    """

    def __init__(self, num_classes: int):
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self._in_top_k = 0
        self._cross_entropy = 0.0

    def add(self, probabilities: np.ndarray, labels: np.ndarray):
        """Count images: their probabilities, (N, classes), and labels, (N,)."""
        labels = labels.astype(np.int64)
        np.add.at(self.confusion, (labels, probabilities.argmax(axis=1)), 1)
        own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
        # Not "fewer than 5 are larger": that is true of NaN.
        others = (probabilities < own[:, None]).sum(axis=1)
        self._in_top_k += int(np.sum(others >= probabilities.shape[1] - TOP_K))
        self._cross_entropy -= float(np.log(own + _EPSILON).sum())

    @property
    def count(self) -> int:
        return int(self.confusion.sum())

    def values(self) -> list:
        """Return [(name, value)], the names those of `new_metric`."""
        values = [("accuracy", np.trace(self.confusion) / self.count)]
        if len(self.confusion) > TOP_K:
            values.append((f"top_k_accuracy_{TOP_K}", self._in_top_k / self.count))
        values.append(("cross-entropy", self._cross_entropy / self.count))
        return [(name, float(value)) for name, value in values]


def evaluate(module: mx.mod.Module, images: mx.io.DataIter, num_classes: int, stop=lambda: False):
    """Return the `Scores` of `images`, each counted once; None once `stop()`."""
    scores = Scores(num_classes)
    images.reset()
    height, width = images.provide_data[0].shape[2:]
    for batch, probabilities in predictions(module, [images], (height, width)):
        if stop():
            return None
        count_batch(scores, batch, probabilities)
    return scores


def count_batch(scores: Scores, batch: mx.io.DataBatch, probabilities: np.ndarray):
    """Count a batch, but for the repetitions that fill up the last one (`batch.pad`)."""
    valid = len(probabilities) - batch.pad
    scores.add(probabilities[:valid], batch.label[0].asnumpy()[:valid])


def predictions(
    module: mx.mod.Module, streams: list, crop: tuple, ten: bool = False
) -> Iterator[tuple]:
    """Yield (batch, probabilities), these averaged over all views of an image.

    streams : for each scale an iterator over batches of (N, 3, S, S), in the same order.
    crop : (height, width) of a view: the middle of an image or, if `ten`, the middle, the corners,
    and these mirrored.
    """
    for batches in zip(*streams):
        outputs = []
        for batch in batches:
            for view in _views(batch.data[0], crop, ten):
                module.forward(mx.io.DataBatch([view], batch.label), is_train=False)
                outputs.append(module.get_outputs()[0].asnumpy())
        yield batches[0], np.mean(outputs, axis=0, dtype=np.float64)


def _views(images, crop, ten):
    height, width = crop
    down, right = images.shape[2] - height, images.shape[3] - width
    # The middle as ImageRecordIter crops it.
    corners = [(down // 2, right // 2)]
    if ten:
        corners += [(0, 0), (0, right), (down, 0), (down, right)]
    for top, left in corners:
        view = images[:, :, top : top + height, left : left + width]
        yield view
        if ten:
            yield mx.nd.flip(view, axis=3)


# Reports


def class_table(scores: Scores, names: list) -> list:
    """Return rows (class, images, right, recall, precision), None where it is 0 of 0."""
    right = np.diag(scores.confusion)
    there, taken = scores.confusion.sum(axis=1), scores.confusion.sum(axis=0)
    return [
        (name, int(n), int(r), r / n if n else None, r / t if t else None)
        for name, n, r, t in zip(names, there, right, taken)
    ]


def print_table(scores: Scores, names: list):
    """Print the rows of `class_table`, the class that is recognized worst first."""
    width = max(map(len, names))
    print(f"{'class':{width}}  images   right  recall  precision")
    rows = class_table(scores, names)
    for name, images, right, *shares in sorted(rows, key=lambda row: (row[3] is None, row[3] or 0)):
        recall, precision = ("-" if share is None else f"{share:.4f}" for share in shares)
        print(f"{name:{width}}  {images:6}  {right:6}  {recall:>6}  {precision:>9}")


def write_report(scores: Scores, names: list, prefix: Path) -> list:
    """Write PREFIX-classes.csv, PREFIX-confusion.csv and PREFIX-confusion.png; return their paths.

    Rows of the confusion matrix are the classes that images are of, columns what they were taken
    for.
    """
    prefix.parent.mkdir(parents=True, exist_ok=True)
    endings = ("classes.csv", "confusion.csv", "confusion.png")
    paths = [prefix.with_name(f"{prefix.name}-{ending}") for ending in endings]
    table = [("class", "images", "right", "recall", "precision"), *class_table(scores, names)]
    matrix = [["", *names], *([name, *row] for name, row in zip(names, scores.confusion.tolist()))]
    for path, rows in zip(paths, (table, matrix)):
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    _draw_confusion(scores.confusion, names, paths[2])
    return paths


def _draw_confusion(confusion, names, path, most_names=40):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    size = 3 + 0.35 * min(len(names), most_names)
    figure, axis = plt.subplots(figsize=(size + 1, size), layout="constrained")
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(picture, label="share of the class's images")
    axis.set_xlabel("taken for")
    axis.set_ylabel("class")
    if len(names) <= most_names:
        # No TeX in a name.
        plain = [name.replace("$", r"\$") for name in names]
        axis.set_xticks(range(len(names)), plain, rotation=90)
        axis.set_yticks(range(len(names)), plain)
        for row, column in zip(*np.nonzero(confusion)):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, confusion[row, column], color=colour, ha="center", va="center",
                      fontsize="small")  # fmt: skip
    figure.savefig(path, dpi=120)
    plt.close(figure)


# The command


def parse_arguments(argv) -> argparse.Namespace:
    from data import OneLineParser, whole

    def wholes(least):
        return lambda text: tuple(whole(least)(word) for word in text.split(",") if text)

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
        "--gpus", type=wholes(0), default=(), metavar="IDS", help="GPUs, as in 0,1 (default: CPU)"
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
        type=wholes(1),
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
        type=wholes(1),
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
    if args.image_shape and (len(args.image_shape) != 3 or args.image_shape[0] != 3):
        parser.error(f"--image-shape: must be 3,height,width, not {args.image_shape}")
    if args.batch_size % len(contexts(args)):
        parser.error(
            f"--batch-size: {args.batch_size} can't be divided over {len(contexts(args))} devices"
        )
    return args


def contexts(args) -> list:
    return [mx.gpu(i) for i in args.gpus] or [mx.cpu(i) for i in range(args.cpus)]


def prepare(args) -> tuple:
    """Check what can be checked before the first batch.

    Return (batches with their probabilities, how many, scores to count them in, class names).
    """
    from data import records
    from data.recordfile import scan
    from model import devices
    from model.network import load_network
    from model.running import bind_for_inference

    if args.gpus:
        devices.check_gpus(args.gpus, devices.gpus())
        if not mx.runtime.Features().is_enabled("CUDA"):
            raise ModelError("--gpus: this mxnet is built without CUDA: install requirements.txt")
    network = load_network(args.prefix, args.epoch)
    shape = args.image_shape or network.image_shape
    if not shape:
        raise ModelError(f"{args.prefix}: does not say what it was trained on: give --image-shape")
    records.require(args.data_val, None)
    scanned = scan(args.data_val)
    _, ((_, num_classes),), _ = network.symbol.infer_shape(data=(1, *shape))
    records.check_labels(scanned, num_classes)

    devices_used = contexts(args)
    # ImageRecordIter can't fill a batch of more than twice its records.
    fitting = math.ceil(scanned.num_images / len(devices_used)) * len(devices_used)
    batch_size = min(args.batch_size, fitting)
    module = bind_for_inference(
        network.symbol, network.arg_params, network.aux_params, (batch_size, *shape), devices_used,
        args.dtype,
    )  # fmt: skip
    record_args = {
        "path_imgrec": args.data_val,
        "batch_size": batch_size,
        "preprocess_threads": args.data_nthreads,
        "label_name": "softmax_label",
        "verbose": False,
        **{f"mean_{c}": value for c, value in zip("rgb", network.mean)},
        **{f"std_{c}": value for c, value in zip("rgb", network.std)},
    }
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
    streams = [
        records.EpochIter({**record_args, **view}) for view in views or [{"data_shape": shape}]
    ]
    names = network.classes or records.class_names(args.data_val)
    if not names or len(names) != num_classes:
        names = list(map(str, range(num_classes)))
    batches = predictions(module, streams, shape[1:], args.ten_crop)
    return batches, math.ceil(scanned.num_images / batch_size), Scores(num_classes), names


def main(argv=None) -> int:
    from tqdm import tqdm

    from data import DataError

    args = parse_arguments(argv)
    code = 2
    try:
        batches, total, scores, names = prepare(args)
        code = 1
        for batch, probabilities in tqdm(batches, total=total, unit="batch"):
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
