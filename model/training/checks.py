"""A run that has diverged ends before anything of it is saved."""

import math
from typing import Callable, Dict

import mxnet as mx
import numpy as np

from model import ModelError
from model.checkpoint import Place
from model.training.module import ResumableModule


class FiniteChecks:
    """Raise ModelError if something is NaN or infinite.

    last_saved : returns the place of the last checkpoint.
    """

    def __init__(
        self,
        module: ResumableModule,
        metric: mx.metric.CompositeEvalMetric,
        last_saved: Callable[[], Place],
    ):
        self._module, self._metric, self._last_saved = module, metric, last_saved

    def check_loss(self, place: Place) -> None:
        if not all(math.isfinite(metric.sum_metric) for metric in self._metric.metrics):
            raise self._diverged("the loss", place)

    def check_parameters(self, place: Place) -> None:
        """Check the parameters where they are: quickly, and without their names."""
        if not self._module.all_finite():
            raise self._diverged("a parameter", place)

    def check_saved(self, params: Dict[str, np.ndarray], place: Place) -> None:
        """Check what is to be saved."""
        for name, array in params.items():
            if not np.isfinite(array).all():
                raise self._diverged(name, place)

    def _diverged(self, what: str, place: Place) -> ModelError:
        way_out = "try a smaller --lr"
        if self._last_saved() > Place(0):
            way_out += ", from the last checkpoint with --retrain"
        return ModelError(f"{what} is NaN or infinite at {place}: not saved; {way_out}")
