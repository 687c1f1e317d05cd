"""The training run in one object, for the script until it calls Module.fit itself."""

from dataclasses import dataclass
from typing import Optional

import mxnet as mx

from log.report import NoReport
from model.checkpoint import Checkpoints, Generation, Place
from model.job.cluster import Alone
from model.training.callbacks import Callbacks
from model.training.figures import Figures
from model.training.finetune import frozen_params, training_symbol
from model.training.module import ResumableModule
from model.training.optimizers import Method
from model.training.saving import CheckpointWriter, RunRecord, SavingPolicy
from model.training.schedule import Schedule, Updates
from model.training.start import Start
from model.training.stopping import ReadableBatches, Stopping
from model.training.validation import Validation


@dataclass(frozen=True)
class Housekeeping:
    """When to write checkpoints (None: never, or all) and log lines."""

    checkpoint_epochs: int = 1
    checkpoint_batches: Optional[int] = None
    keep: Optional[int] = None
    frequent: int = 50


class Trainer:
    """Trains `symbol` and keeps its checkpoints."""

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
        self.symbol, self.contexts, self.cluster = symbol, contexts, cluster
        self.checkpoints, self.settings = checkpoints, settings
        self.num_classes, self.batches, self.batch_size = num_classes, batches, batch_size
        self.schedule, self.method, self.housekeeping = schedule, method, housekeeping
        self.dtype, self.memonger = dtype, memonger
        self.freeze, self.head_lr_mult = freeze, head_lr_mult
        # With dist_async the servers count the updates of all workers.
        at_once = cluster.workers if cluster.updates_on_servers else 1
        self.updates = Updates(batches, method.accumulate, at_once)

    def fit(
        self,
        images,
        validation,
        num_epochs: int,
        seed: int,
        start: Place,
        generation: Optional[Generation] = None,
        overwrite: bool = False,
        pretrained: tuple = (None, None),
        validation_batches: int = 0,
        report=None,
    ):
        report = report or NoReport()
        schedule, method, updates = self.schedule, self.method, self.updates
        run_start = Start.anew(schedule.lr)
        if generation:
            run_start = Start.resumed(
                start, schedule.lr, schedule.first_epoch, generation, self.settings, method, updates
            )
        elif pretrained[0] is not None:
            run_start = Start.from_network(schedule.lr, *pretrained)

        frozen = frozen_params(self.symbol, self.freeze)
        module = ResumableModule(
            training_symbol(
                self.symbol,
                frozen,
                self.head_lr_mult,
                method.label_smoothing,
                method.no_bias_decay,
            ),
            self.contexts,
            self.dtype,
            self.memonger,
            frozen,
            method.accumulate,
            self.batches,
            method.ema,
            self.cluster,
        )
        stopping = Stopping(self.cluster)
        train_iter = ReadableBatches(images, stopping)
        figures = Figures(
            self.num_classes, self.batch_size, self.housekeeping.frequent, schedule, updates, report
        )
        self.writer = CheckpointWriter(
            self.checkpoints,
            self.symbol,
            SavingPolicy(
                max(num_epochs, start.epoch),
                self.housekeeping.checkpoint_epochs,
                self.housekeeping.checkpoint_batches,
                self.housekeeping.keep,
                overwrite,
            ),
            RunRecord(self.settings, schedule, updates, run_start.first_update),
            run_start,
        )
        scorer = Validation(
            self.symbol,
            self.contexts,
            validation,
            validation_batches,
            self.num_classes,
            self.cluster,
            stopping,
            report,
        )
        callbacks = Callbacks(
            module,
            train_iter,
            run_start,
            figures,
            self.writer,
            scorer,
            stopping,
            self.cluster,
            report,
        )
        with callbacks.around_fit():
            mx.random.seed(seed)
            module.fit(
                train_iter,
                eval_metric=figures.metric,
                kvstore=self.cluster.kvstore,
                optimizer=method.optimizer,
                optimizer_params={
                    **method.optimizer_params(),
                    "learning_rate": schedule.lr,
                    "lr_scheduler": schedule.scheduler(updates.per_epoch, run_start.first_update),
                    "begin_num_update": updates.before(run_start.place) - run_start.first_update,
                },
                # The 2017 script's.
                initializer=mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2),
                arg_params=run_start.arg_params,
                aux_params=run_start.aux_params,
                allow_missing=run_start.is_pretrained,
                batch_end_callback=callbacks.after_batch,
                epoch_end_callback=callbacks.after_epoch,
                begin_epoch=run_start.place.epoch,
                num_epoch=num_epochs,
            )

    def summary(self) -> str:
        return self.writer.summary()
