"""--benchmark: the speed of training, or of reading records, on this machine."""

import math
import time
from dataclasses import replace
from typing import Any, Callable

import numpy as np

from data.formats.recordset import scan
from data.inspect import Images, Sides, inspect_images
from data.iterators import SyntheticIter
from data.parts import readers_of
from log.notices import Notice, Notices
from log.report import NoReport
from model.checkpoint import Place
from model.job.cluster import Cluster
from model.plan import Plan
from model.training.batches import ValidationImages, decoding_threads, training_iter
from model.training.benchmark import peak_megabytes
from model.training.hardware import choose_contexts, choose_dtype
from model.training.origin import build_network, origin_of
from model.training.run import Run
from model.training.schedule import Schedule, Updates
from model.training.start import Start

#: Steps of --benchmark training that are not measured.
_WARM_UP = 3


def input_speed(plan: Plan, cluster: Cluster) -> str:
    """Return the line of --benchmark input: records read, decoded and augmented."""
    images = inspect_images(plan.data, _notices(plan))
    batch_size = plan.training.batch_size
    batches = math.ceil(images.num_train / batch_size)
    threads, origin = decoding_threads(plan, on_gpus=True), origin_of(plan, None)
    began = time.perf_counter()
    train_iter = training_iter(plan, origin, images, Place(0), batches, cluster, threads)
    first = None
    for number in range(plan.benchmark.benchmark_batches):
        if number and number % batches == 0:
            train_iter.reset()
        train_iter.next().data[0].wait_to_read()
        first = first or time.perf_counter() - began
    # Decoding goes ahead of what is asked for: only the whole time tells.
    seconds = (time.perf_counter() - began) / plan.benchmark.benchmark_batches
    readers = readers_of(scan(images.train).size, cluster.workers, origin.readers)
    what = f"input, {images.train}, readers {readers}, threads {threads}, {_shape(plan)}"
    return f"{_speed_line(plan, what, seconds)}, first batch after {first:.2f} s"


def training_speed(plan: Plan, cluster: Cluster, fit: Callable[..., Any]) -> str:
    """Return the line of --benchmark training: steps on random pixels, without files.

    fit : that of the script, which is measured.
    """
    batches = _WARM_UP + plan.benchmark.benchmark_batches + 1
    run = _synthetic_run(plan, batches)
    images = SyntheticIter(
        plan.training.batch_size, plan.data.image_shape, run.images.num_classes, batches
    )
    fit(run, images, ValidationImages(None, 0), cluster, NoReport())
    seconds = float(np.median(np.diff(images.times)[_WARM_UP:]))
    contexts = ", ".join(map(str, run.contexts))
    return _speed_line(plan, f"training, {run.dtype}, {_shape(plan)}, {contexts}", seconds)


def _synthetic_run(plan: Plan, batches: int) -> Run:
    """Return a run of one epoch of random pixels that writes nothing."""
    notices = _notices(plan)
    contexts = choose_contexts(plan, notices)
    num_classes = plan.data.num_classes or 1000
    origin = origin_of(plan, None)
    symbol = build_network(plan, num_classes, origin).symbol
    lr = plan.training.lr or plan.recipe.first_lr
    num_images, side = batches * plan.training.batch_size, min(plan.data.image_shape[1:])
    return Run(
        plan=replace(plan, training=replace(plan.training, num_epochs=1)),
        contexts=contexts,
        dtype=choose_dtype(plan, contexts, symbol, None, notices),
        images=Images("", None, num_images, 0, num_classes, None, Sides(side, side, side), None),
        origin=origin,
        symbol=symbol,
        start=Start.anew(lr),
        method=plan.method,
        schedule=Schedule(lr, 0, (), 1),
        updates=Updates(batches, plan.recipe.accumulate),
        batches=batches,
        checkpoints=None,
        log_file="",
        settings={},
        notices=notices,
    )


class _Printed(Notices):
    """Notices that are printed as they come up."""

    def append(self, notice: Notice) -> None:
        print(notice)


def _notices(plan: Plan) -> Notices:
    return Notices() if plan.output.quiet else _Printed()


def _shape(plan: Plan) -> str:
    return "x".join(map(str, (plan.training.batch_size, *plan.data.image_shape)))


def _speed_line(plan: Plan, what: str, seconds: float) -> str:
    """seconds : of a batch."""
    return (
        f"{what}: {plan.training.batch_size / seconds:.1f} images/s, {1000 * seconds:.1f} ms a "
        f"batch of {plan.benchmark.benchmark_batches}, peak memory {peak_megabytes()} MB"
    )
