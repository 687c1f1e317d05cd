"""The checkpoints of a run: when one is due, what is in it, and which ones are kept."""

import logging
import platform
import time
from dataclasses import dataclass, replace
from typing import Dict, List, Optional

import mxnet as mx

from model.checkpoint import Checkpoints, Generation, Place
from model.training.schedule import Schedule, Updates
from model.training.start import Start
from model.training.state import Arrays

_log = logging.getLogger()


@dataclass(frozen=True)
class SavingPolicy:
    """When to write checkpoints.

    last_epoch : of the run (or its first, if nothing is left to train): it has one in any case.
    every_epochs : epochs between two checkpoints. every_batches : batches between two within an
        epoch, None for none.
    keep : how many of the newest to keep in addition to the best one, None for all.
    overwrite : the first checkpoint replaces all that are there.
    """

    last_epoch: int
    every_epochs: int = 1
    every_batches: Optional[int] = None
    keep: Optional[int] = None
    overwrite: bool = False

    def is_due(self, place: Place) -> bool:
        if place.batch:
            return self.every_batches is not None and place.batch % self.every_batches == 0
        return place.epoch % self.every_epochs == 0 or place.epoch == self.last_epoch


@dataclass(frozen=True)
class RunRecord:
    """What a checkpoint says about its run.

    settings : the arguments that decide what the run computes.
    first_update : as for model.training.start.Start.
    """

    settings: dict
    schedule: Schedule
    updates: Updates
    first_update: int = 0

    def at(self, place: Place) -> dict:
        return {
            "settings": self.settings,
            "lr": self.schedule.lr,
            "lr_epoch": self.schedule.first_epoch,
            "updates": self.updates.before(place),
            "first_update": self.first_update,
            "batches": self.updates.batches,
        }


class CheckpointWriter:
    """Writes the checkpoints of a run, and removes those that are not to be kept.

    checkpoints : where; None for a worker that leaves them to another one: then nothing is written.
    symbol : the network as it is saved.

    last : place of the last checkpoint; until there is one, where the run starts.
    best : {"epoch": ..., "accuracy": ...} of the best checkpoint, None if none is validated.
    """

    def __init__(
        self,
        checkpoints: Optional[Checkpoints],
        symbol: mx.sym.Symbol,
        policy: SavingPolicy,
        record: RunRecord,
        start: Start,
    ):
        self._checkpoints = checkpoints
        self._symbol_json = symbol.tojson()
        self._policy, self._record = policy, record
        self._overwrite = policy.overwrite
        self.last = start.generation.place if start.generation else start.place
        self.best: Optional[dict] = None

    @property
    def writes(self) -> bool:
        return self._checkpoints is not None

    def is_due(self, place: Place) -> bool:
        return self._policy.is_due(place)

    @property
    def last_epoch(self) -> int:
        return self._policy.last_epoch

    def end_at(self, epoch: int) -> None:
        """Have `epoch` be the last one of the run."""
        self._policy = replace(self._policy, last_epoch=epoch)

    def resume(self, generation: Generation) -> None:
        """Take over which epoch up to `generation` is the best, and link it."""
        if self._checkpoints:
            self.best = _best_until(generation, self._checkpoints)
            self._checkpoints.set_best(Place(self.best["epoch"]) if self.best else None)

    def write(
        self,
        place: Place,
        params: Arrays,
        states: Arrays,
        sums_of_workers: Optional[List[list]],
        best_validation: Optional[dict],
    ) -> None:
        """Write a checkpoint.

        params, states : of `ResumableModule`. sums_of_workers : of `Figures`, within an epoch.
        best_validation : of `Patience`.
        """
        self.last = place
        checkpoints = self._checkpoints
        if not checkpoints:
            return
        run = {
            **self._record.at(place),
            "figures": sums_of_workers,
            "validation": None,
            "best": self.best,
            "best_validation": best_validation,
            "versions": {"python": platform.python_version(), "mxnet": mx.__version__},
            "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        size = checkpoints.save(place, self._symbol_json, params, states, run)
        # Within an epoch a checkpoint lives until the next one; so does what a kill left of one.
        replaced = [
            p for p in checkpoints.places()
            if p.batch or self._overwrite or checkpoints.is_unfinished(p)
        ]  # fmt: skip
        checkpoints.remove(p for p in replaced if p != place)
        if self._overwrite:
            checkpoints.set_best(None)
            self._overwrite = False
        _log.info('Saved checkpoint to "%s"', checkpoints.params_file(place))
        free = checkpoints.free_bytes()
        if free < size:
            _log.warning(
                "%s: %d MB free: the next checkpoint, of %d MB, won't fit",
                checkpoints.folder, free >> 20, size >> 20,
            )  # fmt: skip

    def add_validation(
        self, place: Place, figures: Dict[str, float], best_validation: Optional[dict]
    ) -> None:
        """Add validation figures to the checkpoint at `place`, which may be the best one now."""
        if not self._checkpoints:
            return
        accuracy = figures["accuracy"]
        # A checkpoint that exists only because of a signal can't become the best one.
        better = self.is_due(place) and (not self.best or accuracy > self.best["accuracy"])
        if better:
            self.best = {"epoch": place.epoch, "accuracy": accuracy}
        self._checkpoints.annotate(
            place, validation=figures, best=self.best, best_validation=best_validation
        )
        if better:
            self._checkpoints.set_best(place)

    def prune(self) -> None:
        """Remove all but the newest checkpoints and the best one."""
        if not self._checkpoints or not self._policy.keep:
            return
        in_order = [place for place in self._checkpoints.in_order() if not place.batch]
        old = in_order[: -self._policy.keep]
        self._checkpoints.remove(p for p in old if not self.best or p.epoch != self.best["epoch"])

    def summary(self) -> str:
        """Return a line that says what the run has left."""
        if not self._checkpoints:
            return "this worker writes no checkpoint"
        last = self._checkpoints.params_file(self.last)
        if not self.best:
            return f"{last}"
        accuracy, epoch = self.best["accuracy"], self.best["epoch"]
        return f"{last}; best validation accuracy {accuracy:.4f}, after epoch {epoch}"


def _best_until(generation: Generation, checkpoints: Checkpoints) -> Optional[dict]:
    """Return the best epoch up to `generation`, if its checkpoint still is what it was."""
    best = generation.run["best"]
    if best:
        score = checkpoints.validation(Place(best["epoch"])) or {}
        if score.get("accuracy") != best["accuracy"]:
            own = generation.run["validation"]
            epoch = generation.place.epoch
            return {"epoch": epoch, "accuracy": own["accuracy"]} if own else None
    return best
