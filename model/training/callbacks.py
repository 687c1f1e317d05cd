"""What happens around Module.fit, after each of its batches and epochs: a list of steps.

What each step does is in a module of its own, which knows none of the others' concerns:

    figures      MXNet's metric, and the lines about it in log and report
    checks       nothing is NaN or infinite
    saving       which checkpoints are written, and which are kept
    validation   the score of the network on the validation images
    patience     whether validation still improves
    stopping     signals and records that can't be read, agreed on by all workers
"""

import contextlib
import json
import logging
from typing import Dict, Iterator, Optional

import mxnet as mx

from log.report import Report
from model import ModelError, mxnet_reason
from model.checkpoint import Place
from model.job.cluster import Cluster
from model.network.params import numpy_params
from model.training.batches import ValidationImages
from model.training.checks import FiniteChecks
from model.training.figures import Figures
from model.training.module import ResumableModule
from model.training.patience import OutOfPatience, Patience
from model.training.run import Run
from model.training.saving import CheckpointWriter, RunRecord, SavingPolicy
from model.training.start import Start
from model.training.stopping import ReadableBatches, Stopping
from model.training.validation import Validation

_log = logging.getLogger()


class Callbacks:
    """The callbacks of a run: `after_batch` and `after_epoch` for Module.fit, within `around_fit`.

    start : where the run starts. batches : what it trains on.
    """

    def __init__(
        self,
        module: ResumableModule,
        batches: ReadableBatches,
        start: Start,
        figures: Figures,
        writer: CheckpointWriter,
        validation: Validation,
        stopping: Stopping,
        patience: Patience,
        cluster: Cluster,
        report: Report,
    ):
        self._module, self._batches = module, batches
        self._start = start
        self._figures = figures
        self._writer = writer
        self._checks = FiniteChecks(module, figures.metric, lambda: writer.last)
        self._validation = validation
        self._stopping, self._patience = stopping, patience
        self._cluster = cluster
        self._report = report
        self._epoch_done = start.place

    @property
    def batches(self) -> ReadableBatches:
        """What Module.fit trains on."""
        return self._batches

    @property
    def metric(self) -> mx.metric.EvalMetric:
        """What Module.fit measures."""
        return self._figures.metric

    def summary(self) -> str:
        """Return a line about what the run has left."""
        return self._writer.summary()

    @contextlib.contextmanager
    def around_fit(self) -> Iterator[None]:
        """Handle signals and errors as long as Module.fit runs.

        Raises Interrupted after a signal, DataError if a record can't be read, and ModelError if
        the run diverges or MXNet fails. A signal and an unreadable record leave a checkpoint.
        """
        with self._stopping.handling_signals():
            try:
                self._resume()
                yield
            except OutOfPatience:
                pass
            except StopIteration:
                # Module.fit: not one batch of an epoch could be read.
                if self._writer.last != self._epoch_done:
                    self._save(self._epoch_done)
                self._stopping.raise_unreadable(self._batches.error, self._epoch_done)
            except RuntimeError as error:  # MXNetError is one, and simple_bind raises it as it is
                raise ModelError(f"MXNet: {mxnet_reason(error)}{_way_out(error)}") from None

    def _resume(self) -> None:
        """Restore the state of a checkpoint, if there is one; run the validation that it lacks."""
        start, generation = self._start, self._start.generation
        if not generation:
            return
        self._module.restore_states(start.states)
        self._writer.resume(generation)
        self._patience.resume(generation.run)
        if start.place.batch:
            sums = generation.run["figures"]
            self._figures.restore(sums, self._cluster.rank, start.place.batch)
        if start.lacks_validation:
            params = start.params_to_validate(self._module.keeps_average)
            self._validate(start.place, True, *params)
            if self._stopping.signal:
                raise self._stopping.interrupted(start.place)
        if self._patience.is_over(start.place):
            _log.info("%s: nothing to train", self._patience.reason)

    @property
    def last_epoch(self) -> int:
        """The epoch up to which Module.fit trains: none, if the run's patience is over already."""
        start = self._start.place
        return start.epoch if self._patience.is_over(start) else self._writer.last_epoch

    # Module.fit's callbacks

    def after_batch(self, param: mx.model.BatchEndParam) -> None:
        batch = param.locals["data_batch"]
        place = Place(batch.epoch, batch.number + 1)
        self._checks.check_loss(place)
        if self._figures.log_batch(param, place):
            self._checks.check_parameters(place)
        self._figures.report_batch(place, self._module.learning_rate)
        self._stopping.agree(place, self._batches.error)
        # A checkpoint lacks the accumulated gradients of other workers: none is written while they
        # wait.
        can_save = self._cluster.workers == 1 or not self._module.gradients_wait
        if self._stopping.unreadable:
            if can_save:
                self._save(place)
            self._stopping.raise_unreadable(self._batches.error, place)
        if param.locals["end_of_batch"] or not can_save:
            return  # the end of the epoch has a checkpoint of its own
        if self._stopping.signal or self._writer.is_due(place):
            self._save(place)
        if self._stopping.signal:
            raise self._stopping.interrupted(place)

    def after_epoch(
        self, epoch: int, _symbol: mx.sym.Symbol, arg_params: dict, aux_params: dict
    ) -> None:
        place = self._epoch_done = Place(epoch + 1)
        self._checks.check_parameters(place)
        self._figures.log_epoch(epoch, self._module.learning_rate)
        saved = self._writer.is_due(place)
        # First the checkpoint, then its score: validation may take long, and may be interrupted.
        if saved:
            self._save(place)
        figures = self._validate(place, saved, *self._module.averaged(arg_params, aux_params))
        validated = figures is not None
        ends_early = (
            validated and place.epoch < self._writer.last_epoch and self._patience.is_over(place)
        )
        if ends_early:
            self._writer.end_at(place.epoch)
        self._stopping.agree(place)
        if not saved and (self._stopping.signal or ends_early):
            self._save(place)
            if figures and ends_early:
                self._writer.add_validation(place, figures, self._patience.best)
        self._writer.prune()
        if self._stopping.signal and not (validated and place.epoch == self._writer.last_epoch):
            raise self._stopping.interrupted(place)
        if ends_early:
            _log.info("%s", self._patience.reason)
            raise OutOfPatience

    def _validate(
        self, place: Place, saved: bool, arg_params: dict, aux_params: dict
    ) -> Optional[Dict[str, float]]:
        """Validate these parameters. Return the figures, none if there are no validation images;
        None if a signal came between."""
        if not self._validation.is_wanted:
            return {}
        values = self._validation.score(place, arg_params, aux_params)
        if self._stopping.unreadable:
            if not saved:
                self._save(place)
            self._stopping.raise_unreadable(self._validation.error)
        if values is None:
            return None
        figures = dict(values)
        self._patience.add(place, figures["accuracy"])
        if saved:
            self._writer.add_validation(place, figures, self._patience.best)
        return figures

    def _save(self, place: Place) -> None:
        """Write a checkpoint. All workers call it: each has a part of what is in it."""
        if not self._writer.writes and self._cluster.workers == 1:
            return
        self._report.sync()
        params = numpy_params(*self._module.get_params())
        self._checks.check_saved(params, place)
        states = self._module.training_state(at_epoch_end=not place.batch)
        sums: Optional[list] = None
        if place.batch:
            own = json.dumps(self._figures.metric.sums()).encode()
            sums = [json.loads(each) for each in self._cluster.gather(own)]
        self._writer.write(place, params, states, sums, self._patience.best)


def callbacks_of(
    run: Run,
    module: ResumableModule,
    images: mx.io.DataIter,
    validation: ValidationImages,
    cluster: Cluster,
    report: Report,
) -> Callbacks:
    """Return the callbacks of a run that trains on `images`."""
    plan, start = run.plan, run.start
    stopping = Stopping(cluster)
    num_classes = run.images.num_classes
    policy = SavingPolicy(
        last_epoch=max(plan.training.num_epochs, start.place.epoch),
        every_epochs=plan.saving.checkpoint_epochs,
        every_batches=plan.saving.checkpoint_batches,
        keep=plan.saving.keep,
        overwrite=plan.saving.overwrite,
    )
    record = RunRecord(run.settings, run.schedule, run.updates, start.first_update)
    return Callbacks(
        module=module,
        batches=ReadableBatches(images, stopping),
        start=start,
        figures=Figures(
            num_classes=num_classes,
            batch_size=plan.training.batch_size,
            frequent=plan.saving.frequent,
            schedule=run.schedule,
            updates=run.updates,
            report=report,
        ),
        writer=CheckpointWriter(run.checkpoints, run.symbol, policy, record, start),
        validation=Validation(
            symbol=run.symbol,
            contexts=list(run.contexts),
            images=validation.images,
            batches=validation.batches,
            num_classes=num_classes,
            cluster=cluster,
            stopping=stopping,
            report=report,
        ),
        stopping=stopping,
        patience=Patience(plan.training.patience),
        cluster=cluster,
        report=report,
    )


def _way_out(error: RuntimeError) -> str:
    # cudaMalloc's, cuDNN's and cuBLAS's words for it.
    if any(words in str(error) for words in ("out of memory", "ALLOC_FAILED")):
        return ": a smaller --batch-size, or --memonger, needs less"
    return ""
