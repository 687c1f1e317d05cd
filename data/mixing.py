"""Mixup, cutmix and random erasing: batches of images that are mixtures of two, or lack a part.

    images    x = share * x  +  (1 - share) * x of the partner        mixup
              x with a box of the partner's pixels, 1 - share of it   cutmix
    labels    y = share * y  +  (1 - share) * y of the partner        (N, classes)

Labels may also have the weights of their classes (--class-weights): then their rows sum to these.

A batch's own seed (`batch.seed`) decides what is drawn for it: it is the same on resume, and for
any number of devices. Partners are within the batch of a worker.
"""

from dataclasses import dataclass
from typing import Iterator, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

#: Zhong et al. 2020, "Random erasing data augmentation", section 4: share of the area that is
#: erased, and height / width of the erased box.
_ERASED_AREA = (0.02, 0.4)
_ERASED_ASPECT = (0.3, 1 / 0.3)
#: Boxes drawn for an image until one is within it.
_TRIES = 10

Box = Tuple[int, int, int, int]  # top, left, bottom, right


@dataclass(frozen=True)
class Mixture:
    """What is drawn for a batch of N images.

    partners : (N,) numbers of the images that they are mixed with. share : of the images
    themselves, 0..1. box : where their pixels are the partners'; None: all pixels are mixed.
    """

    partners: np.ndarray
    share: float
    box: Optional[Box] = None


@dataclass(frozen=True)
class Mixing:
    """How the images of a batch are mixed.

    mixup, cutmix : the parameter of Beta(alpha, alpha), from which the share is drawn, of Zhang et
    al. 2018, "mixup", and of Yun et al. 2019, "CutMix"; 0: not. With both, one of them for each
    batch, with equal chances. erasing : the probability that an image loses a part.
    """

    mixup: float = 0
    cutmix: float = 0
    erasing: float = 0

    def __bool__(self) -> bool:
        return bool(self.mixup or self.cutmix or self.erasing)

    @property
    def mixes(self) -> bool:
        """Whether labels are mixed."""
        return bool(self.mixup or self.cutmix)

    def draw(self, seed: int, images: int, height: int, width: int) -> Mixture:
        """Draw the mixture of a batch."""
        draws = np.random.RandomState(seed)
        cut = draws.uniform() < 0.5 if self.mixup and self.cutmix else bool(self.cutmix)
        partners = draws.permutation(images)
        alpha = self.cutmix if cut else self.mixup
        share = float(draws.beta(alpha, alpha))
        if not cut:
            # The same mixtures, in another order: each is now labelled first by its larger share.
            return Mixture(partners, max(share, 1 - share))
        high, wide = (int(size * np.sqrt(1 - share)) for size in (height, width))
        top, bottom = _around(draws.randint(height), high, height)
        left, right = _around(draws.randint(width), wide, width)
        area = (bottom - top) * (right - left)
        return Mixture(partners, 1 - area / (height * width), (top, left, bottom, right))


def _around(middle: int, size: int, limit: int) -> Tuple[int, int]:
    """Return the ends of a range around `middle`, cut off at 0 and `limit`."""
    return max(middle - size // 2, 0), min(middle + size // 2, limit)


def mix_images(images: mx.nd.NDArray, mixture: Mixture) -> mx.nd.NDArray:
    """Return the mixed images; (N, C, height, width), as `images` are."""
    partners = mx.nd.take(images, mx.nd.array(mixture.partners, dtype="int32"))
    if mixture.box is None:
        return images * mixture.share + partners * (1 - mixture.share)
    top, left, bottom, right = mixture.box
    mixed = images.copy()
    if top < bottom and left < right:
        mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    return mixed


def balanced_weights(counts: Sequence[int]) -> np.ndarray:
    """Return a weight for each class, with which all classes that have images count alike.

    counts : images of each class. Their mean over the images is 1; that of a class without is 0.
    """
    images = np.asarray(counts, np.float64)
    share = np.divide(1, images, out=np.zeros_like(images), where=images > 0)
    return share * images.sum() / np.count_nonzero(images)


def mix_labels(
    labels: np.ndarray,
    mixture: Mixture,
    num_classes: int,
    smoothing: float = 0,
    weights: Optional[np.ndarray] = None,
) -> np.ndarray:
    """Return the labels of mixed images, (N, classes) float32, whose rows sum to 1, or to the
    weights of the classes that they are mixed of.

    labels : (N,) numbers of classes. smoothing : as SoftmaxOutput's smooth_alpha, the share that
    goes from the class to all others. weights : by class.
    """
    off = smoothing / max(num_classes - 1, 1)
    own = np.full((len(labels), num_classes), off, np.float64)
    own[np.arange(len(labels)), labels.astype(int)] = 1 - smoothing
    if weights is not None:
        own *= weights[labels.astype(int), None]
    mixed = mixture.share * own + (1 - mixture.share) * own[mixture.partners]
    return mixed.astype(np.float32)


def main_labels(labels: np.ndarray, mixture: Mixture) -> np.ndarray:
    """Return, for each mixed image, the label of its larger share, (N,)."""
    return labels if mixture.share >= 0.5 else labels[mixture.partners]


def erase(
    images: mx.nd.NDArray, seed: int, probability: float, mean: tuple, std: tuple
) -> mx.nd.NDArray:
    """Return (N, 3, height, width) images, each with `probability` without a box of its pixels:
    these are random, 0..255, normalised by mean and std."""
    draws = np.random.RandomState([seed, 1])  # others than those of the mixture
    count, _, height, width = images.shape
    erased = images.copy()
    mean_of, std_of = (np.reshape(values, (3, 1, 1)) for values in (mean, std))
    for i in np.flatnonzero(draws.uniform(size=count) < probability):
        for top, left, bottom, right in _boxes_to_erase(draws, height, width):
            noise = draws.randint(0, 256, (3, bottom - top, right - left))
            erased[int(i), :, top:bottom, left:right] = (noise - mean_of) / std_of
            break
    return erased


def _boxes_to_erase(draws: np.random.RandomState, height: int, width: int) -> Iterator[Box]:
    for _ in range(_TRIES):
        area = draws.uniform(*_ERASED_AREA) * height * width
        aspect = np.exp(draws.uniform(*np.log(_ERASED_ASPECT)))
        high, wide = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < high <= height and 0 < wide <= width:
            top = draws.randint(height - high + 1)
            left = draws.randint(width - wide + 1)
            yield top, left, top + high, left + wide


class MixingIter(mx.io.DataIter):
    """Batches of another iterator, mixed, or with weights, or both.

    Labels are (N, classes), for SoftmaxOutput, whose gradient then is exactly p - label. A batch
    keeps its `epoch`, `number`, `seed` and `pad`. `batch.main_labels` is a list of one NDArray,
    (N,): the label of each image's larger share, for figures. If images are only erased, labels
    stay as they are.

    batches : iterator like data.iterators.EpochIter. smoothing, weights : as for `mix_labels`,
    which then takes the place of SoftmaxOutput's own. mean, std : of the images, by channel.
    """

    def __init__(
        self,
        batches: mx.io.DataIter,
        mixing: Mixing,
        num_classes: int,
        smoothing: float = 0,
        mean: tuple = (0, 0, 0),
        std: tuple = (1, 1, 1),
        weights: Optional[np.ndarray] = None,
    ):
        super().__init__(batches.batch_size)
        self._batches, self._mixing = batches, mixing
        self._num_classes, self._smoothing = num_classes, smoothing
        self._mean, self._std = mean, std
        self._weights = weights
        self._labels_are_rows = mixing.mixes or weights is not None
        self.provide_data = batches.provide_data
        (label,) = batches.provide_label
        if self._labels_are_rows:
            label = mx.io.DataDesc(label.name, (self.batch_size, num_classes))
        self.provide_label = [label]

    @property
    def epoch(self) -> int:
        """Of the next batch."""
        return self._batches.epoch

    @property
    def number(self) -> int:
        """Of the next batch in its epoch."""
        return self._batches.number

    def reset(self) -> None:
        self._batches.reset()

    def next(self) -> mx.io.DataBatch:
        batch = self._batches.next()
        (images,), (labels,) = batch.data, batch.label
        if self._mixing.erasing:
            images = erase(images, batch.seed, self._mixing.erasing, self._mean, self._std)
        batch.data = [images]
        if not self._labels_are_rows:
            return batch
        count, _, height, width = images.shape
        mixture = Mixture(np.arange(count), 1)
        if self._mixing.mixes:
            mixture = self._mixing.draw(batch.seed, count, height, width)
            batch.data = [mix_images(images, mixture)]
        own = labels.asnumpy()
        mixed = mix_labels(own, mixture, self._num_classes, self._smoothing, self._weights)
        batch.label = [mx.nd.array(mixed)]
        batch.main_labels = [mx.nd.array(main_labels(own, mixture))]
        return batch
