"""Lock the checkpoints of a run, check the disk space, and choose the checkpoint to resume."""

import math
from typing import Optional, Tuple

import mxnet as mx

from log.notices import Notices
from model.checkpoint import Generation
from model.job.cluster import Cluster
from model.network.params import parameter_shapes
from model.plan import Plan
from model.training.average import AveragedCheckpoints
from model.training.resume import agree_on_generation


def claim_checkpoints(
    plan: Plan, checkpoints: AveragedCheckpoints, cluster: Cluster, notices: Notices
) -> Tuple[Optional[Generation], bool]:
    """Lock the checkpoints. Return (the checkpoint to resume, None for a new run; whether this
    worker writes checkpoints)."""
    if cluster.rank == 0:
        take_lock(plan, checkpoints, notices)
    generation, writer = agree_on_generation(plan, checkpoints, cluster, notices)
    if cluster.rank == writer != 0:
        take_lock(plan, checkpoints, notices)
    return generation, cluster.rank == writer


def take_lock(plan: Plan, checkpoints: AveragedCheckpoints, notices: Notices) -> None:
    """Keep other runs off the checkpoints; in a dry run, only look whether that can be done."""
    if plan.output.dry_run:
        checkpoints.check_lock()
        return
    warning = checkpoints.lock()
    if warning:
        notices.warn(warning)
    if plan.recipe.ema:
        checkpoints.lock_averages()


def checkpoint_size(plan: Plan, symbol: mx.sym.Symbol) -> int:
    """Return the bytes of a checkpoint."""
    arrays = plan.method.arrays_in_a_checkpoint()
    return arrays * 4 * sum(map(math.prod, parameter_shapes(symbol).values()))


def check_disk(
    plan: Plan, checkpoints: AveragedCheckpoints, symbol: mx.sym.Symbol, notices: Notices
) -> None:
    """Say how much room a checkpoint takes. Raise ModelError if there is not enough."""
    size = checkpoint_size(plan, symbol)
    checkpoints.check_free(size)
    free = checkpoints.free_bytes()
    notices.info(f"each checkpoint takes {size >> 20} MB on disk, {free >> 20} MB are free")
