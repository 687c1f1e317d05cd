"""From the plan to the run: what disk, devices, checkpoints and other workers decide.

`resolve` lists the steps in order. All workers make the collective calls in the same order.
"""

import hashlib
import json
import math
import socket
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import mxnet as mx

from data import DataError
from data.checking.order import check_order
from data.formats.recordset import scan
from data.inspect import Images, check_crop, inspect_images
from data.parts import bytes_ahead
from log.notices import Notices
from model.checkpoint import Generation
from model.job import JobError
from model.job.cluster import Cluster
from model.network import Network
from model.network.params import check_finite, check_params, numpy_params
from model.plan import Plan, own_paths
from model.training.average import AveragedCheckpoints
from model.training.batches import class_weights
from model.training.claiming import check_disk, claim_checkpoints
from model.training.hardware import Contexts, agree_on_dtype, check_memory, choose_contexts
from model.training.origin import Architecture, Origin, build_network, origin_of, pretrained_params
from model.training.resume import ResumePoint, resume_point, short
from model.training.run import Run
from model.training.schedule import Schedule, Updates
from model.training.start import Start


def resolve(plan: Plan, cluster: Cluster) -> Run:
    """Return the run of a plan. All checks that need no training are made here, and nothing is
    written except the lock of the checkpoints.

    Raises DataError, ModelError, or JobError if another worker fails.
    """
    notices = Notices()
    if plan.data.list_dir != "./":
        notices.info("--list-dir is ignored, as in the 2017 script")
    contexts = choose_contexts(plan, notices)
    images = inspect_images(plan.data, notices)
    announce_job(plan, cluster, notices)
    batches = batches_of_epoch(plan, images, cluster, notices)

    checkpoints = AveragedCheckpoints(plan.saving.model_prefix)
    generation, writes = claim_checkpoints(plan, checkpoints, cluster, notices)
    origin = origin_of(plan, generation)
    network = build_network(plan, images.num_classes, origin)
    pretrained = pretrained_params(plan, network.symbol, origin, notices)
    if generation:
        name = checkpoints.params_file(generation.place)
        check_params(generation.params, network.symbol, name)
        check_finite(generation.params, name)

    dtype = agree_on_dtype(plan, contexts, network.symbol, generation, cluster, notices)
    check_crop(plan.data.image_shape, images, notices)
    workers, batch_size = cluster.workers, plan.training.batch_size
    records = [scan(path) for path in (images.train, images.val) if path]
    check_order(records[0], workers, origin.readers, batch_size, notices)
    decoded = bytes_ahead(records, plan.data.image_shape, workers, origin.readers, batch_size)
    settings = settings_of(plan, images, origin, network, contexts, dtype, cluster)
    notices.info(plan.recipe_line)
    check_workers(plan, images, origin, settings, cluster)
    check_memory(plan, network.symbol, contexts, dtype, decoded, notices)
    if writes:
        check_disk(plan, checkpoints, network.symbol, notices)

    point = resume_point(plan, generation, settings, batches, notices)
    updates = updates_of(plan, batches, cluster)
    run = Run(
        plan=plan,
        contexts=contexts,
        dtype=dtype,
        images=images,
        origin=origin,
        symbol=network.symbol,
        start=start_of(plan, point, generation, pretrained, settings, updates),
        method=plan.method,
        schedule=schedule_of(plan, point),
        updates=updates,
        batches=batches,
        checkpoints=checkpoints if writes else None,
        log_file=log_file_of(plan, cluster),
        settings=settings,
        notices=notices,
    )
    announce_run(run, cluster)
    return run


# Epochs and workers


def batches_of_epoch(plan: Plan, images: Images, cluster: Cluster, notices: Notices) -> int:
    """Return the batches of an epoch, the same for all workers."""
    workers, batch_size = cluster.workers, plan.training.batch_size
    if images.num_train < batch_size * workers:
        of_all = f", times {workers} workers," if workers > 1 else ""
        raise DataError(
            f"--batch-size {batch_size}{of_all} is more than the {images.num_train} training "
            "images: give a smaller one, and --lr in proportion"
        )
    batches = math.ceil(images.num_train / (batch_size * workers))
    every = plan.saving.checkpoint_batches
    if every and every >= batches:
        notices.info(f"--checkpoint-batches {every}: an epoch has only {batches}")
    return batches


def announce_job(plan: Plan, cluster: Cluster, notices: Notices) -> None:
    """Say which worker this is, and how several of them affect batch size and learning rate."""
    if cluster.workers == 1:
        return
    batch_size, devices = plan.training.batch_size, plan.devices
    images = batch_size * cluster.workers
    worker = f"worker {cluster.rank} of {cluster.workers}, on {socket.gethostname()}"
    notices.info(
        f"{devices.kv_store}: {worker}; "
        + (
            f"the servers make one update per batch of {batch_size} images and keep the "
            "momentum: a resumed run starts without it and is not exact"
            if cluster.updates_on_servers
            else f"a batch is {cluster.workers} x {batch_size} images, by which gradients are "
            f"divided: {images}; --lr is not changed by that"
        )
    )
    if devices.gc_type != "none":
        notices.info(
            f"--gc-type {devices.gc_type}: checkpoints do not contain the gradients that it "
            "holds back: a resumed run is not exact"
        )


def check_workers(
    plan: Plan, images: Images, origin: Origin, settings: Dict[str, Any], cluster: Cluster
) -> None:
    """Raise JobError if a worker has other flags or files than worker 0."""
    mine = {
        **plan.shared,
        **settings,
        "starts_from": _digest(origin.network) if origin.network and cluster.workers > 1 else None,
        "num_examples": images.num_train,
        "num_val": images.num_val,
        "mxnet": mx.__version__,
    }
    mine = {name: value for name, value in mine.items() if name not in own_paths()}
    all_of_them = [json.loads(each) for each in cluster.gather(json.dumps(mine).encode())]
    for rank, theirs in enumerate(all_of_them):
        for name, value in all_of_them[0].items():
            if theirs[name] != value:
                raise JobError(
                    f"{name} is {short(value)} for worker 0, and {short(theirs[name])} for worker "
                    f"{rank}: all workers need the same command and files"
                )


def _digest(network: Network) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(numpy_params(network.arg_params, network.aux_params).items()):
        digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()


def log_file_of(plan: Plan, cluster: Cluster) -> str:
    """Return the log file of this worker: that of worker 0 is the one that was asked for."""
    if cluster.rank == 0:
        return plan.saving.log_file
    path = Path(plan.saving.log_file)
    return str(path.with_name(f"{path.stem}-{cluster.rank}{path.suffix}"))


# What the run computes


def settings_of(
    plan: Plan,
    images: Images,
    origin: Origin,
    network: Architecture,
    contexts: Contexts,
    dtype: str,
    cluster: Cluster,
) -> Dict[str, Any]:
    """Return what decides what the run computes, as JSON holds it: a checkpoint keeps it."""
    return {
        **plan.settings,
        "rgb_mean": list(origin.mean),
        "rgb_std": list(origin.std),
        "data_readers": origin.readers,
        "pretrained": list(origin.pretrained) if origin.pretrained else None,
        "filters": network.filters,
        "padding": network.padding,
        "bn_eps": network.bn_eps,
        "num_classes": images.num_classes,
        "classes": images.classes,
        "short_side": images.short_side,
        "devices": len(contexts),
        "workers": cluster.workers,
        "dtype": dtype,
    }


def updates_of(plan: Plan, batches: int, cluster: Cluster) -> Updates:
    """Return how updates are counted. With dist_async the servers count those of all workers."""
    at_once = cluster.workers if cluster.updates_on_servers else 1
    return Updates(batches, plan.recipe.accumulate, at_once)


def start_of(
    plan: Plan,
    point: ResumePoint,
    generation: Optional[Generation],
    pretrained: Optional[Tuple[dict, dict]],
    settings: Dict[str, Any],
    updates: Updates,
) -> Start:
    """Return what the run starts with."""
    if not generation:
        return Start.from_network(point.lr, *pretrained) if pretrained else Start.anew(point.lr)
    return Start.resumed(*point, generation, settings, plan.method, updates)


def schedule_of(plan: Plan, start: ResumePoint) -> Schedule:
    """Return the learning rate over the run."""
    training, recipe = plan.training, plan.recipe
    return Schedule(
        lr=start.lr,
        first_epoch=start.first_epoch,
        steps=training.lr_steps,
        factor=training.lr_factor,
        kind=recipe.lr_schedule,
        warmup=recipe.warmup_epochs,
        lowest=recipe.lr_min,
        every=recipe.decay_epochs,
        end=plan.lr_end,
    )


def announce_run(run: Run, cluster: Cluster) -> None:
    """Say in one line what is trained, on what, from which rate."""
    images, training = run.images, run.plan.training
    lr = run.schedule.rate_at(run.start.place.epoch)
    run.notices.info(
        f"{images.num_train} images of {images.num_classes} classes, {run.batches} batches an "
        f"epoch; {', '.join(map(str, run.contexts))}; {run.dtype}; lr {lr:g}"
    )
    recipe = run.plan.recipe
    accumulate = recipe.accumulate
    if run.plan.steps_too_late:
        # CIFAR-10's own epochs and steps, of 2017, are so; a shorter run is meant to be short.
        by_default = training.num_epochs == run.plan.data.data_set.num_epochs
        level = run.notices.warn if by_default else run.notices.info
        level(run.plan.steps_too_late)
    if recipe.mixup or recipe.cutmix:
        run.notices.info(
            "images are mixed: training figures count a mixture as the class with the larger "
            "share; validation images are not mixed"
        )
    weights = class_weights(run.plan, images)
    if weights is not None:
        run.notices.info(
            f"--class-weights balanced: gradients times {weights[weights > 0].min():.3g} to "
            f"{weights.max():.3g}, by class"
        )
    if accumulate > 1:
        together = accumulate * training.batch_size * cluster.workers
        run.notices.info(
            f"--accumulate {accumulate}: {together} images an update, {run.updates.per_epoch} "
            "updates an epoch"
        )
