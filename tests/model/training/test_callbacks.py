"""What happens around Module.fit: each concern by itself."""

import logging
import math
import os
import signal
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest

import symbol_xception
from log.report import NoReport
from model import Interrupted, ModelError
from model.checkpoint import Checkpoints, Generation, Place
from model.job import JobError
from model.job.cluster import Cluster
from model.training.callbacks import Callbacks
from model.training.checks import FiniteChecks
from model.training.figures import Figures
from model.training.patience import Patience
from model.training.saving import CheckpointWriter, RunRecord, SavingPolicy
from model.training.schedule import Schedule, Updates
from model.training.start import Start
from model.training.stopping import ReadableBatches, Stopping

SCHEDULE, UPDATES = Schedule(0.1, 0, (), 1), Updates(batches=10)


class Others(Cluster):
    """One of two workers. statuses : what the other one exchanges, one after the other."""

    rank, workers = 0, 2

    def __init__(self, *statuses):
        super().__init__()
        self.statuses = list(statuses)
        self.told = []

    def exchange(self, status, reached=""):
        self.told.append((status, reached))
        other = self.statuses.pop(0)
        if isinstance(other, Exception):
            raise other
        return [status, other]


# Stopping


def test_what_one_worker_gets_all_stop_by():
    stopping = Stopping(Others(0, 15))
    assert not stopping.agree(Place(1, 1))
    assert stopping.agree(Place(1, 2)) and stopping.signal == 15 and not stopping.unreadable
    assert stopping.interrupted(Place(1, 2)).signal == 15


def test_a_signal_waits_for_the_next_place_and_handlers_are_put_back():
    before = {n: signal.getsignal(n) for n in (2, 15)}
    stopping = Stopping(Cluster())
    with pytest.raises(Interrupted), stopping.handling_signals():
        os.kill(os.getpid(), 15)
        assert stopping.signal == 0
        assert stopping.agree("a place")
        raise stopping.interrupted(Place(1))
    assert {n: signal.getsignal(n) for n in (2, 15)} == before


@pytest.mark.parametrize(
    "error, line",
    [
        # Module.bind's, which is no MXNetError.
        (
            RuntimeError("simple_bind error. Arguments:\ndata: (256, 3, 224, 224)\n[bt] Error...\n"
                         "cudaMalloc retry failed: out of memory"),
            "MXNet: cudaMalloc retry failed: out of memory: a smaller --batch-size, or --memonger, "
            "needs less",
        ),
        (
            mx.base.MXNetError("x.h:1: Check failed: e == CUDNN_STATUS_SUCCESS (4 vs. 0) : cuDNN: "
                               "CUDNN_STATUS_ALLOC_FAILED"),
            "MXNet: x.h:1: Check failed: .* CUDNN_STATUS_ALLOC_FAILED: a smaller --batch-size, .*",
        ),
        (mx.base.MXNetError("x.h:1: Check failed: a == b"), "MXNet: x.h:1: Check failed: a == b"),
    ],
)  # fmt: skip
def test_what_mxnet_raises_is_one_line_with_a_way_out(error, line):
    callbacks = Callbacks(
        module=None,
        batches=None,
        start=Start.anew(0.1),
        figures=SimpleNamespace(metric=None),
        writer=None,
        validation=None,
        stopping=Stopping(Cluster()),
        patience=Patience(None),
        cluster=Cluster(),
        report=NoReport(),
    )
    with pytest.raises(ModelError, match=f"^{line}$"), callbacks.around_fit():
        raise error


class Images:
    """3 batches an epoch, and at one of them an error."""

    provide_data = provide_label = ()

    def __init__(self, bad=None):
        self.epoch, self.number, self.bad = 0, 0, bad

    def next(self):
        if (self.epoch, self.number) == self.bad:
            raise ValueError("bad record")
        if self.number == 3:
            raise StopIteration
        self.number += 1
        return self.epoch, self.number - 1

    def reset(self):
        self.epoch, self.number = self.epoch + 1, 0


def test_a_record_that_cannot_be_read_ends_the_epoch_and_is_kept():
    cluster = Others(0, 0, 0, JobError("worker 1: bad record"))
    stopping = Stopping(cluster)
    batches = ReadableBatches(Images(bad=(1, 1)), stopping)
    assert [*batches] == [(0, 0), (0, 1), (0, 2)]
    batches.reset()
    assert [*batches] == [(1, 0)] and str(batches.error) == "bad record"
    assert stopping.agree(Place(1, 1), batches.error) and stopping.unreadable
    with pytest.raises(ValueError, match="bad record"):
        stopping.raise_unreadable(batches.error, Place(1, 1))
    # In the other worker the error is none of its own: it hears what it was.
    with pytest.raises(JobError, match="worker 1: bad record"):
        stopping.raise_unreadable(None)
    # An epoch begins with an agreement: who can't read its first batch leaves none waiting.
    assert [reached for _, reached in cluster.told] == [
        "epoch 0's last batch", "epoch 1's last batch", "epoch 1, batch 1", ""
    ]  # fmt: skip
    worker = Stopping(Others(-2))
    assert [*ReadableBatches(Images(), worker)] == [] and worker.unreadable


# Figures


def figures_after(batches, report=None):
    figures = Figures(3, 4, 2, SCHEDULE, UPDATES, report or NoReport())
    figures.metric.reset()
    for number in batches:
        measure(figures, number)
    return figures


def measure(figures, number):
    probabilities = np.random.RandomState(number).dirichlet(np.ones(3), 4)
    figures.metric.update([mx.nd.array([0, 1, 2, 0])], [mx.nd.array(probabilities)])
    param = mx.model.BatchEndParam(0, number, figures.metric, {})
    return figures.log_batch(param, Place(0, number + 1))


def test_figures_resume_within_an_epoch(caplog):
    caplog.set_level(logging.INFO)
    through = figures_after(range(3))
    sums = through.metric.sums()
    resumed = Figures(3, 4, 2, SCHEDULE, UPDATES, NoReport())
    # Worker 1's own, of two.
    resumed.restore([[[0, 0, 0, 0]] * 2, sums], 1, 3)
    resumed.metric.reset()
    lines = []
    for figures in (through, resumed):
        caplog.clear()
        assert [measure(figures, number) for number in (3, 4)] == [False, True]
        lines.append([record.getMessage().split("\t")[2:] for record in caplog.records])
        assert len(lines[-1]) == 1
    assert lines[0] == lines[1]
    assert through.metric.get_global_name_value() == resumed.metric.get_global_name_value()
    # The next epoch starts from nothing.
    resumed.metric.reset()
    assert math.isnan(resumed.metric.get_global_name_value()[0][1])


class Lines(NoReport):
    def __init__(self):
        self.lines = []

    def batch(self, epoch, batch, lr, figures, due):
        self.lines.append((epoch, batch, lr, due))


def test_the_report_has_every_batch_and_is_due_with_the_log():
    report = Lines()
    figures = figures_after([], report)
    for number in range(5):
        measure(figures, number)
        figures.report_batch(Place(0, number + 1), 0.1)
    assert report.lines == [(0, n + 1, 0.1, n in (2, 4)) for n in range(5)]


# Checks


def test_what_has_diverged_is_not_saved():
    last = Place(0)
    figures = figures_after([0])
    checks = FiniteChecks(None, figures.metric, lambda: last)
    checks.check_loss(Place(0, 1))
    checks.check_saved({"arg:w": np.ones(2)}, Place(1))
    figures.metric.metrics[-1].sum_metric = math.inf
    with pytest.raises(ModelError, match=r"the loss is NaN or infinite at epoch 0, batch 1.*lr$"):
        checks.check_loss(Place(0, 1))
    last = Place(1)
    with pytest.raises(ModelError, match=r"arg:w is NaN.* at epoch 2: .* with --retrain$"):
        checks.check_saved({"arg:w": np.array([1, math.nan])}, Place(2))


# Saving


def writer(prefix, policy, start=None):
    start = start or Start.anew(0.1)
    symbol = symbol_xception.get_xception_symbol(5, filter_list=(4, 4, 6, 6, 8, 8, 10))
    record = RunRecord({"wd": 1}, SCHEDULE, UPDATES, start.first_update)
    return CheckpointWriter(Checkpoints(prefix), symbol, policy, record, start)


def write(saving, place, accuracy=None):
    figures = [[[0, 0, 0, 0]]] if place.batch else None
    saving.write(place, {"arg:w": np.zeros(1, "f4")}, {}, figures, None)
    if accuracy is not None:
        saving.add_validation(place, {"accuracy": accuracy}, None)


def test_when_a_checkpoint_is_due():
    policy = SavingPolicy(last_epoch=5, every_epochs=2, every_batches=3)
    assert [e for e in range(1, 6) if policy.is_due(Place(e))] == [2, 4, 5]
    assert [b for b in range(1, 8) if policy.is_due(Place(1, b))] == [3, 6]
    assert not SavingPolicy(last_epoch=5).is_due(Place(1, 3))


def test_the_newest_and_the_best_are_kept(tmp_path):
    saving = writer(tmp_path / "x", SavingPolicy(last_epoch=9, keep=2))
    write(saving, Place(0, 4))
    assert saving.summary().endswith("x-0000-000004.params")
    for epoch, accuracy in ((1, 0.3), (2, 0.5), (3, 0.4), (4, 0.5)):
        write(saving, Place(epoch), accuracy)
        saving.prune()
    checkpoints = Checkpoints(tmp_path / "x")
    assert checkpoints.places() == [Place(2), Place(3), Place(4)]
    assert os.readlink(tmp_path / "x-best.params") == "x-0002.params"
    assert saving.best == {"epoch": 2, "accuracy": 0.5}
    assert checkpoints.run(Place(4))["validation"] == {"accuracy": 0.5}
    assert checkpoints.run(Place(4))["updates"] == 40
    assert "x-0004.params; best validation accuracy 0.5000, after epoch 2" in saving.summary()


def test_what_only_a_signal_saved_does_not_compete(tmp_path):
    saving = writer(tmp_path / "x", SavingPolicy(last_epoch=9, every_epochs=2))
    write(saving, Place(2), 0.3)
    write(saving, Place(3), 0.9)
    assert saving.best == {"epoch": 2, "accuracy": 0.3}


def test_a_resumed_run_takes_over_a_best_epoch_that_is_still_there(tmp_path):
    saving = writer(tmp_path / "x", SavingPolicy(last_epoch=9))
    for epoch, accuracy in ((1, 0.5), (2, 0.4)):
        write(saving, Place(epoch), accuracy)
    generation = Checkpoints(tmp_path / "x").load(Place(2))
    start = Start(Place(2), 0.1, generation=generation)
    resumed = writer(tmp_path / "x", SavingPolicy(last_epoch=9), start)
    resumed.resume(generation)
    assert resumed.last == Place(2) and resumed.best == {"epoch": 1, "accuracy": 0.5}
    # Another run has replaced it: then the generation's own figures are the best known.
    write(saving, Place(1), 0.1)
    resumed.resume(generation)
    assert resumed.best == {"epoch": 2, "accuracy": 0.4}
    assert os.readlink(tmp_path / "x-best.params") == "x-0002.params"


def test_overwrite_replaces_all_when_the_first_checkpoint_is_there(tmp_path):
    old = writer(tmp_path / "x", SavingPolicy(last_epoch=9))
    for epoch in (1, 2, 3):
        write(old, Place(epoch), 0.5)
    saving = writer(tmp_path / "x", SavingPolicy(last_epoch=9, overwrite=True))
    assert len(Checkpoints(tmp_path / "x").places()) == 3
    write(saving, Place(1))
    assert Checkpoints(tmp_path / "x").places() == [Place(1)]
    assert not (tmp_path / "x-best.params").is_symlink()
    write(saving, Place(2))
    assert Checkpoints(tmp_path / "x").places() == [Place(1), Place(2)]


# Patience


def test_patience_counts_epochs_without_a_better_validation():
    patience = Patience(3)
    over = []
    for epoch, accuracy in enumerate([0.2, 0.5, 0.5, 0.4, 0.6, 0.6, 0.3, 0.1], start=1):
        patience.add(Place(epoch), accuracy)
        # Validated a second time, after a signal: the same.
        patience.add(Place(epoch), accuracy)
        over.append(patience.is_over(Place(epoch)))
        # Resumed from a checkpoint, it is where it was.
        run, patience = {"best_validation": patience.best, "best": None}, Patience(3)
        patience.resume(run)
    assert over == [False] * 7 + [True]
    assert patience.reason.startswith("--patience 3: no epoch after epoch 5 had") and (
        patience.reason.endswith("0.6000")
    )
    assert not Patience(None).is_over(Place(9))
    # A checkpoint from before there was --patience.
    patience.resume({"best": {"epoch": 2, "accuracy": 0.5}})
    assert patience.is_over(Place(5)) and not patience.is_over(Place(4, 11))


# Start


def test_a_checkpoint_of_an_epochs_end_lacks_its_validation_if_a_signal_came_first():
    def lacks(place, validation):
        run = {"validation": validation}
        generation = Generation(place, "", {}, {}, run)
        return Start(place, 0.1, generation=generation).lacks_validation

    assert lacks(Place(1), None) and not lacks(Place(1), {"accuracy": 0.5})
    assert not lacks(Place(1, 3), None) and not lacks(Place(0), None)
    assert not Start.anew(0.1).lacks_validation
