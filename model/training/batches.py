"""The batches that a run trains and validates on."""

import math
from typing import NamedTuple, Optional, Tuple

import mxnet as mx
import numpy as np

from data.arguments import THREADS_BESIDE_TRAINING
from data.inspect import Images
from data.iterators import EpochIter, fitting_batch_size, part_sizes, record_args, training_args
from data.mixing import Mixing, MixingIter, balanced_weights
from log.machine import usable_cores
from model.arguments import Devices
from model.checkpoint import Place
from model.job.cluster import Cluster
from model.plan import Plan
from model.training.origin import Origin
from model.training.run import Run


class ValidationImages(NamedTuple):
    """The validation images of a worker.

    images : its part, in batches; None if it has none. batches : those of the largest part of any
    worker; 0 for no validation.
    """

    images: Optional[EpochIter]
    batches: int


def iterators(run: Run, cluster: Cluster) -> Tuple[mx.io.DataIter, ValidationImages]:
    """Return what this worker trains on, at the place where the run starts, and validates on."""
    place = run.start.place
    threads = decoding_threads(run.plan, on_gpus=run.contexts[0].device_type == "gpu")
    train_iter = training_iter(
        run.plan, run.origin, run.images, place, run.batches, cluster, threads
    )
    return train_iter, validation_images(run, cluster, threads)


def training_iter(
    plan: Plan,
    origin: Origin,
    images: Images,
    place: Place,
    batches: int,
    cluster: Cluster,
    threads: int,
) -> mx.io.DataIter:
    """Return this worker's training batches, from `place` on.

    batches : of an epoch. threads : that decode.
    """
    path, recipe = images.train, plan.recipe
    augmentation = plan.augmentation
    side = images.train_sides.common
    drawn = augmentation.arguments(plan.level, plan.data.image_shape, side)
    batch_size = plan.training.batch_size
    arguments = training_args(_record_args(plan, origin, path, batch_size, threads), drawn)
    shard = {"num_parts": cluster.workers, "part_index": cluster.rank}
    epochs = EpochIter(
        {**arguments, **shard},
        plan.training.seed,
        place.epoch,
        place.batch,
        batches,
        origin.readers,
    )
    mixing = Mixing(recipe.mixup, recipe.cutmix, recipe.random_erasing)
    weights = class_weights(plan, images)
    if not mixing and weights is None:
        return epochs
    return MixingIter(
        epochs, mixing, images.num_classes, recipe.label_smoothing, origin.mean, origin.std, weights
    )


def class_weights(plan: Plan, images: Images) -> Optional[np.ndarray]:
    """Return what the gradients of each class are multiplied by, None for nothing."""
    if plan.recipe.class_weights == "none" or not images.class_counts:
        return None
    return balanced_weights(images.class_counts)


def validation_images(run: Run, cluster: Cluster, threads: int) -> ValidationImages:
    """Return the validation images of this worker. threads : that decode.

    With dist_async only worker 0 validates: its workers can't add up their figures.
    """
    path, rank = run.images.val, cluster.rank
    alone = cluster.updates_on_servers
    if path is None or (alone and rank > 0):
        return ValidationImages(None, 0)
    parts = part_sizes(path, 1 if alone else cluster.workers)
    batch_size = run.plan.training.batch_size
    batches = max(math.ceil(part / batch_size) for part in parts)
    if not parts[rank]:
        return ValidationImages(None, batches)
    fitting = fitting_batch_size(batch_size, parts[rank], len(run.contexts))
    arguments = _record_args(run.plan, run.origin, path, fitting, threads)
    shard = {"num_parts": len(parts), "part_index": rank}
    images = EpochIter({**arguments, **shard}, readers=run.origin.readers)
    return ValidationImages(images, batches)


def decoding_threads(plan: Plan, on_gpus: bool) -> int:
    """Return how many threads decode this worker's images."""
    by_default = usable_cores() if on_gpus else THREADS_BESIDE_TRAINING
    return plan.data.data_nthreads or by_default


def _record_args(plan: Plan, origin: Origin, path: str, batch_size: int, threads: int) -> dict:
    data = plan.data
    return record_args(
        path,
        data.image_shape,
        batch_size,
        origin.mean,
        origin.std,
        threads,
        first_gpu(plan.devices),
    )


def first_gpu(devices: Devices) -> Optional[int]:
    """Return the first GPU that these flags ask for, None for CPUs. It may not be there: without
    --gpus, GPU 0 is used if it exists."""
    if devices.gpus is None and not devices.cpus:
        return 0
    return devices.gpus[0] if devices.gpus else None
