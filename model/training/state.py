"""All that training holds in addition to the parameters, as numpy arrays by name, and back.

    NAME:i   the i-th state that the optimizer has of parameter NAME (for nag, its momentum)
    NAME@k   moving statistic NAME on device k of several, within an epoch: each device keeps its
             own, and they are averaged only when the epoch ends; those of worker 0 come first
    NAME+k   sum of the gradients of NAME on device k that wait for those of further batches
    +        number of the batches of these sums
    NAME~    average of NAME over the updates (`model.training.average`)
    ~        number of the updates of that average

These are the names in a checkpoint's .states file. Arrays have the shapes of the network as it is
saved: `crop` and `pad` below are functions (NAME, numpy array) -> numpy array that lead from the
shape in which a network runs to the one in which it is saved, and back.
"""

import functools
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import mxnet as mx
import numpy as np

from model import ModelError
from model.job.cluster import Cluster

Arrays = Dict[str, np.ndarray]
Reshape = Callable[[str, np.ndarray], np.ndarray]

# The optimizer's


class Parameter(NamedTuple):
    """A parameter that an updater (mx.optimizer.Updater) knows.

    keys : the updater's, one for each copy of the parameter that it updates.
    weight : a copy. shape : as it is saved.
    """

    name: str
    keys: list
    weight: mx.nd.NDArray
    shape: Tuple[int, ...]


def optimizer_arrays(
    updater: mx.optimizer.Updater, parameters: List[Parameter], crop: Reshape
) -> Arrays:
    """Return ``NAME:i``. All copies of a parameter have equal states: those of the first count."""
    return {
        f"{each.name}:{i}": crop(each.name, slot.asnumpy())
        for each in parameters
        for i, slot in enumerate(_slots(updater.states.get(each.keys[0])))
    }


def restore_optimizer(
    updater: mx.optimizer.Updater,
    optimizer: mx.optimizer.Optimizer,
    parameters: List[Parameter],
    arrays: Arrays,
    pad: Reshape,
) -> None:
    """Give `updater` the states ``NAME:i``; if there are none at all, they begin at zero.

    Raises ModelError if one is missing, has another shape, or is of no parameter.
    """
    unknown = {key for key in arrays if ":" in key}
    if not unknown:
        return
    for parameter in parameters:
        for key in parameter.keys:
            state = optimizer.create_state_multi_precision(key, parameter.weight)
            for i, slot in enumerate(_slots(state)):
                name = f"{parameter.name}:{i}"
                slot[:] = pad(parameter.name, _checked(name, arrays.get(name), parameter.shape))
                unknown.discard(name)
            updater.states[key] = state
            # Not yet on the device of its weight: the updater moves it there.
            updater.states_synced[key] = False
    if unknown:
        raise ModelError(f"optimizer state {min(unknown)} has no place in this network")


def _checked(name: str, saved: Optional[np.ndarray], shape: Tuple[int, ...]) -> np.ndarray:
    if saved is None or saved.shape != shape:
        found = "missing" if saved is None else f"of shape {saved.shape}"
        raise ModelError(
            f"optimizer state {name} is {found}, not {shape}: saved from another network or "
            "optimizer?"
        )
    return saved


def _slots(state: Any) -> Tuple[mx.nd.NDArray, ...]:
    """The arrays of an optimizer's state: None, an array, or a tuple of these."""
    if state is None:
        return ()
    if isinstance(state, (tuple, list)):
        return tuple(slot for part in state for slot in _slots(part))
    return (state,)


# Moving statistics


def statistics_of_all(blocks: Dict[str, list], cluster: Cluster) -> List[Arrays]:
    """Return, for each device of each worker, name -> moving statistic; all workers call it.

    blocks : name -> the statistic on each device of this worker.
    """
    devices = len(next(iter(blocks.values()), ()))
    own = [{name: block[k].asnumpy() for name, block in blocks.items()} for k in range(devices)]
    own = own or [{}]  # a network without moving statistics
    return [
        _unpacked(values, own[0])
        for received in cluster.gather(b"".join(map(_packed, own)))
        for values in np.frombuffer(received, np.float32).reshape(len(own), -1)
    ]


def statistics_arrays(devices: List[Arrays], crop: Reshape) -> Arrays:
    """Return ``NAME@k`` of what `statistics_of_all` gave; nothing of a single device, whose
    statistics are the network's own."""
    if len(devices) < 2:
        return {}
    return {
        f"{name}@{k}": crop(name, array)
        for k, statistics in enumerate(devices)
        for name, array in statistics.items()
    }


def restore_statistics(
    blocks: Dict[str, list], arrays: Arrays, pad: Reshape, cluster: Cluster
) -> None:
    """Give each device of this worker its own ``NAME@k``.

    From a checkpoint of another number of devices, all keep their average, which they have.
    """
    for name, block in blocks.items():
        saved = sum(key.startswith(f"{name}@") for key in arrays)
        if saved == len(block) * cluster.workers > 1:
            for k, array in enumerate(block, start=len(block) * cluster.rank):
                array[:] = pad(name, arrays[f"{name}@{k}"])


# Between workers


def broadcast_arrays(arrays: Arrays, source: int, cluster: Cluster) -> Arrays:
    """Return the float32 arrays that worker `source` has of these names and shapes."""
    received = cluster.broadcast(_packed(arrays), source)
    return _unpacked(np.frombuffer(received, np.float32), arrays)


def _packed(arrays: Arrays) -> bytes:
    return b"".join(array.tobytes() for array in arrays.values())


def _unpacked(values: np.ndarray, like: Arrays) -> Arrays:
    """Return what `_packed` has packed, arrays of the names and shapes of `like`."""
    ends = np.cumsum([array.size for array in like.values()], dtype=int)[:-1]
    parts = np.split(values, ends)
    return {name: part.reshape(like[name].shape) for name, part in zip(like, parts)}


# Gradients that wait


class GradientSums:
    """Sums of the gradients of several batches, for one update of all of them.

    gradients : name -> the gradient on each device, of every parameter that is trained.
    """

    def __init__(self, gradients: Dict[str, list]):
        #: Batches whose gradients have made no update yet.
        self.waiting = 0
        self._sums = {
            name: [mx.nd.zeros_like(array) for array in block] for name, block in gradients.items()
        }

    def add(self, gradients: Dict[str, list], is_due: bool) -> int:
        """Add the gradients of one more batch to those that wait.

        If an update `is_due`, `gradients` hold the sums afterwards, and none wait. Return the
        number of their batches, 0 if no update is due.
        """
        self.waiting += 1
        for name, sums in self._sums.items():
            for gradient, total in zip(gradients[name], sums):
                if is_due:
                    gradient += total
                elif self.waiting == 1:
                    gradient.copyto(total)
                else:
                    total += gradient
        if not is_due:
            return 0
        batches, self.waiting = self.waiting, 0
        for sums in self._sums.values():
            for total in sums:
                total[:] = 0
        return batches

    def arrays(self, crop: Reshape) -> Arrays:
        """Return ``+`` and ``NAME+k``; nothing if no gradients wait."""
        if not self.waiting:
            return {}
        arrays = {"+": np.array([self.waiting], np.int64)}
        for name, sums in self._sums.items():
            for k, total in enumerate(sums):
                arrays[f"{name}+{k}"] = crop(name, total.asnumpy())
        return arrays

    def restore(self, arrays: Arrays, pad: Reshape) -> None:
        """Take over ``+`` and ``NAME+k``, if they are there."""
        if "+" not in arrays:
            return
        self.waiting = int(arrays["+"][0])
        for name, sums in self._sums.items():
            devices = sum(key.startswith(f"{name}+") for key in arrays)
            saved = [arrays[f"{name}+{k}"] for k in range(devices)]
            if len(saved) != len(sums):
                # Of another number of devices: an update adds them all up anyway.
                saved = [functools.reduce(np.add, saved)] + [np.zeros_like(saved[0])] * (
                    len(sums) - 1
                )
            for total, array in zip(sums, saved):
                total[:] = pad(name, array)
