"""Scores of a network on labelled images: counted in whole numbers, each image once."""

from typing import Iterator

import mxnet as mx
import numpy as np

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

    def totals(self) -> list:
        """Return what the scores of several parts of a data set add up by: the images, those that
        are right, those whose class is among the first `TOP_K`, and the cross-entropy's sum."""
        return [self.count, int(np.trace(self.confusion)), self._in_top_k, self._cross_entropy]

    def values(self) -> list:
        """Return [(name, value)], the names those of `new_metric`."""
        return values_of(self.totals(), len(self.confusion))


def values_of(totals: list, num_classes: int) -> list:
    """Return [(name, value)] of what `Scores.totals` gave, the names those of `new_metric`."""
    count, right, in_top_k, cross_entropy = totals
    values = [("accuracy", right / count)]
    if num_classes > TOP_K:
        values.append((f"top_k_accuracy_{TOP_K}", in_top_k / count))
    return [*values, ("cross-entropy", cross_entropy / count)]


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
