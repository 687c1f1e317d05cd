"""The average of the parameters over a run (Polyak and Juditsky 1992), exponentially weighted.

Kept beside the parameters, it is what is validated, and each checkpoint leaves it as a network of
its own, PREFIX-ema-0003.params and so on.
"""

import mxnet as mx
import numpy as np

from model import ModelError
from model.checkpoint import Checkpoints

# Pairs that one operator updates. MXNet 1.9.1 takes 60, and writes behind its memory with more.
_AT_ONCE = 50

# In a checkpoint's states: the average of parameter or moving statistic NAME is NAME~.
_MARK = "~"


class Average:
    """The average of arrays, taken at each `update`, where they are.

    decay : weight of the average before; (1 + n) / (10 + n) in the n-th update while that is less,
        as in TensorFlow's ExponentialMovingAverage with `num_updates`, so that what the weights
        were at the start is forgotten.
    weights : name -> NDArray, written by the update. statistics : name -> NDArray, the moving
        statistics. They are averaged too, as in TensorFlow's and timm's training of ImageNet
        networks: those of the batches just before belong to other weights than the average's.
    """

    def __init__(self, decay: float, weights: dict, statistics: dict):
        self.decay = decay
        self.updates = 0
        self._current = {**weights, **statistics}
        self._average = {name: array.copy() for name, array in self._current.items()}
        self._weights = _groups(list(weights))
        # MXNet orders reading a moving statistic neither before nor behind the backward pass that
        # writes it. Behind it is what has the new weights of all layers: an array of each group
        # of them is read too, with a rate of 0, for a blank that it leaves as it is.
        self._behind = [
            min((self._average[name] for name in group), key=lambda array: array.size)
            for group in self._weights
        ]
        self._blank = [mx.nd.zeros_like(array) for array in self._behind]
        self._statistics = _groups(list(statistics), _AT_ONCE - len(self._behind))

    def update(self):
        self.updates += 1
        n = self.updates
        rate = 1 - min(self.decay, (1 + n) / (10 + n))
        for group in self._weights:
            self._move(group, rate)
        for group in self._statistics:
            self._move(group, rate, behind=True)

    def _move(self, group, rate, behind=False):
        averages = [self._average[name] for name in group]
        towards = [self._current[name] for name in group]
        rates = [rate] * len(group)
        if behind:
            averages, towards = averages + self._blank, towards + self._behind
            rates += [0] * len(self._blank)
        # A step of SGD: average - rate * (average - current), for all of them in one operator.
        mx.nd.multi_sgd_update(
            *(array for pair in zip(averages, towards) for array in pair),
            out=averages,
            num_weights=len(averages),
            lrs=rates,
            wds=[1] * len(averages),
            rescale_grad=-1,
        )

    def state(self, crop) -> dict:
        """Return name -> numpy array of all that `restore` needs.

        crop : function (name, numpy array) -> the array as it is saved.
        """
        arrays = {
            f"{name}{_MARK}": crop(name, array.asnumpy()) for name, array in self._average.items()
        }
        return {**arrays, _MARK: np.array([self.updates], np.int64)}

    def restore(self, state: dict, pad):
        """Go on from what `state` gave; what it has not begins with its present value.

        pad : function (name, numpy array as it is saved) -> the array as it runs.
        """
        if _MARK not in state:
            return
        self.updates = int(state[_MARK][0])
        for name, array in self._average.items():
            if f"{name}{_MARK}" in state:
                array[:] = pad(name, state[f"{name}{_MARK}"])


def _groups(names, size=_AT_ONCE) -> list:
    return [names[i : i + size] for i in range(0, len(names), size)]


def has_average(states: dict) -> bool:
    return _MARK in states


def averaged(params: dict, states: dict) -> dict:
    """Return `params`, entry -> array, with the averages that `states` have of them in their
    place."""
    return {
        entry: states.get(f"{entry.partition(':')[2]}{_MARK}", array)
        for entry, array in params.items()
    }


class AveragedCheckpoints(Checkpoints):
    """The generations of one prefix, and for those at the end of an epoch that have an average, the
    generations PREFIX-ema of the averages.

    An average is written before its generation and deleted after it: where the one is there, so is
    the other.
    """

    def __init__(self, prefix):
        super().__init__(prefix)
        self._averages = Checkpoints(f"{prefix}-ema")

    def save(self, place, symbol_json, params, states, run):
        size = 0
        if has_average(states) and not place.batch:
            run_of = {**run, "average_of": self.prefix.name}
            size = self._averages.save(place, symbol_json, averaged(params, states), {}, run_of)
        size += super().save(place, symbol_json, params, states, run)
        if not has_average(states):
            self._remove_averages([place])
        return size

    def annotate(self, place, **additions):
        if self._has_average(place):
            self._averages.annotate(place, **additions)
        super().annotate(place, **additions)

    def remove(self, places):
        places = set(places)
        super().remove(places)
        self._remove_averages(places)

    def _remove_averages(self, places):
        there = set(self.places())
        # One alone is what a kill has left between the two.
        gone = [p for p in self._averages.places() if p in places or p not in there]
        self._averages.remove(place for place in gone if self._has_average(place))

    def _has_average(self, place) -> bool:
        # Or else PREFIX-ema may be a run's own.
        return not place.batch and is_average(self._averages.run(place) or {})

    def best_params_file(self, place):
        """The average's, where there is one: it was validated."""
        best = self._averages if self._has_average(place) else self
        return best.params_file(place)

    def begin_averages(self):
        """Lock PREFIX-ema. Raises ModelError where that is another run's, or can't be written."""
        for place in self._averages.places():
            run = self._averages.run(place)
            unfinished = run is None and self._averages.lock_file.exists()
            if not unfinished and not is_average(run or {}):
                raise ModelError(
                    f"{self._averages.params_file(place)} is not an average of {self.prefix}, and "
                    "--ema would write there: choose another --model-prefix"
                )
        self._averages.lock()


def is_average(run: dict) -> bool:
    """True where `run` (model.checkpoint.Generation) is of the average of another generation."""
    return "average_of" in run
