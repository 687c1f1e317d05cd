"""The learning rate over a run."""

import math
from dataclasses import dataclass
from typing import Optional

import mxnet as mx


@dataclass(frozen=True)
class Schedule:
    """Learning rate `lr` from epoch `since` on, and what becomes of it.

    kind : ``step``: times `factor` at the start of each of `steps` (epochs) that comes after
        `since`; ``exponential``: times `factor` at the start of every `every`-th epoch after it,
        as in Chollet 2017, section 4.3; ``cosine``: along half a cosine (Loshchilov and Hutter
        2017, equation 5, without restarts) from the end of the warm-up, or from `since` where that
        is later, to `lowest` at epoch `end`.
    warmup : in the first `warmup` epochs of the run the rate rises linearly, update by update, to
        what it is else (Goyal et al. 2017, section 2.2).
    lowest : no rate is below it, but for the warm-up's.
    """

    lr: float
    since: int
    steps: tuple
    factor: float
    kind: str = "step"
    warmup: float = 0
    lowest: float = 0
    every: Optional[int] = None
    end: Optional[int] = None

    def at(self, epoch: int) -> float:
        """Return the rate at the start of `epoch`, but for the warm-up."""
        return self._decayed(epoch)

    def rate(self, update: int, an_epoch: int) -> float:
        """Return the rate of an update of the run, counted from 0, with `an_epoch` updates an
        epoch."""
        rate = self._decayed(update / an_epoch)
        updates = self.warmup * an_epoch
        return rate * (update + 1) / updates if update + 1 < updates else rate

    def _decayed(self, position):
        """The rate after `position` epochs, a fraction within one."""
        if self.kind == "cosine":
            begin = max(self.since, self.warmup)
            done = (position - begin) / (self.end - begin) if self.end > begin else 1
            wave = (1 + math.cos(math.pi * min(max(done, 0), 1))) / 2
            # --lr may be below --lr-min: then there is nothing to decay.
            return self.lr - max(self.lr - self.lowest, 0) * (1 - wave)
        if self.kind == "exponential":
            decays = int(position) // self.every - self.since // self.every
        else:
            decays = len([step for step in self.steps if self.since < step <= position])
        return max(self.lr * self.factor**decays, min(self.lr, self.lowest))

    def scheduler(self, an_epoch: int, first: int = 0):
        """Return MXNet's scheduler; None for a constant rate.

        an_epoch : updates an epoch. first : updates of the run before the optimizer's first one.
        """
        if self.kind == "step" and not self.warmup and not first:
            updates = [step * an_epoch for step in self.steps if step > self.since]
            if not updates:
                return None
            return mx.lr_scheduler.MultiFactorScheduler(updates, self.factor, base_lr=self.lr)
        return Scheduler(self, an_epoch, first)


class Scheduler(mx.lr_scheduler.LRScheduler):
    """A function of the number of updates alone: nothing of it needs saving."""

    def __init__(self, schedule: Schedule, an_epoch: int, first: int):
        super().__init__(base_lr=schedule.lr)
        self._schedule, self._an_epoch, self._first = schedule, an_epoch, first

    def __call__(self, num_update):
        # MXNet counts the update before it asks for its rate.
        return self._schedule.rate(max(num_update - 1, 0) + self._first, self._an_epoch)
