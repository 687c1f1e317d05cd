"""Scores of a network on labelled images: counted in whole numbers, each image once."""

from typing import Callable, Iterable, Iterator, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from model import ModelError

#: The figures of a run: top-1 accuracy, top-5 where there are more than 5 classes, cross-entropy.
TOP_K = 5
# What MXNet's metric adds to a probability before it takes the logarithm.
_EPSILON = 1e-12

#: See `Scores.totals`.
Totals = List[float]


def new_metric(num_classes: int) -> mx.metric.CompositeEvalMetric:
    """Return the metric that training reports of its own batches."""
    metrics = [mx.metric.Accuracy()]
    if num_classes > TOP_K:
        metrics.append(mx.metric.TopKAccuracy(top_k=TOP_K))
    return mx.metric.CompositeEvalMetric([*metrics, mx.metric.CrossEntropy()])


def check_probabilities(outputs: np.ndarray, name: object) -> None:
    """Raise ModelError if rows of `outputs`, (N, classes), are not probabilities of the classes.

    name : of the network, for the message.
    """
    sums = outputs.sum(axis=1)
    if not (outputs.min() >= 0 and np.abs(sums - 1).max() < 1e-3):
        raise ModelError(
            f"{name}: its output is not a softmax's: {_numbers(outputs[0])} for an image"
        )


def _numbers(row: np.ndarray, most: int = 3) -> str:
    shown = ", ".join(f"{value:.3g}" for value in row[:most])
    return shown + (", ..." if len(row) > most else "")


class Scores:
    """Figures of a network, counted in whole numbers and float64, image by image.

    confusion : (classes, classes) int64: images of the class of a row that are predicted as the
        class of a column.
    """

    def __init__(self, num_classes: int) -> None:
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self._in_top_k = 0
        self._cross_entropy = 0.0

    def add(self, probabilities: np.ndarray, labels: np.ndarray) -> None:
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

    def totals(self) -> Totals:
        """Return what adds up over the parts of a data set: the number of images, of those that
        are correct, and of those correct in the first `TOP_K`; and the sum of the cross-entropy."""
        return [self.count, int(np.trace(self.confusion)), self._in_top_k, self._cross_entropy]

    def values(self) -> List[Tuple[str, float]]:
        """Return [(name, value)], with the names of `new_metric`."""
        return values_of(self.totals(), len(self.confusion))


def values_of(totals: Totals, num_classes: int) -> List[Tuple[str, float]]:
    """Return [(name, value)] of (sums of) `Scores.totals`, with the names of `new_metric`."""
    count, correct, in_top_k, cross_entropy = totals
    values = [("accuracy", correct / count)]
    if num_classes > TOP_K:
        values.append((f"top_k_accuracy_{TOP_K}", in_top_k / count))
    return [*values, ("cross-entropy", cross_entropy / count)]


def evaluate(
    module: mx.mod.Module,
    images: mx.io.DataIter,
    num_classes: int,
    stop: Callable[[], bool] = lambda: False,
) -> Optional[Scores]:
    """Return the `Scores` of `images`, each counted once; None as soon as `stop()`."""
    scores = Scores(num_classes)
    images.reset()
    height, width = images.provide_data[0].shape[2:]
    for batch, probabilities in predictions(module, [images], (height, width)):
        if stop():
            return None
        count_batch(scores, batch, probabilities)
    return scores


def count_batch(scores: Scores, batch: mx.io.DataBatch, probabilities: np.ndarray) -> None:
    """Count the images of a batch, without the repeated ones that fill it up (`batch.pad`)."""
    valid = len(probabilities) - batch.pad
    scores.add(probabilities[:valid], batch.label[0].asnumpy()[:valid])


def predictions(
    module: mx.mod.Module,
    streams: Sequence[Iterable[mx.io.DataBatch]],
    crop: Tuple[int, int],
    ten: bool = False,
) -> Iterator[Tuple[mx.io.DataBatch, np.ndarray]]:
    """Yield (batch, probabilities): float64 (N, classes), averaged over all views of an image.

    streams : for each scale an iterator over batches of (N, 3, S, S), in the same order.
    crop : (height, width) of a view: the middle of an image or, if `ten`, the middle, the corners,
        and these mirrored.
    """
    for batches in zip(*streams):
        outputs = []
        for batch in batches:
            for view in _views(batch.data[0], crop, ten):
                module.forward(mx.io.DataBatch([view]), is_train=False)
                outputs.append(module.get_outputs()[0].asnumpy())
        yield batches[0], np.mean(outputs, axis=0, dtype=np.float64)


def _views(images: mx.nd.NDArray, crop: Tuple[int, int], ten: bool) -> Iterator[mx.nd.NDArray]:
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
