"""The average of the parameters over a run (Polyak and Juditsky 1992), exponentially weighted.

It is what is validated. Each checkpoint also leaves it as a network of its own,
PREFIX-ema-0003.params and so on.
"""

from pathlib import Path
from typing import Callable, Collection, Dict, Iterable, List, Sequence, Tuple

import mxnet as mx
import numpy as np

from log.files import PathLike
from model import ModelError
from model.checkpoint import Checkpoints, Place
from model.checkpoint.format import RunState

NDArrays = Dict[str, mx.nd.NDArray]
Arrays = Dict[str, np.ndarray]

# Pairs that one operator updates. MXNet 1.9.1 takes 60; with more it writes past its memory.
_AT_ONCE = 50

# In a checkpoint's states: the average of parameter or moving statistic NAME is NAME~.
_MARK = "~"


class Average:
    """The average of arrays, taken at each `update`, where they are.

    decay : weight of the previous average; (1 + n) / (10 + n) in the n-th update while that is
        less, as in TensorFlow's ExponentialMovingAverage with `num_updates`: so the weights of the
        start are forgotten.
    weights : name -> NDArray, written by the update.
    statistics : name -> NDArray, the moving statistics. They are averaged too, as in TensorFlow's
        and timm's training of ImageNet networks: the last batches' statistics belong to the last
        weights, not to the average of them.
    """

    def __init__(self, decay: float, weights: NDArrays, statistics: NDArrays):
        self.decay = decay
        self.updates = 0
        self._current = {**weights, **statistics}
        self._average = {name: array.copy() for name, array in self._current.items()}
        self._weights = _groups(list(weights))
        # MXNet orders reading a moving statistic neither before nor after the backward pass that
        # writes it. What reads the new weights comes after it. So one averaged weight of each group
        # is read together with the statistics, at a rate of 0, for a blank that stays as it is.
        self._after = [
            min((self._average[name] for name in group), key=lambda array: array.size)
            for group in self._weights
        ]
        self._blank = [mx.nd.zeros_like(array) for array in self._after]
        self._statistics = _groups(list(statistics), _AT_ONCE - len(self._after))

    def update(self) -> None:
        self.updates += 1
        n = self.updates
        rate = 1 - min(self.decay, (1 + n) / (10 + n))
        for group in self._weights:
            self._move(group, rate)
        for group in self._statistics:
            self._move(group, rate, after_weights=True)

    def _move(self, group: List[str], rate: float, after_weights: bool = False) -> None:
        averages = [self._average[name] for name in group]
        towards = [self._current[name] for name in group]
        rates = [rate] * len(group)
        if after_weights:
            averages, towards = averages + self._blank, towards + self._after
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

    def state(self, crop: Callable[[str, np.ndarray], np.ndarray]) -> Arrays:
        """Return name -> numpy array of all that `restore` needs.

        crop : function (name, numpy array) -> the array as it is saved.
        """
        arrays = {
            f"{name}{_MARK}": crop(name, array.asnumpy()) for name, array in self._average.items()
        }
        return {**arrays, _MARK: np.array([self.updates], np.int64)}

    def restore(self, state: Arrays, pad: Callable[[str, np.ndarray], np.ndarray]) -> None:
        """Resume from what `state` gave; what it lacks starts with its present value.

        pad : function (name, numpy array as it is saved) -> the array as it runs.
        """
        if _MARK not in state:
            return
        self.updates = int(state[_MARK][0])
        for name, array in self._average.items():
            if f"{name}{_MARK}" in state:
                array[:] = pad(name, state[f"{name}{_MARK}"])


def what_is_averaged(
    weights: Dict[str, list], statistics: Dict[str, list], frozen: Sequence[str]
) -> Tuple[NDArrays, NDArrays]:
    """Return the weights and moving statistics of the first device that training changes.

    weights, statistics : name -> array on each device. frozen : weights that are not trained. The
        BatchNorms of frozen gammas keep their statistics.
    """
    prefixes = [name[: -len("gamma")] for name in frozen if name.endswith("_gamma")]
    return (
        {name: block[0] for name, block in weights.items() if name not in frozen},
        {
            name: block[0]
            for name, block in statistics.items()
            if not name.startswith(tuple(prefixes))
        },
    )


def _groups(names: List[str], size: int = _AT_ONCE) -> List[List[str]]:
    return [names[i : i + size] for i in range(0, len(names), size)]


def has_average(states: Arrays) -> bool:
    return _MARK in states


def averaged(params: Arrays, states: Arrays) -> Arrays:
    """Return `params`, entry -> array, each replaced by its average in `states` if it has one."""
    return {
        entry: states.get(f"{entry.partition(':')[2]}{_MARK}", array)
        for entry, array in params.items()
    }


class AveragedCheckpoints(Checkpoints):
    """The generations of one prefix and, for those at the end of an epoch that have an average, the
    averages as generations of PREFIX-ema.

    An average is written before its generation and deleted after it: no generation lacks its
    average.
    """

    def __init__(self, prefix: PathLike):
        super().__init__(prefix)
        self._averages = Checkpoints(f"{prefix}-ema")

    def save(
        self, place: Place, symbol_json: str, params: Arrays, states: Arrays, run: RunState
    ) -> int:
        size = 0
        if has_average(states) and not place.batch:
            run_of = {**run, "average_of": self.prefix.name}
            size = self._averages.save(place, symbol_json, averaged(params, states), {}, run_of)
        size += super().save(place, symbol_json, params, states, run)
        if not has_average(states):
            self._remove_averages([place])
        return size

    def annotate(self, place: Place, **additions: object) -> None:
        if self._has_average(place):
            self._averages.annotate(place, **additions)
        super().annotate(place, **additions)

    def remove(self, places: Iterable[Place]) -> None:
        removed = set(places)
        super().remove(removed)
        self._remove_averages(removed)

    def _remove_averages(self, places: Collection[Place]) -> None:
        there = set(self.places())
        # An average without its generation is what a kill between the two has left.
        gone = [p for p in self._averages.places() if p in places or p not in there]
        self._averages.remove(place for place in gone if self._has_average(place))

    def _has_average(self, place: Place) -> bool:
        # PREFIX-ema may be the prefix of another run.
        return not place.batch and is_average(self._averages.run(place) or {})

    def best_params_file(self, place: Place) -> Path:
        """Return the file of the average, if there is one: it is what was validated."""
        best = self._averages if self._has_average(place) else self
        return best.params_file(place)

    def lock_averages(self) -> None:
        """Lock PREFIX-ema. Raises ModelError if that is another run's, or can't be written."""
        for place in self._averages.places():
            run = self._averages.run(place)
            unfinished = run is None and self._averages.lock_file.exists()
            if not unfinished and not is_average(run or {}):
                raise ModelError(
                    f"{self._averages.params_file(place)} is not an average of {self.prefix}, and "
                    "--ema would write there: choose another --model-prefix"
                )
        self._averages.lock()


def is_average(run: RunState) -> bool:
    """Return whether `run`, of a generation, is of the average of another generation."""
    return "average_of" in run
