"""The training run: Module.fit, and what happens after each batch and epoch."""

import itertools
import json
import logging
import math
import os
import platform
import signal
import time
from dataclasses import dataclass

import mxnet as mx
import numpy as np

from model import Interrupted, ModelError, mxnet_reason
from model.checkpoint import Checkpoints, Generation, Place
from model.job.cluster import Alone
from model.network.loading import ndarray_params, numpy_params
from model.network.running import bind_for_inference
from model.network.scores import evaluate, new_metric, values_of
from model.training.average import averaged
from model.training.finetune import frozen_params, training_symbol
from model.training.module import ResumableModule
from model.training.optimizers import Method, kind_of_states
from model.training.schedule import Schedule

#: What a worker tells the others that can't read its next batch: the last one is to be saved.
_UNREADABLE = -2


@dataclass(frozen=True)
class Housekeeping:
    """When to write checkpoints (None: never, or all) and log lines."""

    checkpoint_epochs: int = 1
    checkpoint_batches: int = None
    keep: int = None
    frequent: int = 50


class Trainer:
    """Trains `symbol` and keeps its checkpoints.

    Parameters
    ----------
    symbol : the network as it is saved.
    contexts : as for mx.mod.Module.
    cluster : model.job.cluster.Cluster or Alone: the workers that train it, and their kvstore.
    checkpoints : where to write; None for the workers that don't.
    settings : what the run was told, written into each checkpoint.
    batches, batch_size : batches in an epoch, images of a worker in a batch.
    memonger, dtype : as for model.network.running.RunningNetwork.
    freeze, head_lr_mult : as for model.training.finetune.
    """

    def __init__(
        self,
        symbol,
        contexts: list,
        cluster: Alone,
        checkpoints: Checkpoints,
        settings: dict,
        num_classes: int,
        batches: int,
        batch_size: int,
        schedule: Schedule,
        method: Method,
        housekeeping: Housekeeping,
        memonger: bool = False,
        dtype: str = "float32",
        freeze: str = "none",
        head_lr_mult: float = 1,
    ):
        self.symbol = symbol
        self.contexts = contexts
        self.cluster = cluster
        self.checkpoints = checkpoints
        self.settings = settings
        self.batches = batches
        self.schedule = schedule
        self.method = method
        # With dist_async the servers count updates, of all workers.
        self.updates_at_once = cluster.workers if cluster.updates_on_servers else 1
        #: Updates in an epoch; the last may have the gradients of fewer batches.
        self.an_epoch = math.ceil(batches / method.accumulate) * self.updates_at_once
        self.first_update = 0
        self.housekeeping = housekeeping
        frozen = frozen_params(symbol, freeze)
        self.module = ResumableModule(
            training_symbol(
                symbol, frozen, head_lr_mult, method.label_smoothing, method.no_bias_decay
            ),
            contexts,
            dtype,
            memonger,
            frozen,
            method.accumulate,
            batches,
            method.ema,
            cluster,
        )
        self.metric = _ResumableMetric(new_metric(num_classes).metrics)
        self.num_classes = num_classes
        self.speedometer = mx.callback.Speedometer(batch_size, housekeeping.frequent)
        self.best = None
        self.stop_signal = None  # that this worker has got
        self.stopping = 0  # the signal that all workers are known to stop by
        self.log = logging.getLogger()

    def fit(
        self,
        images,
        validation,
        num_epochs: int,
        seed: int,
        start: Place,
        generation: Generation = None,
        overwrite: bool = False,
        pretrained: tuple = (None, None),
        validation_batches: int = 0,
        report=None,
    ):
        """Train from `start` to `num_epochs` epochs.

        images : EpochIter, at `start`. validation : DataIter of this worker's part, or
        None. validation_batches : in the largest part; 0 for no validation.
        generation : what to go on from. pretrained : (arg_params, aux_params) to begin with; what
        they don't have begins at random. overwrite : the first checkpoint replaces all that are
        there. report : told what happens, as a log.report.Report is; None for nobody. Raises
        Interrupted, ModelError where the run can't go on, and what `images` or
        `validation` raise; all of these but a divergence leave a checkpoint.
        """
        self.images = _UpToAnError(images, self._begin_epoch)
        self.validation = validation
        self.validation_batches = validation_batches
        self.num_epochs = max(num_epochs, start.epoch)
        self.overwrite = overwrite
        self.report = report
        self.last = generation.place if generation else start
        self.epoch_done = start
        arg_params, aux_params = pretrained
        if generation:
            arg_params, aux_params = ndarray_params(generation.params)
            self.module.restore_states(self._usable_states(generation, start))
            if self.checkpoints:
                self._find_best(generation)
            if start.batch:
                self._restore_figures(generation.run["figures"], start.batch)
        signals = (signal.SIGINT, signal.SIGTERM)
        handlers = {number: signal.signal(number, self._on_signal) for number in signals}
        try:
            at_epoch_end = generation and generation.place.epoch and not generation.place.batch
            if at_epoch_end and not generation.run["validation"]:
                # Saved, and then stopped before it was validated.
                params = generation.params
                if self.method.ema:
                    params = averaged(params, generation.states)
                self._validate(start, True, *ndarray_params(params))
                if self.stopping:
                    raise self._interrupted(start)
            mx.random.seed(seed)
            self.module.fit(
                self.images,
                eval_metric=self.metric,
                kvstore=self.cluster.kvstore,
                optimizer=self.method.optimizer,
                optimizer_params={
                    **self.method.optimizer_params(),
                    "learning_rate": self.schedule.lr,
                    "lr_scheduler": self.schedule.scheduler(self.an_epoch, self.first_update),
                    "begin_num_update": self._updates(start) - self.first_update,
                },
                # The 2017 script's.
                initializer=mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2),
                arg_params=arg_params,
                aux_params=aux_params,
                allow_missing=pretrained[0] is not None,
                batch_end_callback=self._after_batch,
                epoch_end_callback=self._after_epoch,
                begin_epoch=start.epoch,
                num_epoch=num_epochs,
            )
        except StopIteration:
            # Not one batch of an epoch could be read.
            if self.last != self.epoch_done:
                self._save(self.epoch_done)
            raise self._unreadable(self.epoch_done) from None
        except mx.base.MXNetError as error:
            raise ModelError(f"MXNet: {mxnet_reason(error)}") from None
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _usable_states(self, generation, start):
        """The states of `generation` that this run goes on with."""
        states, run = generation.states, generation.run
        if run.get("first_update"):
            # Counted in the updates of that run, which may have been larger ones.
            self.first_update = run["first_update"] * self._updates(start) // run["updates"]
        if kind_of_states(run["settings"]) != kind_of_states(self.settings):
            # Of other parameters, or another optimizer: they begin anew, and so does its count.
            states = {key: array for key, array in states.items() if ":" not in key}
            self.first_update = self._updates(start) if self.method.counts_updates() else 0
        accumulate = run["settings"].get("accumulate", 1)
        if (accumulate, run.get("batches")) != (self.method.accumulate, self.batches):
            states = {key: array for key, array in states.items() if "+" not in key}
        return states

    def _updates(self, place) -> int:
        """Updates of the run before `place`."""
        done = place.batch // self.method.accumulate * self.updates_at_once
        return place.epoch * self.an_epoch + done

    def summary(self) -> str:
        if not self.checkpoints:
            return "this worker writes no checkpoint"
        last = self.checkpoints.params_file(self.last)
        if not self.best:
            return f"{last}"
        accuracy, epoch = self.best["accuracy"], self.best["epoch"]
        return f"{last}; best validation accuracy {accuracy:.4f}, after epoch {epoch}"

    # After each batch and epoch

    def _after_batch(self, param):
        batch = param.locals["data_batch"]
        place = Place(batch.epoch, batch.number + 1)
        if not all(math.isfinite(metric.sum_metric) for metric in self.metric.metrics):
            self._diverged(place, "the loss")
        figures = self.metric.get_name_value()  # the Speedometer begins new ones
        self.speedometer(param._replace(nbatch=batch.number))
        at_a_line = batch.number % self.housekeeping.frequent == 0
        if at_a_line:
            self._check_parameters(place)
        due = at_a_line and batch.number > 0
        self._tell("batch", place.epoch, place.batch, self.module.learning_rate, figures, due)
        # Gradients that wait in other workers would not be in the checkpoint.
        whole = self.cluster.workers == 1 or not self.module.gradients_wait
        if self._exchange(place, self.images.error):
            if whole:
                self._save(place)
            raise self._unreadable(place)
        if param.locals["end_of_batch"] or not whole:
            return  # the end of the epoch has a checkpoint of its own
        every = self.housekeeping.checkpoint_batches
        if self.stopping or (every and place.batch % every == 0):
            self._save(place)
        if self.stopping:
            raise self._interrupted(place)

    def _after_epoch(self, epoch, _symbol, arg_params, aux_params):
        place = self.epoch_done = Place(epoch + 1)
        self._check_parameters(place)
        last = self.schedule.rate((epoch + 1) * self.an_epoch - 1, self.an_epoch)
        self.log.info("Epoch[%d] Learning-rate=%g", epoch, last)
        figures = self.metric.get_global_name_value()
        self._tell("epoch", epoch, self.module.learning_rate, figures)
        saved = self._due(place)
        # First the checkpoint, then its score: validation may take long, and may be interrupted.
        if saved:
            self._save(place)
        validated = self._validate(place, saved, *self.module.averaged(arg_params, aux_params))
        self._exchange(place)
        if self.stopping and not saved:
            self._save(place)
        self._prune()
        if self.stopping and not (validated and place.epoch == self.num_epochs):
            raise self._interrupted(place)

    def _due(self, place) -> bool:
        due = place.epoch % self.housekeeping.checkpoint_epochs == 0
        return due or place.epoch == self.num_epochs

    def _validate(self, place, saved, arg_params, aux_params) -> bool:
        """Score the network and log it; False where a signal came between."""
        if not self.validation_batches:
            return True
        if self.stopping:
            return False
        began = time.perf_counter()
        totals, error = self._totals_of_own_part(place, arg_params, aux_params)
        if self.someone_cannot_read:
            if not saved:
                self._save(place)
            if not error:
                self.cluster.exchange(0)  # raises what the other worker says
            raise error
        if self.stopping:
            return False
        all_totals = map(json.loads, self.cluster.gather(json.dumps(totals).encode()))
        totals = [sum(column) for column in zip(*all_totals)]
        values = values_of(totals, self.num_classes)
        for name, value in values:
            self.log.info("Epoch[%d] Validation-%s=%f", place.epoch - 1, name, value)
        seconds = time.perf_counter() - began
        self._tell("validation", place.epoch - 1, values, totals[0], seconds)
        if saved and self.checkpoints:
            accuracy = dict(values)["accuracy"]
            # What only a signal has saved does not compete: without the signal it had not.
            better = self._due(place) and (not self.best or accuracy > self.best["accuracy"])
            if better:
                self.best = {"epoch": place.epoch, "accuracy": accuracy}
            self.checkpoints.annotate(place, validation=dict(values), best=self.best)
            if better:
                self.checkpoints.set_best(place)
        return True

    def _totals_of_own_part(self, place, arg_params, aux_params):
        """Return (`Scores.totals` of this worker's part of the validation images, of no use where a
        signal or another worker's error came between; what was wrong with a record, or None)."""
        batches_done = 0

        def stop(error=None):
            nonlocal batches_done
            batches_done += 1
            return self._exchange(f"validation after {place}", error) or self.stopping

        totals = [0, 0, 0, 0.0]
        if self.validation:
            # An executor of its own: a forward pass for inference leaves the weights in oneDNN's
            # layouts, and training would go on with other roundings than from a checkpoint.
            shape = self.validation.provide_data[0].shape
            scorer = bind_for_inference(self.symbol, arg_params, aux_params, shape, self.contexts)
            try:
                scores = evaluate(scorer, self.validation, self.num_classes, stop)
            except Exception as error:  # a record that can't be read
                stop(error)
                return None, error
            totals = scores and scores.totals()
        # Another worker's part may have a batch more.
        ended = self.validation and totals is None
        while not ended and batches_done < self.validation_batches:
            ended = stop()
        return totals, None

    def _tell(self, what, *values):
        if self.report:
            getattr(self.report, what)(*values)

    # Divergence, signals, and what other workers say

    def _exchange(self, reached, error=None) -> bool:
        """Tell the other workers how it is here; hear what signal all are to stop by. Return
        whether one of them, for an `error`, can't read on."""
        status = _UNREADABLE if error else self.stop_signal or 0
        statuses = self.cluster.exchange(status, str(reached))
        self.stopping = self.stopping or max(0, *statuses)
        self.someone_cannot_read = _UNREADABLE in statuses
        return self.someone_cannot_read

    def _begin_epoch(self, error) -> bool:
        return self._exchange(f"{self.epoch_done}'s last batch", error)

    def _check_parameters(self, place):
        if not self.module.all_finite():
            self._diverged(place, "a parameter")

    def _diverged(self, place, what):
        raise ModelError(
            f"{what} is NaN or infinite at {place}: not saved; try a smaller --lr"
            + (", from the last checkpoint with --retrain" if self.last > Place(0) else "")
        )

    def _on_signal(self, number, _frame):
        if self.stop_signal:
            os._exit(128 + number)
        self.stop_signal = number

    def _interrupted(self, place):
        self._say_stopped(f"by {signal.Signals(self.stopping).name} ", place)
        return Interrupted(self.stopping)

    def _unreadable(self, place):
        self._say_stopped("", place)
        if not self.images.error:
            self.cluster.exchange(0)  # raises what the other worker says
        return self.images.error

    def _say_stopped(self, by, place):
        self.log.info(
            "stopped %sat %s; the same command with --retrain, and without --lr and "
            "--model-load-epoch, goes on", by, place,
        )  # fmt: skip

    # Checkpoints

    def _save(self, place):
        if not self.checkpoints and self.cluster.workers == 1:
            return
        self._tell("sync")
        arg_params, aux_params = self.module.get_params()
        params = numpy_params(arg_params, aux_params)
        for name, array in params.items():
            if not np.isfinite(array).all():
                self._diverged(place, name)
        states = self.module.training_state(at_epoch_end=not place.batch)
        figures = None
        if place.batch:
            figures = [json.loads(own) for own in self.cluster.gather(self._figures())]
        self.last = place
        if not self.checkpoints:
            return
        run = {
            "settings": self.settings,
            "lr": self.schedule.lr,
            "lr_epoch": self.schedule.since,
            "updates": self._updates(place),
            "first_update": self.first_update,
            "batches": self.batches,
            "figures": figures,
            "validation": None,
            "best": self.best,
            "versions": {"python": platform.python_version(), "mxnet": mx.__version__},
            "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        size = self.checkpoints.save(place, self.symbol.tojson(), params, states, run)
        # Within an epoch a checkpoint lives until the next one; so does what a kill left of one.
        replaced = [
            p for p in self.checkpoints.places()
            if p.batch or self.overwrite or self.checkpoints.is_unfinished(p)
        ]  # fmt: skip
        self.checkpoints.remove(p for p in replaced if p != place)
        if self.overwrite:
            self.checkpoints.set_best(None)
            self.overwrite = False
        self.log.info('Saved checkpoint to "%s"', self.checkpoints.params_file(place))
        free = self.checkpoints.free_bytes()
        if free < size:
            self.log.warning(
                "%s: %d MB free: the next checkpoint, of %d MB, won't fit",
                self.checkpoints.folder, free >> 20, size >> 20,
            )  # fmt: skip

    def _find_best(self, generation):
        """Take over the best epoch up to `generation`, if its checkpoint still is what it was."""
        self.best = generation.run["best"]
        if self.best:
            score = self.checkpoints.validation(Place(self.best["epoch"])) or {}
            if score.get("accuracy") != self.best["accuracy"]:
                own = generation.run["validation"]
                epoch = generation.place.epoch
                self.best = {"epoch": epoch, "accuracy": own["accuracy"]} if own else None
        self.checkpoints.set_best(Place(self.best["epoch"]) if self.best else None)

    def _prune(self):
        if not self.checkpoints or not self.housekeeping.keep:
            return
        in_order = [p for p in self.checkpoints.in_order() if not p.batch]
        old = in_order[: -self.housekeeping.keep]
        self.checkpoints.remove(p for p in old if not self.best or p.epoch != self.best["epoch"])

    # The running figures of an epoch

    def _figures(self) -> bytes:
        figures = [
            [float(m.sum_metric), m.num_inst, float(m.global_sum_metric), m.global_num_inst]
            for m in self.metric.metrics
        ]
        return json.dumps(figures).encode()

    def _restore_figures(self, figures, batch):
        if not isinstance(figures[0][0], list):
            figures = [figures]  # before there were several workers
        self.metric.restored = figures[self.cluster.rank % len(figures)]
        # As it stands behind that many batches: its next line is then due when it would have been.
        self.speedometer.init = True
        self.speedometer.last_count = batch - 1
        self.speedometer.tic = time.time()


class _UpToAnError:
    """Iterable over `images` for Module.fit, for which an error in reading them is the end of an
    epoch. Kept in `error`, it can be raised when the batch before it is done, metrics and all.

    begin : called, when an epoch begins, with what went wrong with its first batch, or None; true
    where there shall be no batch.
    """

    error = None

    def __init__(self, images, begin):
        self.images = images
        self._begin = begin
        self.provide_data, self.provide_label = images.provide_data, images.provide_label

    def __iter__(self):
        batches = self._batches()
        first = next(batches, None)
        # Where a worker can't even read its first batch, the others are not to wait for it.
        if self._begin(self.error) or first is None:
            return iter(())
        return itertools.chain([first], batches)

    def _batches(self):
        while not self.error:
            try:
                batch = self.images.next()
            except StopIteration:
                return
            except Exception as error:
                self.error = error
                return
            yield batch

    def reset(self):
        self.images.reset()


class _ResumableMetric(mx.metric.CompositeEvalMetric):
    """Metric that a fit's first `reset` sets to `restored`, if that is given."""

    restored = None

    def reset(self):
        super().reset()
        if self.restored:
            for metric, figures in zip(self.metrics, self.restored):
                metric.sum_metric, metric.num_inst = figures[:2]
                metric.global_sum_metric, metric.global_num_inst = figures[2:]
            self.restored = None
