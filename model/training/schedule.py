"""The learning rate of every update of a run: `Schedule.rate_of_update`.

`Schedule.scheduler` hands it to MXNet's optimizer: as MXNet's own MultiFactorScheduler if it only
has steps, which computes the same rates. Layers may have a multiplier on top (--head-lr-mult,
`model.training.finetune`).
"""

import math
from dataclasses import dataclass
from typing import Optional, Tuple

import mxnet as mx

from model.checkpoint import Place


@dataclass(frozen=True)
class Updates:
    """How a run counts the updates of its parameters.

    batches : of an epoch. accumulate : batches whose gradients make an update; those at the end of
        an epoch may be fewer.
    at_once : updates that are made together: with dist_async the servers count those of all
        workers.
    """

    batches: int
    accumulate: int = 1
    at_once: int = 1

    @property
    def per_epoch(self) -> int:
        return math.ceil(self.batches / self.accumulate) * self.at_once

    def before(self, place: Place) -> int:
        """Return the updates of the run before `place`."""
        return place.epoch * self.per_epoch + place.batch // self.accumulate * self.at_once


@dataclass(frozen=True)
class Schedule:
    """Learning rate `lr` from epoch `first_epoch` on, and how it changes.

    kind : ``step``: times `factor` at the start of each of `steps` (epochs) that comes after
        `first_epoch`; ``exponential``: times `factor` at the start of every `every`-th epoch after
        it, as in Chollet 2017, section 4.2; ``cosine``: along half a cosine (Loshchilov and Hutter
        2017, equation 5, without restarts) from the end of the warm-up, or from `first_epoch` if
        that is later, to `lowest` at epoch `end`.
    warmup : in the first `warmup` epochs of the run the rate rises linearly, update by update, to
        what it would be without (Goyal et al. 2017, section 2.2).
    lowest : no rate is below it, except the warm-up's.
    """

    lr: float
    first_epoch: int
    steps: Tuple[int, ...]
    factor: float
    kind: str = "step"
    warmup: float = 0
    lowest: float = 0
    every: Optional[int] = None
    end: Optional[int] = None

    def rate_of_update(self, update: int, updates_per_epoch: int) -> float:
        """Return the learning rate of an update of the run, counted from 0."""
        rate = self.rate_at(update / updates_per_epoch)
        warming_up = self.warmup * updates_per_epoch
        return rate * (update + 1) / warming_up if update + 1 < warming_up else rate

    def rate_at(self, position: float) -> float:
        """Return the rate after `position` epochs, a fraction within one, without the warm-up."""
        if self.kind == "cosine":
            # --lr may be below --lr-min: then there is nothing to decay.
            return self.lr - max(self.lr - self.lowest, 0) * (1 - self._wave(position))
        if self.kind == "exponential":
            every = self.every or 1
            decays = int(position) // every - self.first_epoch // every
        else:
            decays = len([step for step in self.steps if self.first_epoch < step <= position])
        return max(self.lr * self.factor**decays, min(self.lr, self.lowest))

    def _wave(self, position: float) -> float:
        """Half a cosine from 1, after the warm-up, to 0, at `end`."""
        begin, end = max(self.first_epoch, self.warmup), self.end or 0
        done = (position - begin) / (end - begin) if end > begin else 1
        return (1 + math.cos(math.pi * min(max(done, 0), 1))) / 2

    def scheduler(
        self, updates_per_epoch: int, first_update: int = 0
    ) -> Optional[mx.lr_scheduler.LRScheduler]:
        """Return what tells MXNet's optimizer the rate of each update; None for a constant rate.

        For steps alone it is MXNet's own, as in 2017: it computes the same, and logs each step.
        first_update : updates of the run before the optimizer's first one.
        """
        if self.kind == "step" and not self.warmup and not first_update:
            updates = [step * updates_per_epoch for step in self.steps if step > self.first_epoch]
            if not updates:
                return None
            return mx.lr_scheduler.MultiFactorScheduler(updates, self.factor, base_lr=self.lr)
        return Scheduler(self, updates_per_epoch, first_update)


class Scheduler(mx.lr_scheduler.LRScheduler):
    """`Schedule.rate_of_update`, as MXNet's optimizer calls it. It depends on the number of updates
    alone: nothing of it needs saving. Servers of a dist_async job get it as a pickle."""

    def __init__(self, schedule: Schedule, updates_per_epoch: int, first_update: int):
        super().__init__(base_lr=schedule.lr)
        self._schedule = schedule
        self._updates_per_epoch, self._first_update = updates_per_epoch, first_update

    def __call__(self, num_update: int) -> float:
        # MXNet counts the update before it asks for its rate.
        update = max(num_update - 1, 0) + self._first_update
        return self._schedule.rate_of_update(update, self._updates_per_epoch)
