"""The figures of training: MXNet's metric of each epoch, and the log lines with its values."""

import logging
import time
from typing import List, Sequence

import mxnet as mx

from log.report import Report
from model.checkpoint import Place
from model.network.scores import new_metric
from model.training.schedule import Schedule, Updates

_log = logging.getLogger()


class ResumableMetric(mx.metric.CompositeEvalMetric):
    """Metric whose sums can be taken out and put back.

    Module.fit resets its metric when an epoch starts: the first `reset` after `restore` puts the
    sums back.
    """

    _restored: Sequence[list] = ()

    def sums(self) -> List[list]:
        """Return, for each metric, [sum since the last log line, its images, sum of the epoch, its
        images]."""
        return [
            [float(m.sum_metric), m.num_inst, float(m.global_sum_metric), m.global_num_inst]
            for m in self.metrics
        ]

    def restore(self, sums: List[list]) -> None:
        self._restored = sums

    def reset(self) -> None:
        super().reset()
        if self._restored:
            for metric, sums in zip(self.metrics, self._restored):
                metric.sum_metric, metric.num_inst = sums[:2]
                metric.global_sum_metric, metric.global_num_inst = sums[2:]
            self._restored = ()


class Figures:
    """Measures training, and writes lines to the log and to `report`.

    batch_size : images of this worker in a batch. frequent : batches between two lines.
    """

    def __init__(
        self,
        num_classes: int,
        batch_size: int,
        frequent: int,
        schedule: Schedule,
        updates: Updates,
        report: Report,
    ):
        self.metric = ResumableMetric(new_metric(num_classes).metrics)
        self._speedometer = mx.callback.Speedometer(batch_size, frequent)
        self._frequent = frequent
        self._schedule, self._updates = schedule, updates
        self._report = report
        self._since_last_line: list = []

    def restore(self, sums_of_workers: list, rank: int, batch: int) -> None:
        """Resume within an epoch, after `batch` batches. sums_of_workers : `ResumableMetric.sums`
        of each worker; of a single one, in checkpoints from before there were several."""
        if not isinstance(sums_of_workers[0][0], list):
            sums_of_workers = [sums_of_workers]
        self.metric.restore(sums_of_workers[rank % len(sums_of_workers)])
        # As the Speedometer stands after so many batches: its next line comes when it would have.
        self._speedometer.init = True
        self._speedometer.last_count = batch - 1
        self._speedometer.tic = time.time()

    def log_batch(self, param: mx.model.BatchEndParam, place: Place) -> bool:
        """Write a line to the log if it is time for one. Return whether this is so, which is also
        the case after an epoch's first batch, of which there is no speed yet."""
        number = place.batch - 1
        self._since_last_line = self.metric.get_name_value()  # the Speedometer begins new ones
        self._speedometer(param._replace(nbatch=number))
        return number % self._frequent == 0

    def report_batch(self, place: Place, lr: float) -> None:
        """Report what `log_batch` measured. lr : learning rate of the last update."""
        number = place.batch - 1
        due = number % self._frequent == 0 and number > 0
        self._report.batch(place.epoch, place.batch, lr, self._since_last_line, due)

    def log_epoch(self, epoch: int, lr: float) -> None:
        """Log and report a whole epoch, counted from 0."""
        last = (epoch + 1) * self._updates.per_epoch - 1
        rate = self._schedule.rate_of_update(last, self._updates.per_epoch)
        _log.info("Epoch[%d] Learning-rate=%g", epoch, rate)
        self._report.epoch(epoch, lr, self.metric.get_global_name_value())
