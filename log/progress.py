"""The live line of a run in a terminal: one for each epoch, gone when the epoch is done."""

import math
import sys
import time
from typing import Any, List, Mapping, Optional, Tuple

from tqdm import tqdm

from log.metrics import Event, Line

_FORMAT = "epoch {desc} |{bar}| {n_fmt}/{total_fmt}, left: epoch {remaining}{postfix}"


class Progress:
    """Shows what log.report.Report passes on.

    num_epochs, batches : of the run, of an epoch. images : of a batch, over all workers.
    """

    def __init__(self, num_epochs: int, batches: int, images: int):
        self._num_epochs = num_epochs
        self._batches = batches
        self._images = images
        self._bar: Any = None
        # Time and number of the first batch: it is slow, so that times count from its end.
        self._first: Optional[Tuple[float, int]] = None

    def batch(self, epoch: int, batch: int, lr: float, figures: Mapping[str, float]) -> None:
        done = epoch * self._batches + batch
        if self._first is None:
            self._first = (time.perf_counter(), done)
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
        text = ", ".join([*self._time_left(done), *self._figures(figures), f"lr {lr:.3g}"])
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update()

    # The least important figures come last: a narrow terminal cuts them off.

    def _time_left(self, done: int) -> List[str]:
        assert self._first is not None
        began, first = self._first
        if done <= first:
            return []
        # Validation and checkpoints are in that time too.
        seconds_per_batch = (time.perf_counter() - began) / (done - first)
        left = self._num_epochs * self._batches - done
        return [f"run {tqdm.format_interval(seconds_per_batch * left)}"]

    def _figures(self, figures: Mapping[str, float]) -> List[str]:
        texts = []
        rate = self._bar.format_dict["rate"]
        if rate:
            texts.append(f"{rate * self._images:.1f} images/s")
        for name, of_mxnet in (("loss", "cross-entropy"), ("top-1", "accuracy")):
            value = figures.get(of_mxnet, math.nan)
            if math.isfinite(value):
                texts.append(f"{name} {value:.3f}")
        return texts

    def line(self, line: Line) -> None:
        if line.event is Event.EPOCH:
            self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
