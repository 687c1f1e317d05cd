"""An MXNet Module whose whole state can be taken out and put back."""

from typing import Dict, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from model.job.cluster import Alone
from model.network.loading import initial_params, ndarray_params, numpy_params
from model.network.running import LOSS_SCALE, RunningNetwork
from model.training import state
from model.training.average import Average, averaged
from model.training.finetune import frozen_params, training_symbol
from model.training.run import Run


class ResumableModule(mx.mod.Module):
    """Module that trains a network, computes the same from the same state, and gives all of its
    state.

    Parameters and states go in and come out as those of the network as it is saved; what runs is
    its `RunningNetwork`. Batches carry `batch.seed`: it decides what dropout draws for them. Those
    of data.mixing have `batch.main_labels`, by which their figures are counted.

    symbol : the network as it is saved. context : list of contexts.
    dtype, memonger : as for `RunningNetwork`. In float16 an update is left out if the gradients
        have overflowed.
    frozen : names of the arguments not to be trained.
    accumulate : batches whose gradients make an update; those at the end of an epoch of `batches`
        may be fewer.
    ema : decay of the average of what is trained (`model.training.average`), 0 for none.
    cluster : the workers that train it. All of them call the methods that take out state.
    """

    def __init__(
        self,
        symbol: mx.sym.Symbol,
        context: list,
        dtype: str = "float32",
        memonger: bool = False,
        frozen: Sequence[str] = (),
        accumulate: int = 1,
        batches: int = 0,
        ema: float = 0,
        cluster: Optional[Alone] = None,
    ):
        self._cluster = cluster or Alone()
        self._saved = symbol
        device_type = context[0].device_type
        self._running = RunningNetwork(symbol, device_type, dtype, memonger=memonger)
        self._loss_scale = LOSS_SCALE if dtype == "float16" else 1
        self._accumulate, self._batches = accumulate, batches
        self._update_is_due = True
        self._sums: Optional[state.GradientSums] = None
        self._ema = ema
        self._main_labels: Optional[list] = None
        self._average: Optional[Average] = None
        self._states_to_restore: Optional[state.Arrays] = None
        super().__init__(self._running.symbol, context=context, fixed_param_names=frozen)

    # Parameters

    def init_params(
        self, initializer=None, arg_params=None, aux_params=None, allow_missing=False, **kwargs
    ) -> None:
        params = numpy_params(arg_params or {}, aux_params or {})
        if arg_params is None or allow_missing:
            # Of the saved shapes: how widely a weight is drawn depends on its shape.
            params = {**numpy_params(*initial_params(self._saved, initializer)), **params}
        padded = {entry: self._running.pad(entry, array) for entry, array in params.items()}
        arg_params, aux_params = ndarray_params(padded)
        super().init_params(None, arg_params, aux_params, **kwargs)

    def get_params(self) -> Tuple[dict, dict]:
        params = numpy_params(*super().get_params())
        return ndarray_params({e: self._running.crop(e, array) for e, array in params.items()})

    def averaged(self, arg_params: dict, aux_params: dict) -> Tuple[dict, dict]:
        """Return the averages of these parameters, themselves if there is no average."""
        if not self._average:
            return arg_params, aux_params
        params = averaged(numpy_params(arg_params, aux_params), self._average_arrays())
        return ndarray_params(params)

    @property
    def averages(self) -> bool:
        """Whether an average of the parameters is kept."""
        return self._ema > 0

    def all_finite(self) -> bool:
        """Return whether no parameter of the first device is NaN or infinite."""
        return _all_finite([block[0] for block in self._exec_group.param_arrays])

    def _sync_params_from_devices(self) -> None:
        # Module averages each weight over the devices, which hold equal copies. The average of
        # three equal numbers need not be that number, and the run would resume from other bits
        # than the kvstore's. Moving statistics do differ, and are averaged as Module does.
        #
        # MXNet 1.9.1 does not order reading a moving statistic after the backward pass that
        # updates it: without the wait, the last batch's update was missing from some, now and then.
        mx.nd.waitall()
        for name, block in zip(self._exec_group.param_names, self._exec_group.param_arrays):
            block[0].copyto(self._arg_params[name])
        devices = state.statistics_of_all(self._statistics(), self._cluster)
        for name in self._exec_group.aux_names:
            mean = sum(statistics[name] for statistics in devices) / np.float32(len(devices))
            self._aux_params[name][:] = mean
        self._params_dirty = False

    # A step of training

    def forward_backward(self, data_batch: mx.io.DataBatch) -> None:
        mx.random.seed(data_batch.seed)
        self._main_labels = getattr(data_batch, "main_labels", None)
        super().forward_backward(data_batch)
        if self._accumulate > 1:
            done = data_batch.number + 1
            self._update_is_due = done % self._accumulate == 0 or done == self._batches

    def update_metric(self, eval_metric, labels, pre_sliced=False) -> None:
        super().update_metric(eval_metric, self._main_labels or labels, pre_sliced)

    def update(self) -> None:
        gradients = self._gradients()
        if self._sums:
            self._params_dirty = True  # the moving statistics are
            batches = self._sums.add(gradients, self._update_is_due)
            if not batches:
                return
            self._optimizer.rescale_grad = self._rescale_grad / batches
        self._cluster.add_up(gradients)
        if self._loss_scale > 1 and not all(map(_all_finite, zip(*gradients.values()))):
            return self._count_update()
        super().update()
        if self._average:
            self._average.update()

    def _count_update(self) -> None:
        """Count an update that is left out: the schedule goes by batches."""
        self._optimizer.begin_num_update += 1
        for counts in self._optimizer._all_index_update_counts.values():
            for index in counts:
                counts[index] += 1

    def _gradients(self) -> Dict[str, list]:
        """Return, for each parameter that is trained, its gradient on each device."""
        group = self._exec_group
        blocks = zip(group.param_names, group.grad_arrays)
        return {name: block for name, block in blocks if block[0] is not None}

    @property
    def gradients_wait(self) -> bool:
        """Whether there are gradients that have made no update yet."""
        return self._sums is not None and self._sums.waiting > 0

    @property
    def learning_rate(self) -> float:
        """Of the last update."""
        return self._optimizer.learning_rate

    def init_optimizer(self, *args, **kwargs) -> None:
        super().init_optimizer(*args, **kwargs)
        self._optimizer.rescale_grad /= self._loss_scale
        if not self._cluster.updates_on_servers:
            self._optimizer.rescale_grad /= self._cluster.workers
        self._rescale_grad = self._optimizer.rescale_grad
        if self._accumulate > 1:
            self._sums = state.GradientSums(self._gradients())
        if self._ema:
            self._average = Average(self._ema, *self._what_is_trained())
        if self._states_to_restore is not None:
            self._put_states(self._states_to_restore)
            self._states_to_restore = None

    # The state beside the parameters, as in model.training.state

    def training_state(self, at_epoch_end: bool) -> state.Arrays:
        """Return all that the parameters don't hold."""
        mx.nd.waitall()  # as in _sync_params_from_devices
        arrays: state.Arrays = {}
        updater = self._any_updater()
        if updater:
            arrays.update(state.optimizer_arrays(updater, self._parameters(), self._crop))
        if not at_epoch_end:
            devices = state.statistics_of_all(self._statistics(), self._cluster)
            arrays.update(state.statistics_arrays(devices, self._crop))
        if self._sums:
            arrays.update(self._sums.arrays(self._crop))
        if self._average:
            arrays.update(self._average_arrays())
        return arrays

    def restore_states(self, states: Optional[state.Arrays]) -> None:
        """Have `init_optimizer` put back what `training_state` gave; None for nothing."""
        self._states_to_restore = states

    def _put_states(self, arrays: state.Arrays) -> None:
        updater = self._any_updater()
        if updater:
            trained = [p for p in self._parameters() if p.name not in self._fixed_param_names]
            state.restore_optimizer(updater, self._optimizer, trained, arrays, self._pad)
        state.restore_statistics(self._statistics(), arrays, self._pad, self._cluster)
        if self._sums:
            self._sums.restore(arrays, self._pad)
        if self._average:
            self._average.restore(arrays, self._pad)

    def _average_arrays(self) -> state.Arrays:
        """The average's state; of moving statistics, which differ by worker, that of worker 0."""
        arrays = self._average.state(self._crop)
        statistics = self._exec_group.aux_names
        differ = {name: array for name, array in arrays.items() if name[:-1] in statistics}
        return {**arrays, **state.broadcast_arrays(differ, 0, self._cluster)}

    def _parameters(self) -> List[state.Parameter]:
        group, devices = self._exec_group, len(self._context)
        found = []
        for index, (name, block) in enumerate(zip(group.param_names, group.param_arrays)):
            keys = (
                [name] if self._update_on_kvstore else range(index * devices, (index + 1) * devices)
            )
            shape = self._running.saved_shapes[f"arg:{name}"]
            found.append(state.Parameter(name, list(keys), block[0], shape))
        return found

    def _statistics(self) -> Dict[str, list]:
        """Each moving statistic on each device."""
        return dict(zip(self._exec_group.aux_names, self._exec_group.aux_arrays))

    def _what_is_trained(self) -> Tuple[dict, dict]:
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

    def _any_updater(self) -> Optional[mx.optimizer.Updater]:
        """The optimizer's states: here, in the local kvstore, or (None) on parameter servers."""
        return self._kvstore._updater if self._update_on_kvstore else self._updater

    def _entry(self, name: str) -> str:
        return f"{'aux' if name in self._exec_group.aux_names else 'arg'}:{name}"

    def _crop(self, name: str, array: np.ndarray) -> np.ndarray:
        return self._running.crop(self._entry(name), array)

    def _pad(self, name: str, array: np.ndarray) -> np.ndarray:
        return self._running.pad(self._entry(name), array)


def _all_finite(arrays: Sequence[mx.nd.NDArray]) -> bool:
    return bool(mx.nd.multi_all_finite(*arrays, num_arrays=len(arrays)).asscalar())


def module_of(run: Run, cluster: Alone) -> ResumableModule:
    """Return the module that trains the network of a run."""
    method, finetuning = run.method, run.plan.finetuning
    frozen = frozen_params(run.symbol, finetuning.freeze)
    symbol = training_symbol(
        run.symbol,
        frozen,
        finetuning.head_lr_mult,
        method.label_smoothing,
        method.no_bias_decay,
    )
    return ResumableModule(
        symbol,
        list(run.contexts),
        run.dtype,
        run.plan.devices.memonger,
        frozen,
        method.accumulate,
        run.batches,
        method.ema,
        cluster,
    )
