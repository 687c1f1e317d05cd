"""Validation after an epoch: each worker scores its part of the images, and the sums are of all."""

import json
import logging
import time
from typing import List, Optional, Tuple

import mxnet as mx

from log.report import Report
from model.checkpoint import Place
from model.job.cluster import Cluster
from model.network.inference import bind_for_inference
from model.network.scores import evaluate, values_of
from model.training.stopping import Stopping

_log = logging.getLogger()

#: [(name, value)], the names those of model.network.scores.new_metric.
Values = List[Tuple[str, float]]


class Validation:
    """Scores the network on the validation images.

    symbol : the network as it is saved. images : the batches of this worker's part, None if it has
    none. batches : of the largest part; 0 for no validation.
    """

    def __init__(
        self,
        symbol: mx.sym.Symbol,
        contexts: list,
        images: Optional[mx.io.DataIter],
        batches: int,
        num_classes: int,
        cluster: Cluster,
        stopping: Stopping,
        report: Report,
    ):
        self._symbol, self._contexts = symbol, contexts
        self._images, self._batches = images, batches
        self._num_classes = num_classes
        self._cluster, self._stopping = cluster, stopping
        self._report = report
        #: What was wrong with a record of this worker's part.
        self.error: Optional[Exception] = None

    @property
    def is_wanted(self) -> bool:
        return self._batches > 0

    def score(self, place: Place, arg_params: dict, aux_params: dict) -> Optional[Values]:
        """Score these parameters, of the end of an epoch (`place`); log and return the figures.

        None if it was stopped: by a signal, or because a worker can't read a record
        (`Stopping.unreadable`).
        """
        if self._stopping.signal:
            return None
        began = time.perf_counter()
        own_totals = self._totals_of_own_part(place, arg_params, aux_params)
        if self._stopping.unreadable or self._stopping.signal:
            return None
        of_workers = map(json.loads, self._cluster.gather(json.dumps(own_totals).encode()))
        totals = [sum(column) for column in zip(*of_workers)]
        values = values_of(totals, self._num_classes)
        for name, value in values:
            _log.info("Epoch[%d] Validation-%s=%f", place.epoch - 1, name, value)
        seconds = time.perf_counter() - began
        self._report.validation(place.epoch - 1, values, totals[0], seconds)
        return values

    def _totals_of_own_part(self, place: Place, arg_params: dict, aux_params: dict) -> list:
        """Return `Scores.totals` of this worker's part; of no use if it was stopped.

        All workers agree once a batch on whether to stop, as often as the largest part has batches.
        """
        agreed = 0

        def stop(error: Optional[Exception] = None) -> bool:
            nonlocal agreed
            agreed += 1
            return self._stopping.agree(f"validation after {place}", error)

        totals = [0, 0, 0, 0.0]
        if self._images:
            # An executor of its own: a forward pass for inference leaves the weights in oneDNN's
            # layouts, and training would resume with other roundings than from a checkpoint.
            shape = self._images.provide_data[0].shape
            scorer = bind_for_inference(self._symbol, arg_params, aux_params, shape, self._contexts)
            try:
                scores = evaluate(scorer, self._images, self._num_classes, stop)
            except Exception as error:  # a record that can't be read
                self.error = error
                stop(error)
                return totals
            if scores is None:
                return totals
            totals = scores.totals()
        # Another worker's part may have a batch more.
        while agreed < self._batches and not stop():
            pass
        return totals
