"""What a parameter server does: adds up what the workers push, by worker (model.job.sums), or, with
dist_async, updates the parameters with each push."""

import ctypes
from typing import Any, Callable, Dict, NoReturn, Tuple

import mxnet as mx
import numpy as np

from log.files import unpickle
from model.job.sums import adds_in_order
from model.training.optimizers import OPTIMIZERS
from model.training.schedule import Schedule, Scheduler


def run_server(
    kvstore: mx.kv.KVStore,
    kv_store: str,
    workers: int,
    servers: int,
    end: Callable[[str], NoReturn],
) -> None:
    """Be a server, or the scheduler, until the workers have left. end : called with a line that
    says why, ends the process."""

    def ending(function: Callable[..., object]) -> Callable[..., None]:
        # C++ would have an exception printed, and continue.
        def call(*args: object) -> None:
            try:
                function(*args)
            except Exception as error:
                end(f"a server can't continue: {type(error).__name__}: {error}")

        return call

    def control(head: int, body: bytes, _: object) -> None:
        if head != 0:
            return
        if adds_in_order(kv_store, workers):
            kvstore._set_updater(ending(OrderedSum(workers, servers)))
        elif "_async" in kv_store:
            # A pickle may name any function to call, and anyone who reaches a port may send one.
            optimizer = unpickle(body, _OF_AN_OPTIMIZER)
            kvstore._set_updater(ending(mx.optimizer.get_updater(optimizer)))

    prototype = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    mx.base.check_call(
        mx.base._LIB.MXKVStoreRunServer(kvstore.handle, prototype(ending(control)), None)
    )


def _name_of(cls: type) -> Tuple[str, str]:
    return cls.__module__, cls.__name__


#: What the pickle of an optimizer, which a worker sends, may name.
_OF_AN_OPTIMIZER = frozenset(
    (
        *(_name_of(mx.optimizer.Optimizer.opt_registry[name]) for name in OPTIMIZERS),
        *map(_name_of, (mx.lr_scheduler.MultiFactorScheduler, Scheduler, Schedule)),
        # How Python writes an object of any class.
        ("copy_reg", "_reconstructor"),
        ("__builtin__", "object"),
    )
)


class OrderedSum:
    """A server's updater for `model.job.sums.OrderedSums`.

    Numbers are copied and added without MXNet's engine, to which each of a step's many small arrays
    would be a task, and a wait for it.
    """

    def __init__(self, workers: int, servers: int):
        self._workers, self._servers = workers, servers
        self._parts: Dict[Any, np.ndarray] = {}
        self._arrived: Dict[Any, int] = {}
        self._sums: Dict[Any, mx.nd.NDArray] = {}

    def __call__(self, key: int, received: mx.nd.NDArray, stored: mx.nd.NDArray) -> None:
        position, server = divmod(key, self._servers)
        group, rank = divmod(position, self._workers)
        name = group, server
        if name not in self._parts:
            shape = (self._workers, *received.shape)
            self._parts[name], self._arrived[name] = np.empty(shape, received.dtype), 0
        parts = self._parts[name]
        _copy(received, parts[rank])
        if rank == 0:
            # What is stored here is the last sum, which some may not have pulled yet. They have
            # when they push again, and the next sum waits for all of them.
            self._sums[name] = stored
        self._arrived[name] += 1
        if self._arrived[name] == self._workers:
            for part in parts[1:]:
                parts[0] += part
            self._sums[name]._sync_copyfrom(parts[0])
            self._arrived[name] = 0


def _copy(array: mx.nd.NDArray, into: np.ndarray) -> None:
    target, size = into.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(into.size)
    mx.base.check_call(mx.base._LIB.MXNDArraySyncCopyToCPU(array.handle, target, size))
