"""The live line of a run in a terminal: one for each epoch, gone when the epoch is."""

import math
import sys
import time

from tqdm import tqdm

_FORMAT = "epoch {desc} |{bar}| {n_fmt}/{total_fmt}, left: epoch {remaining}{postfix}"


class Progress:
    """Told by log.report.Report what happens.

    num_epochs, batches : of the run, of an epoch. images : of a batch, over all workers.
    """

    def __init__(self, num_epochs: int, batches: int, images: int):
        self._num_epochs = num_epochs
        self._batches = batches
        self._images = images
        self._bar = None
        self._began = None

    def batch(self, epoch: int, batch: int, lr: float, figures: dict):
        done = epoch * self._batches + batch
        if self._began is None:
            # The first batch is slow: from its end on.
            self._began = (time.perf_counter(), done)
        if self._bar is None:
            self._bar = tqdm(
                desc=f"{epoch + 1}/{self._num_epochs}",
                total=self._batches,
                initial=batch - 1,
                bar_format=_FORMAT,
                file=sys.stdout,
                dynamic_ncols=True,
                leave=False,
            )
        self._bar.set_postfix_str(self._says(lr, figures, done), refresh=False)
        self._bar.update()

    def _says(self, lr, figures, done) -> str:
        # The least important last: a narrow terminal cuts it off.
        says = []
        began, before = self._began
        if done > before:
            # Validation and checkpoints are in that time too.
            each = (time.perf_counter() - began) / (done - before)
            left = self._num_epochs * self._batches - done
            says.append(f"run {tqdm.format_interval(each * left)}")
        rate = self._bar.format_dict["rate"]
        if rate:
            says.append(f"{rate * self._images:.1f} images/s")
        for name, of_mxnet in (("loss", "cross-entropy"), ("top-1", "accuracy")):
            if math.isfinite(figures.get(of_mxnet, math.nan)):
                says.append(f"{name} {figures[of_mxnet]:.3f}")
        return ", ".join([*says, f"lr {lr:.3g}"])

    def line(self, line: dict):
        if line["event"] == "epoch":
            self.close()

    def close(self):
        if self._bar is not None:
            self._bar.close()
            self._bar = None
