"""The sums of gradients over workers, on MXNet's parameter servers.

MXNet's servers add what comes in the order in which it comes. Two float32 numbers have the same
sum in any order, three have not. So each of three workers or more pushes to a key of its own, and
the servers, which hand every push to an updater in Python, add up by worker
(`model.job.server.OrderedSum`).
"""

from typing import Any, Dict, List

import mxnet as mx

#: Name -> the array of each device.
Arrays = Dict[str, List[mx.nd.NDArray]]


def type_of_kvstore(kv_store: str, workers: int) -> str:
    """Return the type of MXNet's kvstore for a job with --kv-store `kv_store`."""
    # The servers of an asynchronous one call their updater with each push by itself.
    return kv_store.replace("_sync", "_async") if adds_in_order(kv_store, workers) else kv_store


def adds_in_order(kv_store: str, workers: int) -> bool:
    """Return whether the servers of such a job add up by worker."""
    return "_async" not in kv_store and workers > 2


# In a worker


class Sums:
    """Adds up arrays of all workers, by name; all workers call it with the same names in the same
    order. kvstore : of `type_of_kvstore`."""

    def __init__(self, kvstore: mx.kv.KVStore):
        self._kvstore = kvstore
        self._known: Dict[str, Any] = {}

    def add_up(self, arrays: Arrays) -> None:
        """Have each array hold its sum over all devices of all workers. arrays : name -> list with
        the array of each device."""
        for priority, (name, copies) in enumerate(arrays.items()):
            key = self._key_of(name, copies[0])
            self._kvstore.push(key, copies, -priority)
            self._kvstore.pull(key, copies, -priority)

    def _key_of(self, name: str, like: mx.nd.NDArray) -> int:
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

    def add_up(self, arrays: Arrays) -> None:
        keys = {name: self._keys_of(name, copies[0]) for name, copies in arrays.items()}
        rank = self._kvstore.rank
        for priority, (name, copies) in enumerate(arrays.items()):
            self._kvstore.push(keys[name][rank], copies, -priority)
        mx.nd.waitall()
        self._kvstore._barrier()
        for priority, (name, copies) in enumerate(arrays.items()):
            self._kvstore.pull(keys[name][0], copies, -priority)

    def _keys_of(self, name: str, like: mx.nd.NDArray) -> List[int]:
        """Return the keys of the workers; that of worker 0 has the sum, too."""
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
    if not adds_in_order(kv_store, kvstore.num_workers):
        return Sums(kvstore)
    if kvstore.rank == 0:
        kvstore._send_command_to_servers(0, "")  # see model.job.server
    return OrderedSums(kvstore, servers)


class CompressingStore(mx.kv.KVStore):
    """View of `kvstore`, for Module, which calls `pushpull`: MXNet's own refuses to compress."""

    def __init__(self, kvstore: mx.kv.KVStore):
        super().__init__(kvstore.handle)
        # Whose handle it is.
        self._kvstore = kvstore

    def __del__(self) -> None:
        pass

    def pushpull(self, key: Any, value: Any, out: Any = None, priority: int = 0) -> None:
        self.push(key, value, priority)
        self.pull(key, out=value if out is None else out, priority=priority)
