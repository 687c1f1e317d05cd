"""An MXNet Module whose whole state can be taken out and put back."""

import mxnet as mx
import numpy as np

from model import ModelError
from model.job.cluster import Alone
from model.network.loading import initial_params, ndarray_params, numpy_params
from model.network.running import LOSS_SCALE, RunningNetwork
from model.training.average import Average, averaged


class ResumableModule(mx.mod.Module):
    """Module that trains a network, computes the same from the same state, and gives all of its
    state.

    Parameters and states go in and come out as those of the network as it is saved; what runs is
    its `RunningNetwork`. Batches carry `batch.seed`: it decides what dropout draws for them.

    symbol : the network as it is saved. context : list of contexts.
    dtype, memonger : as for `RunningNetwork`. In float16 an update is left out where the gradients
    have overflowed.
    frozen : names of the arguments not to be trained.
    accumulate : batches whose gradients make an update; those at the end of an epoch of `batches`
    may be fewer. ema : decay of the average of what is trained (`average`), 0 for none.
    cluster : the workers that train it. What takes out state, all of them call.
    """

    def __init__(
        self,
        symbol,
        context: list,
        dtype: str = "float32",
        memonger: bool = False,
        frozen: list = (),
        accumulate: int = 1,
        batches: int = 0,
        ema: float = 0,
        cluster=None,
    ):
        self._cluster = cluster or Alone()
        self._saved = symbol
        device_type = context[0].device_type
        self._running = RunningNetwork(symbol, device_type, dtype, memonger=memonger)
        self._loss_scale = LOSS_SCALE if dtype == "float16" else 1
        self._accumulate, self._batches = accumulate, batches
        # Batches whose gradients wait for others, and their sums: for each parameter, by device.
        self._waiting, self._sums = 0, []
        self._ema, self._average = ema, None
        super().__init__(self._running.symbol, context=context, fixed_param_names=frozen)

    def init_params(
        self, initializer=None, arg_params=None, aux_params=None, allow_missing=False, **kwargs
    ):
        params = numpy_params(arg_params or {}, aux_params or {})
        if arg_params is None or allow_missing:
            # Of the saved shapes: how widely a weight is drawn depends on its shape.
            params = {**numpy_params(*initial_params(self._saved, initializer)), **params}
        padded = {entry: self._running.pad(entry, array) for entry, array in params.items()}
        arg_params, aux_params = ndarray_params(padded)
        super().init_params(None, arg_params, aux_params, **kwargs)

    def get_params(self):
        params = numpy_params(*super().get_params())
        return ndarray_params({e: self._running.crop(e, array) for e, array in params.items()})

    def forward_backward(self, data_batch):
        mx.random.seed(data_batch.seed)
        super().forward_backward(data_batch)
        if self._accumulate > 1:
            done = data_batch.number + 1
            self._due = done % self._accumulate == 0 or done == self._batches

    def update(self):
        if self._accumulate > 1 and not self._accumulated():
            return
        self._cluster.add_up(self._gradients())
        if self._loss_scale == 1 or self._gradients_are_finite():
            super().update()
            if self._average:
                self._average.update()
            return
        # float16 has overflowed: the update is left out, and counted, since the schedule goes by
        # batches.
        self._optimizer.begin_num_update += 1
        for counts in self._optimizer._all_index_update_counts.values():
            for index in counts:
                counts[index] += 1

    def _accumulated(self) -> bool:
        """Add the gradients of the batches that wait, if an update is due, or have them wait."""
        self._waiting += 1
        self._params_dirty = True  # the moving statistics
        for gradients, sums in zip(self._exec_group.grad_arrays, self._sums):
            for gradient, total in zip(gradients, sums):
                if self._due:
                    gradient += total
                elif self._waiting == 1:
                    gradient.copyto(total)
                else:
                    total += gradient
        if self._due:
            self._optimizer.rescale_grad = self._rescale_grad / self._waiting
            self._clear_sums()
        return self._due

    def _clear_sums(self):
        self._waiting = 0
        for sums in self._sums:
            for total in sums:
                total[:] = 0

    @property
    def gradients_wait(self) -> bool:
        """Whether there are gradients that have made no update yet."""
        return self._waiting > 0

    def averaged(self, arg_params: dict, aux_params: dict) -> tuple:
        """Return the averages of these parameters, themselves where there is no average."""
        if not self._average:
            return arg_params, aux_params
        params = averaged(numpy_params(arg_params, aux_params), self._state_of_average())
        return ndarray_params(params)

    def _state_of_average(self) -> dict:
        """The average's state; of moving statistics, which differ by worker, that of worker 0."""
        state = self._average.state(self._cropped)
        statistics = self._exec_group.aux_names
        differ = {name: array for name, array in state.items() if name[:-1] in statistics}
        received = self._cluster.broadcast(_packed(differ), 0)
        return {**state, **_unpacked(np.frombuffer(received, np.float32), differ)}

    def _gradients(self) -> dict:
        """Return, for each parameter that is trained, its gradient on each device."""
        group = self._exec_group
        blocks = zip(group.param_names, group.grad_arrays)
        return {name: block for name, block in blocks if block[0] is not None}

    def _gradients_are_finite(self) -> bool:
        return all(map(_all_finite, zip(*self._gradients().values())))

    def init_optimizer(self, *args, **kwargs):
        super().init_optimizer(*args, **kwargs)
        self._optimizer.rescale_grad /= self._loss_scale
        if not self._cluster.updates_on_servers:
            self._optimizer.rescale_grad /= self._cluster.workers
        self._rescale_grad = self._optimizer.rescale_grad
        if self._accumulate > 1:
            self._sums = [
                [] if block[0] is None else [mx.nd.zeros_like(array) for array in block]
                for block in self._exec_group.grad_arrays
            ]
        if self._ema:
            self._average = Average(self._ema, *self._what_is_trained())
        if self._states_to_restore is not None:
            self._put_states(self._states_to_restore)
            self._states_to_restore = None

    _states_to_restore = None

    def restore_states(self, states: dict):
        """Have `init_optimizer` put back what `training_state` gave."""
        self._states_to_restore = states

    def _what_is_trained(self) -> tuple:
        """(weights, moving statistics), name -> NDArray on the first device, but for frozen ones"""
        group = self._exec_group
        weights = dict(zip(group.param_names, group.param_arrays))
        frozen = self._fixed_param_names
        normalised = {name[: -len("gamma")] for name in weights if name.endswith("_gamma")}
        of_frozen = tuple(prefix for prefix in normalised if f"{prefix}gamma" in frozen)
        statistics = zip(group.aux_names, group.aux_arrays)
        return (
            {name: block[0] for name, block in weights.items() if name not in frozen},
            {name: block[0] for name, block in statistics if not name.startswith(of_frozen)},
        )

    def _entry(self, name):
        return f"{'aux' if name in self._exec_group.aux_names else 'arg'}:{name}"

    def _cropped(self, name, array):
        return self._running.crop(self._entry(name), array)

    def training_state(self, at_epoch_end: bool) -> dict:
        """Return name -> numpy array of all that the parameters don't hold.

        ``NAME:i`` is the i-th optimizer state of parameter NAME (momentum, for nag), ``NAME~`` its
        average. Within an epoch, ``NAME@k`` is the moving statistic NAME on device k of several,
        those of worker 0 first: each keeps its own, and `fit` averages them only when the epoch
        ends. ``NAME+k`` is the sum of the gradients on device k that wait for others, and ``+`` the
        number of their batches.
        """
        arrays = {}
        mx.nd.waitall()  # as in _sync_params_from_devices
        updater = self._any_updater()
        for index, name in enumerate(self._exec_group.param_names):
            for key in self._state_keys(index, name)[:1]:
                slots = _as_slots(updater.states.get(key)) if updater else ()
                for i, slot in enumerate(slots):
                    arrays[f"{name}:{i}"] = self._running.crop(f"arg:{name}", slot.asnumpy())
        if not at_epoch_end:
            devices = self._moving_statistics_of_all()
            if len(devices) > 1:
                for k, statistics in enumerate(devices):
                    for name, array in statistics.items():
                        arrays[f"{name}@{k}"] = self._running.crop(f"aux:{name}", array)
        if self._waiting:
            arrays["+"] = np.array([self._waiting], np.int64)
            for name, sums in zip(self._exec_group.param_names, self._sums):
                for k, total in enumerate(sums):
                    arrays[f"{name}+{k}"] = self._cropped(name, total.asnumpy())
        if self._average:
            arrays.update(self._state_of_average())
        return arrays

    def _moving_statistics_of_all(self) -> list:
        """Return, for each device of each worker, name -> numpy array."""
        blocks = dict(zip(self._exec_group.aux_names, self._exec_group.aux_arrays))
        own = [
            {name: block[k].asnumpy() for name, block in blocks.items()}
            for k in range(len(self._context))
        ]
        return [
            _unpacked(values, own[0])
            for received in self._cluster.gather(b"".join(map(_packed, own)))
            for values in np.frombuffer(received, np.float32).reshape(len(own), -1)
        ]

    def _put_states(self, arrays):
        updater = self._any_updater()
        if not any(":" in key for key in arrays):
            updater = None  # saved without optimizer states: they begin at zero
        used = set()
        for index, name in enumerate(self._exec_group.param_names):
            if name in self._fixed_param_names:
                continue
            weight = self._exec_group.param_arrays[index][0]
            shape = self._running.saved_shapes[f"arg:{name}"]
            for key in self._state_keys(index, name) if updater else ():
                state = self._optimizer.create_state_multi_precision(key, weight)
                for i, slot in enumerate(_as_slots(state)):
                    saved = arrays.get(f"{name}:{i}")
                    if saved is None or saved.shape != shape:
                        found = "missing" if saved is None else f"of shape {saved.shape}"
                        raise ModelError(
                            f"optimizer state {name}:{i} is {found}, not {shape}: "
                            "saved from another network or optimizer?"
                        )
                    slot[:] = self._running.pad(f"arg:{name}", saved)
                    used.add(f"{name}:{i}")
                updater.states[key] = state
                # Not yet on the device of its weight: the updater moves it there.
                updater.states_synced[key] = False
        for name, block in zip(self._exec_group.aux_names, self._exec_group.aux_arrays):
            # A checkpoint of another number of devices keeps to the average, which is set already.
            devices = len(block) * self._cluster.workers
            if sum(key.startswith(f"{name}@") for key in arrays) == devices > 1:
                for k, array in enumerate(block, start=len(block) * self._cluster.rank):
                    array[:] = self._running.pad(f"aux:{name}", arrays[f"{name}@{k}"])
        if "+" in arrays and self._accumulate > 1:
            self._put_sums(arrays)
        if self._average:
            self._average.restore(arrays, lambda n, a: self._running.pad(self._entry(n), a))
        unknown = [key for key in arrays if ":" in key and key not in used]
        if updater and unknown:
            raise ModelError(f"optimizer state {unknown[0]} has no place in this network")

    def _put_sums(self, arrays):
        self._waiting = int(arrays["+"][0])
        for name, sums in zip(self._exec_group.param_names, self._sums):
            devices = sum(key.startswith(f"{name}+") for key in arrays)
            saved = [arrays[f"{name}+{k}"] for k in range(devices)] if sums else []
            if len(saved) != len(sums):
                # Of another number of devices: an update adds them all up anyway.
                saved = [sum(saved)] + [np.zeros_like(saved[0])] * (len(sums) - 1)
            for total, array in zip(sums, saved):
                total[:] = self._running.pad(f"arg:{name}", array)

    def _any_updater(self):
        """The optimizer's states: here, in the local kvstore, or (None) on parameter servers."""
        return self._kvstore._updater if self._update_on_kvstore else self._updater

    def _state_keys(self, index, name):
        if self._update_on_kvstore:
            return [name]
        devices = len(self._context)
        return [index * devices + k for k in range(devices)]

    def _sync_params_from_devices(self):
        # Module averages each weight over the devices, which hold equal copies. The average of
        # three equal numbers need not be that number, and the run would go on from other bits
        # than the kvstore's. Moving statistics do differ, and are averaged as Module does.
        #
        # MXNet 1.9.1 does not order reading a moving statistic behind the backward pass that
        # updates it: without the wait, the last batch's update was missing from some, now and then.
        mx.nd.waitall()
        for name, block in zip(self._exec_group.param_names, self._exec_group.param_arrays):
            block[0].copyto(self._arg_params[name])
        devices = self._moving_statistics_of_all()
        for name in self._exec_group.aux_names:
            mean = sum(statistics[name] for statistics in devices) / np.float32(len(devices))
            self._aux_params[name][:] = mean
        self._params_dirty = False

    @property
    def learning_rate(self) -> float:
        """Of the last update."""
        return self._optimizer.learning_rate

    def all_finite(self) -> bool:
        """True where no parameter of the first device is NaN or infinite."""
        return _all_finite([block[0] for block in self._exec_group.param_arrays])


def _packed(arrays: dict) -> bytes:
    return b"".join(array.tobytes() for array in arrays.values())


def _unpacked(values: np.ndarray, like: dict) -> dict:
    """Return what `_packed` has packed, arrays of the names and shapes of `like`."""
    ends = np.cumsum([array.size for array in like.values()], dtype=int)[:-1]
    parts = np.split(values, ends)
    return {name: part.reshape(like[name].shape) for name, part in zip(like, parts)}


def _all_finite(arrays) -> bool:
    return bool(mx.nd.multi_all_finite(*arrays, num_arrays=len(arrays)).asscalar())


def _as_slots(state) -> tuple:
    if state is None:
        return ()
    if isinstance(state, (tuple, list)):
        return tuple(slot for part in state for slot in _as_slots(part))
    return (state,)
