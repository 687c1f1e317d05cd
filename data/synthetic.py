"""Batches that need no files, to measure training by itself."""

import time

import mxnet as mx

from data.records import epoch_seed


class SyntheticIter(mx.io.DataIter):
    """The same batch of random pixels and labels, `batches` times an epoch.

    image_shape : (3, height, width). Batches carry what those of `data.records.EpochIter` carry.
    `times` is when each batch was asked for, in seconds: when the training step on the one before
    had ended.
    """

    def __init__(self, batch_size: int, image_shape: tuple, num_classes: int, batches: int):
        super().__init__(batch_size)
        self._images = mx.nd.random.uniform(0, 256, (batch_size, *image_shape)).floor()
        self._labels = mx.nd.random.randint(0, num_classes, (batch_size,)).astype("float32")
        self._batches = batches
        self.times = []
        self.epoch = -1
        self.provide_data = [mx.io.DataDesc("data", self._images.shape)]
        self.provide_label = [mx.io.DataDesc("softmax_label", self._labels.shape)]
        self.reset()

    def reset(self):
        self.epoch += 1
        self.number = 0

    def next(self):
        if self.number == self._batches:
            raise StopIteration
        self.times.append(time.perf_counter())
        batch = mx.io.DataBatch([self._images], [self._labels], pad=0)
        batch.epoch, batch.number = self.epoch, self.number
        batch.seed = epoch_seed(self.epoch, self.number)
        self.number += 1
        return batch
