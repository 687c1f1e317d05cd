"""Resuming: the checkpoint that all workers agree on, the place and the learning rate there."""

import hashlib
import json
from contextlib import suppress
from typing import Any, Dict, List, NamedTuple, Optional

from log import schema
from log.files import read_file
from log.notices import Notices
from model import ModelError
from model.checkpoint import Checkpoints, Generation, Place, ndarray_file
from model.checkpoint.forms import RESUMABLE, RESUMABLE_WITHIN
from model.job import JobError
from model.job.cluster import Cluster
from model.network.params import check_unsliced
from model.plan import Plan, before_flags


class ResumePoint(NamedTuple):
    """Where a run begins, and the learning rate that holds from `first_epoch` on."""

    place: Place
    lr: float
    first_epoch: int


class Found(NamedTuple):
    """The checkpoint that a run resumes; None for a new run.

    writer : rank of the worker that has it, and writes later ones.
    """

    generation: Optional[Generation]
    writer: int


def find_generation(plan: Plan, checkpoints: Checkpoints, notices: Notices) -> Optional[Generation]:
    """Return the generation that this worker would resume, None for a new run.

    Raises ModelError if the flags and what is on the disk don't go together.
    """
    saving = plan.saving
    places = checkpoints.places()
    if not saving.retrain:
        if places and not saving.overwrite:
            raise ModelError(
                f"{saving.model_prefix} has checkpoints, the last of {places[-1]}: "
                "--retrain resumes, --overwrite starts again"
            )
        return None
    if saving.retrain == "auto" and all(map(checkpoints.is_unfinished, places)):
        left = ", ".join(f"{saving.model_prefix}-{place.stem}" for place in places)
        passing = f", and skips unfinished files: {left}" if left else ""
        notices.info(f"no checkpoint yet: starts a new run{passing}")
        return None
    if not places:
        raise ModelError(f"{saving.model_prefix} has no checkpoint: leave out --retrain")
    _refuse_sliced(plan, checkpoints, places)
    if saving.model_load_epoch:
        place = Place(saving.model_load_epoch)
        checkpoints.check_there(place)
        generation = checkpoints.load(place)
    else:
        generation = _newest(checkpoints, notices)
    _check_resumable(generation, checkpoints)
    later = [place for place in places if place > generation.place]
    if later:
        notices.info(f"the checkpoints up to {later[-1]} are replaced as this run reaches them")
    notices.info(f"resumes from {checkpoints.params_file(generation.place)}, {generation.place}")
    return generation


def _newest(checkpoints: Checkpoints, notices: Notices) -> Generation:
    generation, passed_over = checkpoints.newest()
    for error in passed_over:
        notices.info(f"skipped {error}")
    if generation is None:
        reasons = "; ".join(passed_over)
        raise ModelError(f"{checkpoints.prefix}: none of its checkpoints can be used: {reasons}")
    return generation


def _check_resumable(generation: Generation, checkpoints: Checkpoints) -> None:
    """Raise ModelError if a generation lacks what a run needs to resume."""
    run = generation.run
    problem = schema.problem(run, RESUMABLE)
    if generation.place.batch:
        problem = problem or schema.problem(run, RESUMABLE_WITHIN)
    for name, needed in (("first_update", "updates"), ("lr", "lr_epoch")):
        if run.get(name) and run.get(needed) is None:
            problem = problem or f"{name} without {needed}"
    if problem:
        path = checkpoints.names.description(generation.place)
        raise ModelError(f"{path}: not a run that can be resumed: {problem}")


def _refuse_sliced(plan: Plan, checkpoints: Checkpoints, places: List[Place]) -> None:
    """Raise ModelError for a checkpoint of the 2017 script, with the command that converts it."""
    epoch = plan.saving.model_load_epoch
    last = Place(epoch) if epoch else places[-1]
    params_file = checkpoints.params_file(last)
    if params_file.exists() and not params_file.with_suffix(".json").exists():
        with suppress(ndarray_file.FormatError):
            arrays = ndarray_file.parse(read_file(params_file, ModelError))
            check_unsliced(arrays, checkpoints.prefix, last.epoch)


def agree_on_generation(
    plan: Plan, checkpoints: Checkpoints, cluster: Cluster, notices: Notices
) -> Found:
    """Return the newest checkpoint that a worker of the job has; all get it from that one.

    All workers call it. Raises ModelError, or JobError, if none can be used.
    """
    found, problem, own = None, None, Notices()
    if cluster.rank == 0 or plan.saving.retrain:
        try:
            found = find_generation(plan, checkpoints, own)
        except ModelError as error:
            problem = str(error)
    digest = hashlib.sha256(found.to_bytes()).hexdigest() if found and cluster.workers > 1 else ""
    offer = {"count": found.count if found else -1, "problem": problem, "digest": digest}
    offers = [json.loads(each) for each in cluster.gather(json.dumps(offer).encode())]
    newest = max(each["count"] for each in offers)
    if newest < 0:
        problems = [each["problem"] for each in offers if each["problem"]]
        if problems:
            raise JobError(problems[0])
        notices.extend(own)
        return Found(None, 0)
    writer = [each["count"] for each in offers].index(newest)
    if cluster.rank == writer:
        notices.extend(own)
    else:
        notices.info(f"resumes from worker {writer}'s checkpoint")
    if len({each["digest"] for each in offers}) > 1:
        content = found.to_bytes() if found and cluster.rank == writer else b""
        found = Generation.from_bytes(cluster.broadcast(content, writer))
    return Found(found, writer)


def resume_point(
    plan: Plan,
    generation: Optional[Generation],
    settings: Dict[str, Any],
    batches: int,
    notices: Notices,
) -> ResumePoint:
    """Return where the run begins, and the learning rate there.

    settings : of this run. batches : of an epoch of this run. Raises ModelError if the rate is not
    known, or is one of another optimizer.
    """
    lr = plan.training.lr
    if not generation:
        return ResumePoint(Place(0), lr or plan.recipe.first_lr, 0)
    place, saved = generation.place, generation.run
    then = {**before_flags(), **saved["settings"]}
    for name, value in settings.items():
        if then.get(name, value) != value:
            notices.info(
                f"changed since that checkpoint: {name} {short(then[name])} -> {short(value)}"
            )
    if place.batch and saved["batches"] != batches:
        place = Place(place.epoch, place.batch * batches // saved["batches"])
        notices.info(f"{saved['batches']} batches an epoch then, {batches} now: resumes at {place}")
    num_epochs = plan.training.num_epochs
    if place.epoch >= num_epochs:
        notices.info(
            f"{place.epoch} epochs are done, --num-epochs is {num_epochs}: nothing to train"
        )
    _check_rate(plan, saved, then)
    if lr and not (plan.saving.retrain == "auto" and lr == saved["lr"]):
        # With --lr the schedule begins here; without, it continues.
        began = f"; the run began with {saved['lr']:g}" if saved["lr"] else ""
        notices.info(f"--lr: {lr:g} from epoch {place.epoch} on{began}")
        return ResumePoint(place, lr, place.epoch)
    return ResumePoint(place, saved["lr"], saved["lr_epoch"])


def _check_rate(plan: Plan, saved: Dict[str, Any], then: Dict[str, Any]) -> None:
    """Raise ModelError if the rate that the run had can't be used. saved, then : what the
    checkpoint says of its run, and its settings."""
    if plan.training.lr:
        return
    if saved["lr"] is None:
        raise ModelError(
            f"{plan.saving.model_prefix} was converted: the learning rate of its run is not known: "
            "give --lr"
        )
    optimizer = plan.recipe.optimizer
    if then["optimizer"] != optimizer:
        raise ModelError(
            f"--optimizer {optimizer}, but the run's rate is for {then['optimizer']} "
            f"(--recipe {then['recipe']}): give --optimizer {then['optimizer']}, or --lr"
        )


def short(value: Any) -> str:
    """Return a value as text of at most 60 characters, for a line of the log."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
