"""An MXNet Module whose whole state can be taken out and put back, whatever shape it runs in."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from model.job.cluster import Cluster
from model.network.params import ndarray_params, numpy_params
from model.network.running import RunningModule
from model.training import state
from model.training.average import Average, averaged, what_is_averaged
from model.training.batches import class_weights
from model.training.finetune import frozen_params, training_symbol
from model.training.run import Run

Params = Dict[str, mx.nd.NDArray]


class SynchronizedModule(RunningModule):
    """Module whose parameters come out the same on all workers.

    cluster : the workers that train it: all of them call `get_params`. The other arguments are
    those of RunningModule.
    """

    def __init__(self, *args: Any, cluster: Cluster, **kwargs: Any):
        self._cluster = cluster
        super().__init__(*args, **kwargs)

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
        devices = state.statistics_of_all(self.statistics(), self._cluster)
        for name in self._exec_group.aux_names:
            mean = sum(statistics[name] for statistics in devices) / np.float32(len(devices))
            self._aux_params[name][:] = mean
        self._params_dirty = False

    def statistics(self) -> Dict[str, list]:
        """Return each moving statistic on each device."""
        return dict(zip(self._exec_group.aux_names, self._exec_group.aux_arrays))


class ResumableModule(SynchronizedModule):
    """Module that computes the same from the same state, and gives all of its state.

    Batches carry `batch.seed`: it decides what dropout draws for them. Those of data.mixing have
    `batch.main_labels`, by which their figures are counted.

    symbol : the network as it is saved.
    dtype, memonger : as for `RunningNetwork`. In float16 an update is left out if the gradients
        have overflowed.
    frozen : names of the arguments not to be trained.
    accumulate : batches whose gradients make an update; those at the end of an epoch of `batches`
        may be fewer.
    ema : decay of the average of what is trained (`model.training.average`), 0 for none.
    cluster : the workers that train it. All of them call the methods that take out state.
    weighted : as for `RunningModule`.
    """

    def __init__(
        self,
        symbol: mx.sym.Symbol,
        context: List[mx.Context],
        dtype: str = "float32",
        memonger: bool = False,
        frozen: Sequence[str] = (),
        accumulate: int = 1,
        batches: int = 0,
        ema: float = 0,
        cluster: Optional[Cluster] = None,
        weighted: bool = False,
    ):
        self._accumulate, self._batches = accumulate, batches
        self._update_is_due = True
        self._main_labels: Optional[list] = None
        self._sums: Optional[state.GradientSums] = None
        self._ema = ema
        self._average: Optional[Average] = None
        self._states_to_restore: Optional[state.Arrays] = None
        super().__init__(
            symbol,
            context,
            dtype,
            memonger,
            weighted,
            cluster=cluster or Cluster(),
            fixed_param_names=frozen,
        )

    # A step of training

    def forward_backward(self, data_batch: mx.io.DataBatch) -> None:
        mx.random.seed(data_batch.seed)
        self._main_labels = getattr(data_batch, "main_labels", None)
        super().forward_backward(data_batch)
        if self._accumulate > 1:
            done = data_batch.number + 1
            self._update_is_due = done % self._accumulate == 0 or done == self._batches

    def update_metric(
        self, eval_metric: mx.metric.EvalMetric, labels: list, pre_sliced: bool = False
    ) -> None:
        super().update_metric(eval_metric, self._main_labels or labels, pre_sliced)

    def update(self) -> None:
        gradients = self.gradients()
        if self._sums:
            self._params_dirty = True  # the moving statistics are
            batches = self._sums.add(gradients, self._update_is_due)
            if not batches:
                return
            self._optimizer.rescale_grad = self._rescale_grad / batches
        self._cluster.add_up(gradients)
        if self.loss_scale > 1 and not all(map(_all_finite, zip(*gradients.values()))):
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

    def gradients(self) -> Dict[str, list]:
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

    def init_optimizer(self, *args: Any, **kwargs: Any) -> None:
        super().init_optimizer(*args, **kwargs)
        self._optimizer.rescale_grad /= self.loss_scale
        if not self._cluster.updates_on_servers:
            self._optimizer.rescale_grad /= self._cluster.workers
        self._rescale_grad = self._optimizer.rescale_grad
        if self._accumulate > 1:
            self._sums = state.GradientSums(self.gradients())
        if self._ema:
            weights = dict(zip(self._exec_group.param_names, self._exec_group.param_arrays))
            self._average = Average(
                self._ema, *what_is_averaged(weights, self.statistics(), self._fixed_param_names)
            )
        if self._states_to_restore is not None:
            self._put_states(self._states_to_restore)
            self._states_to_restore = None

    # The average of the parameters

    @property
    def keeps_average(self) -> bool:
        """Whether an average of the parameters is kept."""
        return self._ema > 0

    def averaged(self, arg_params: Params, aux_params: Params) -> Tuple[Params, Params]:
        """Return the averages of these parameters, themselves if there is no average."""
        if not self._average:
            return arg_params, aux_params
        params = averaged(numpy_params(arg_params, aux_params), self._average_arrays())
        return ndarray_params(params)

    def _average_arrays(self) -> state.Arrays:
        """The average's state; of moving statistics, which differ by worker, that of worker 0."""
        if not self._average:
            return {}
        arrays = self._average.state(self.saved_form)
        statistics = self._exec_group.aux_names
        differ = {name: array for name, array in arrays.items() if name[:-1] in statistics}
        return {**arrays, **state.broadcast_arrays(differ, 0, self._cluster)}

    # The state in addition to the parameters, as in model.training.state

    def training_state(self, at_epoch_end: bool) -> state.Arrays:
        """Return all that the parameters don't hold."""
        mx.nd.waitall()  # as in _sync_params_from_devices
        arrays: state.Arrays = {}
        updater = self._any_updater()
        if updater:
            arrays.update(state.optimizer_arrays(updater, self._parameters(), self.saved_form))
        if not at_epoch_end:
            devices = state.statistics_of_all(self.statistics(), self._cluster)
            arrays.update(state.statistics_arrays(devices, self.saved_form))
        if self._sums:
            arrays.update(self._sums.arrays(self.saved_form))
        return {**arrays, **self._average_arrays()}

    def restore_states(self, states: Optional[state.Arrays]) -> None:
        """Have `init_optimizer` put back what `training_state` gave; None for nothing."""
        self._states_to_restore = states

    def _put_states(self, arrays: state.Arrays) -> None:
        updater = self._any_updater()
        if updater:
            trained = [p for p in self._parameters() if p.name not in self._fixed_param_names]
            state.restore_optimizer(updater, self._optimizer, trained, arrays, self.running_form)
        state.restore_statistics(self.statistics(), arrays, self.running_form, self._cluster)
        if self._sums:
            self._sums.restore(arrays, self.running_form)
        if self._average:
            self._average.restore(arrays, self.running_form)

    def _parameters(self) -> List[state.Parameter]:
        group, devices = self._exec_group, len(self._context)
        found = []
        for index, (name, block) in enumerate(zip(group.param_names, group.param_arrays)):
            first = index * devices
            keys = [name] if self._update_on_kvstore else list(range(first, first + devices))
            shape = self.saved_shape(name)
            found.append(state.Parameter(name, keys, block[0], shape))
        return found

    def _any_updater(self) -> Optional[mx.optimizer.Updater]:
        """The optimizer's states: here, in the local kvstore, or (None) on parameter servers."""
        return self._kvstore._updater if self._update_on_kvstore else self._updater


def _all_finite(arrays: Sequence[mx.nd.NDArray]) -> bool:
    return bool(mx.nd.multi_all_finite(*arrays, num_arrays=len(arrays)).asscalar())


def module_of(run: Run, cluster: Cluster) -> ResumableModule:
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
        class_weights(run.plan, run.images) is not None,
    )
