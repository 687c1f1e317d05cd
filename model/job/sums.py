"""The sums of gradients over workers, on MXNet's parameter servers.

MXNet's servers add what comes in the order in which it comes. Two float32 numbers have the same
sum in any order, three have not. So each of three workers or more pushes to a key of its own, and
the servers, which hand every push to an updater in Python, add up by worker (`_OrderedSum`).
"""

import ctypes
import io
import pickle
from typing import Callable

import mxnet as mx
import numpy as np

from model.training.optimizers import OPTIMIZERS


def type_of_kvstore(kv_store: str, workers: int) -> str:
    """Return the type of MXNet's kvstore for a job with --kv-store `kv_store`."""
    # The servers of an asynchronous one call their updater with each push by itself.
    return kv_store.replace("_sync", "_async") if _in_order(kv_store, workers) else kv_store


def _in_order(kv_store, workers):
    return "_async" not in kv_store and workers > 2


# In a worker


class Sums:
    """Adds up arrays of all workers, by name; all workers call it with the same names in the same
    order. kvstore : of `type_of_kvstore`."""

    def __init__(self, kvstore: mx.kv.KVStore):
        self._kvstore = kvstore
        self._known = {}

    def add_up(self, arrays: dict):
        """Have each array hold its sum over all devices of all workers. arrays : name -> list with
        the array of each device."""
        for priority, (name, copies) in enumerate(arrays.items()):
            key = self._key_of(name, copies[0])
            self._kvstore.push(key, copies, -priority)
            self._kvstore.pull(key, copies, -priority)

    def _key_of(self, name, like):
        if name not in self._known:
            self._known[name] = len(self._known)
            self._kvstore.init(self._known[name], mx.nd.zeros_like(like))
        return self._known[name]


class OrderedSums(Sums):
    """The same, added by rank of the workers: the same numbers have the same sum, to the bit.

    servers : how many there are.
    """

    def __init__(self, kvstore: mx.kv.KVStore, servers: int):
        super().__init__(kvstore)
        self._workers, self._servers = kvstore.num_workers, servers

    def add_up(self, arrays: dict):
        keys = {name: self._keys_of(name, copies[0]) for name, copies in arrays.items()}
        rank = self._kvstore.rank
        for priority, (name, copies) in enumerate(arrays.items()):
            self._kvstore.push(keys[name][rank], copies, -priority)
        mx.nd.waitall()
        self._kvstore._barrier()
        for priority, (name, copies) in enumerate(arrays.items()):
            self._kvstore.pull(keys[name][0], copies, -priority)

    def _keys_of(self, name, like):
        """The keys of the workers; that of worker 0 has the sum, too."""
        if name not in self._known:
            group, server = divmod(len(self._known), self._servers)
            # MXNet chooses the server of a key by its remainder.
            keys = [
                (group * self._workers + rank) * self._servers + server
                for rank in range(self._workers)
            ]
            self._known[name] = keys
            self._kvstore.init(keys, [mx.nd.zeros_like(like)] * self._workers)
        return self._known[name]


def sums_of(kvstore: mx.kv.KVStore, kv_store: str, servers: int) -> Sums:
    """Return what adds up over the workers of a job with --kv-store `kv_store`."""
    if not _in_order(kv_store, kvstore.num_workers):
        return Sums(kvstore)
    if kvstore.rank == 0:
        kvstore._send_command_to_servers(0, "")  # see `run_server`
    return OrderedSums(kvstore, servers)


class CompressingStore(mx.kv.KVStore):
    """View of `kvstore`, for Module, which calls `pushpull`: MXNet's own refuses to compress."""

    def __init__(self, kvstore: mx.kv.KVStore):
        super().__init__(kvstore.handle)
        # Whose handle it is.
        self._kvstore = kvstore

    def __del__(self):
        pass

    def pushpull(self, key, value, out=None, priority=0):
        self.push(key, value, priority)
        self.pull(key, out=value if out is None else out, priority=priority)


# In a server


class _OrderedSum:
    """A server's updater for `OrderedSums`.

    Numbers are copied and added without MXNet's engine, to which each of a step's many small arrays
    would be a task, and a wait for it.
    """

    def __init__(self, workers: int, servers: int):
        self._workers, self._servers = workers, servers
        self._parts, self._arrived, self._sums = {}, {}, {}

    def __call__(self, key, received, stored):
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


def _copy(array: mx.nd.NDArray, into: np.ndarray):
    target, size = into.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(into.size)
    mx.base.check_call(mx.base._LIB.MXNDArraySyncCopyToCPU(array.handle, target, size))


def _class_of(optimizer):
    return mx.optimizer.Optimizer.opt_registry[optimizer]


class _OptimizerUnpickler(pickle.Unpickler):
    """Reads the optimizer that a worker sends, and nothing else: a pickle may name any function to
    be called, and whoever reaches a server's port may send one."""

    _ALLOWED = frozenset(
        (
            *((_class_of(name).__module__, _class_of(name).__name__) for name in OPTIMIZERS),
            ("mxnet.lr_scheduler", "MultiFactorScheduler"),
            ("model.training.schedule", "Scheduler"),
            ("model.training.schedule", "Schedule"),
            # How Python writes an object of any class.
            ("copy_reg", "_reconstructor"),
            ("__builtin__", "object"),
        )
    )

    def find_class(self, module, name):
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def run_server(kvstore: mx.kv.KVStore, kv_store: str, workers: int, servers: int, end: Callable):
    """Be a server, or the scheduler, until the workers have left. end : called with a line that
    says why, ends the process."""

    def ending(function):
        # C++ would have an exception printed, and go on.
        def call(*args):
            try:
                function(*args)
            except Exception as error:
                end(f"a server can't go on: {type(error).__name__}: {error}")

        return call

    def control(head, body, _):
        if head != 0:
            return
        if _in_order(kv_store, workers):
            kvstore._set_updater(ending(_OrderedSum(workers, servers)))
        elif "_async" in kv_store:
            optimizer = _OptimizerUnpickler(io.BytesIO(body)).load()
            kvstore._set_updater(ending(mx.optimizer.get_updater(optimizer)))

    prototype = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    mx.base.check_call(
        mx.base._LIB.MXKVStoreRunServer(kvstore.handle, prototype(ending(control)), None)
    )
