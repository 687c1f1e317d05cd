"""A job's roles meet at the scheduler, and notice the loss of one."""

import ctypes
import os
import time
from typing import Optional

import mxnet as mx
from mxnet.base import _LIB, MXNetError

from model import ModelError, mxnet_reason
from model.job.environment import number_of
from model.job.sums import type_of_kvstore
from model.job.watch import Watch

# ps-lite's names (ps/base.h): groups of nodes, which add up, and the ids of single ones.
_SCHEDULER, _SERVERS, _WORKERS = 1, 2, 4
# Seconds, longer than any clock is set back by.
_BEFORE = -1_000_000_000


def _node_id(role: str, rank: int) -> int:
    return 8 + 2 * rank + (role == "worker")


def gather_roles(kv_store: str, role: str, watch: Watch) -> mx.kv.KVStore:
    """Return MXNet's kvstore. Until it is there, `watch` waits for the others; from then on it
    looks for lost ones. Raises ModelError if there can be none."""
    address, port = os.environ["DMLC_PS_ROOT_URI"], os.environ["DMLC_PS_ROOT_PORT"]
    watch.waits_for(
        f"{number_of('worker')} workers and {number_of('server')} servers to connect to the "
        f"scheduler, {address}:{port}"
    )
    try:
        kvstore = mx.kv.create(type_of_kvstore(kv_store, number_of("worker")))
    except MXNetError as error:
        raise ModelError(f"--kv-store {kv_store}: {mxnet_reason(error)}") from None
    watch.looks_for_lost(_Lost(kvstore, role, watch))
    return kvstore


class _WallClock:
    """Tells when the clock has been set, by which ps-lite counts the seconds of silence."""

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()

    def was_set(self) -> bool:
        """Return whether it has been set by more than a second since the last call."""
        before, self._ahead = self._ahead, time.time() - time.monotonic()
        return abs(self._ahead - before) > 1


class _Lost:
    """A callable for `Watch.looks_for_lost`."""

    def __init__(self, kvstore: mx.kv.KVStore, role: str, watch: Watch):
        # Without the kvstore: this must not keep it alive.
        self._handle, self._role, self._watch = kvstore.handle, role, watch
        self._timeout = int(os.environ["PS_HEARTBEAT_TIMEOUT"])
        self._others = [
            (f"{kind} {rank}", _node_id(kind, rank))
            for kind in ("server", "worker")
            for rank in range(number_of(kind))
        ]
        self._began = time.monotonic()
        self._clock, self._trusted_from = _WallClock(), 0.0

    def __call__(self) -> Optional[str]:
        now = time.monotonic()
        if self._clock.was_set():
            # By that clock all others have just been silent for long, until they are heard again.
            self._trusted_from = now + self._timeout
        # While ps-lite starts, it must not be asked: it fills its tables.
        if now - self._began < 3:
            return None
        # Of less than 0 seconds, all whom this process hears have been silent: it knows of some.
        if not self._watch.gathered:
            self._watch.gathered = self._dead(_SCHEDULER + _SERVERS + _WORKERS, _BEFORE) > 0
            if self._watch.gathered:
                self._watch.rests()
        if now < self._trusted_from:
            return None
        if self._role == "scheduler":
            names = [name for name, node in self._others if self._dead(node, self._timeout)]
            if names:
                return f"lost {', '.join(names)}: no heartbeat for {self._timeout} s"
        elif self._dead(_SCHEDULER, self._timeout):
            at = "{DMLC_PS_ROOT_URI}:{DMLC_PS_ROOT_PORT}".format(**os.environ)
            return (
                f"no heartbeat of the scheduler, {at}, for {self._timeout} s: it failed, or "
                "stopped because another process failed: see its last line"
            )
        return None

    def _dead(self, node: int, seconds: int) -> int:
        """Return how many of a group of nodes have been silent for so long."""
        count = ctypes.c_int()
        _LIB.MXKVStoreGetNumDeadNode(self._handle, node, ctypes.byref(count), seconds)
        return count.value
