"""A job of several workers on MXNet's parameter server, ps-lite: who is in it, what they tell each
other beside gradients, and how none of them waits for ever for one that is lost.

Every role of a job (a scheduler, servers, workers) runs the same command; DMLC_ROLE says which one
a process is. The other variables are ps-lite's too:

    DMLC_NUM_WORKER, DMLC_NUM_SERVER         how many there are
    DMLC_PS_ROOT_URI, DMLC_PS_ROOT_PORT      where the scheduler is
    DMLC_NODE_HOST or DMLC_INTERFACE         the address of this process (default: one that it has)
    PS_HEARTBEAT_INTERVAL                    seconds between two signs of life (here: 5)
    PS_HEARTBEAT_TIMEOUT                     seconds without one until a role is lost (here: 60)

The scheduler hears every role, and ends when one is lost. The others hear the scheduler, and end
when it is lost, or has ended. So the loss of any process ends all of them.
"""

import contextlib
import ctypes
import logging
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from typing import Callable, Optional

from model import ModelError, mxnet_reason
from model.devices import import_mxnet

ROLES = ("scheduler", "server", "worker")
_NUMBERS = ("DMLC_NUM_WORKER", "DMLC_NUM_SERVER", "DMLC_PS_ROOT_PORT")

# ps-lite's names (ps/base.h): groups of nodes, which add up, and the ids of single ones.
_SCHEDULER, _SERVERS, _WORKERS = 1, 2, 4


def _count(roles):
    """How many there are of "WORKER" or "SERVER" in the job."""
    return int(os.environ[f"DMLC_NUM_{roles}"])


def _node_id(role, rank):
    return 8 + 2 * rank + (role == "worker")


class JobError(ModelError):
    """What ends a job. Every worker knows it."""


# The environment


def role_of_this_process(kv_store: str) -> Optional[str]:
    """Return DMLC_ROLE, None for a run of one worker.

    Raises ModelError where the variables that ps-lite reads are wrong: it would wait for ever, or
    end with a stack trace.
    """
    role = os.environ.get("DMLC_ROLE")
    if "dist" not in kv_store:
        if role:
            raise ModelError(
                f"DMLC_ROLE={role}, of a job of several workers, but --kv-store {kv_store} trains "
                "by itself: give --kv-store dist_sync, or unset DMLC_ROLE"
            )
        return None
    for name in ("DMLC_ROLE", "DMLC_PS_ROOT_URI", *_NUMBERS):
        if not os.environ.get(name):
            raise ModelError(
                f"--kv-store {kv_store}: {name} is not set: start the job with model/launch/, "
                "or MXNet's launch.py"
            )
    if role not in ROLES:
        raise ModelError(f"DMLC_ROLE={role}: must be one of {', '.join(ROLES)}")
    for name in _NUMBERS:
        value = os.environ[name]
        if not value.isdigit() or not 0 < int(value) < 1 << 16:
            raise ModelError(f"{name}={value}: must be a whole number from 1 to 65535")
    interface = os.environ.get("DMLC_INTERFACE")
    if interface and interface not in {name for _, name in socket.if_nameindex()}:
        raise ModelError(f"DMLC_INTERFACE={interface}: this machine has no such interface")
    host = os.environ.get("DMLC_NODE_HOST")
    if host and role != "scheduler":
        _check_bind("DMLC_NODE_HOST", host, 0)
    port = os.environ.get("PORT")
    if port and role != "scheduler":
        if not port.isdigit() or int(port) >= 1 << 16:
            raise ModelError(f"PORT={port}: ps-lite listens there: must be a port, or unset")
        _check_bind("PORT", host or "0.0.0.0", int(port))
    return role


def _check_bind(name, host, port):
    try:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError as error:
        where = f"{host}:{port}" if port else host
        raise ModelError(f"{name}: can't listen at {where}: {error.strerror}") from None


def _resolve_scheduler(watch):
    """Have DMLC_PS_ROOT_URI say an address: ps-lite waits for ever for a name that has none (yet),
    and can listen at none."""
    name = os.environ["DMLC_PS_ROOT_URI"]
    watch.waits_for(f"an address of DMLC_PS_ROOT_URI={name}")
    while True:
        try:
            os.environ["DMLC_PS_ROOT_URI"] = socket.gethostbyname(name)
            return watch.rests()
        except OSError:
            time.sleep(0.5)


# Not to wait for ever


class Watch(threading.Thread):
    """Ends the process, with exit code 1 and one line, where what it waits for does not come.

    limit : seconds. say : called with the line.
    MXNet waits in C++, where Python handles no signal: this thread does, before a job has gathered
    (any signal ends the process) and where a second one comes.
    """

    def __init__(self, limit: float, say: Callable):
        super().__init__(daemon=True)
        self._limit = limit
        self._say = say
        self._what = None
        self._since = None
        self._lost = None
        self._looking = threading.Lock()
        self._signals = 0
        self.gathered = False
        self._wakeup, written = socket.socketpair()
        written.setblocking(False)
        # Kept: the file descriptor is its.
        self._written = written
        signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        self.start()

    def waits_for(self, what: str, limit: Optional[float] = None):
        """From now on, wait for `what`, for `limit` seconds at most."""
        self._what, self._until = what, limit or self._limit
        self._since = time.monotonic()

    def rests(self):
        """What is done now takes as long as it takes."""
        self._since = None

    def looks_for_lost(self, lost: Optional[Callable]):
        """`lost` returns the names of the roles that are lost, and is called now and then."""
        with self._looking:
            self._lost = lost

    def end(self, line: str):
        self._say(line)
        _leave(1)

    def run(self):
        times_lost = 0
        while True:
            if select.select([self._wakeup], [], [], 0.5)[0]:
                self._signals += 1
                number = self._wakeup.recv(1)[0]
                if not self.gathered or self._signals > 1:
                    os._exit(128 + number)
            with self._looking:
                lost = self._lost and self._lost()
            since = self._since
            # ps-lite's own clock starts a moment after it has gathered: once is not enough.
            times_lost = times_lost + 1 if lost else 0
            if times_lost == 3:
                self.end(lost)
            if since is not None and time.monotonic() - since > self._until:
                self.end(f"waited {self._until:g} s for {self._what}")


def _leave(code):
    """End the process without what Python does at its end: MXNet would wait for others there."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _say_error(line):
    if logging.getLogger().handlers:
        logging.getLogger().error("error: %s", line)
    print(f"train_xception.py: error: {line}", file=sys.stderr)


def _join(kv_store, role, watch):
    """Return MXNet's kvstore, and when it has one, `watch` looks for lost roles."""
    os.environ.setdefault("PS_HEARTBEAT_INTERVAL", "5")
    timeout = int(os.environ.setdefault("PS_HEARTBEAT_TIMEOUT", "60"))
    _resolve_scheduler(watch)
    address, port = os.environ["DMLC_PS_ROOT_URI"], os.environ["DMLC_PS_ROOT_PORT"]
    at = f"{address}:{port}"
    if role == "scheduler":
        _check_bind("DMLC_PS_ROOT_URI", address, int(port))
    # Loaded as a server or scheduler, mxnet would not come back before the job's end.
    os.environ["DMLC_ROLE"] = "worker"
    mx = import_mxnet()
    os.environ["DMLC_ROLE"] = role
    from model.job.sums import type_of_kvstore

    watch.waits_for(
        "{DMLC_NUM_WORKER} workers and {DMLC_NUM_SERVER} servers to gather at the scheduler, "
        "{at}".format(at=at, **os.environ)
    )
    try:
        kvstore = mx.kv.create(type_of_kvstore(kv_store, _count("WORKER")))
    except mx.base.MXNetError as error:
        raise ModelError(f"--kv-store {kv_store}: {mxnet_reason(error)}") from None
    handle, library = kvstore.handle, mx.base._LIB

    def dead(node, seconds):
        count = ctypes.c_int()
        library.MXKVStoreGetNumDeadNode(handle, node, ctypes.byref(count), seconds)
        return count.value

    everyone = [
        (f"{kind} {rank}", _node_id(kind, rank))
        for kind in ("server", "worker")
        for rank in range(_count(kind.upper()))
    ]

    began = time.monotonic()

    def lost():
        # While ps-lite starts, it must not be asked: it fills its tables.
        if time.monotonic() - began < 3:
            return None
        # Of less than 0 seconds, all whom this process hears have been silent: it knows of some.
        if not watch.gathered:
            watch.gathered = dead(_SCHEDULER + _SERVERS + _WORKERS, -1000) > 0
            if watch.gathered:
                watch.rests()
        if role == "scheduler":
            names = [name for name, node in everyone if dead(node, timeout)]
            return names and f"lost {', '.join(names)}: no sign of life for {timeout} s"
        if dead(_SCHEDULER, timeout):
            return (
                f"no sign of life of the scheduler, {at}, for {timeout} s: it is lost, or has "
                "ended because another role is: its own last line tells"
            )

    watch.looks_for_lost(lost)
    return kvstore


def serve(role: str, kv_store: str, limit: float):
    """Be the scheduler or a server, until the workers are done, and end with exit code 0."""
    watch = Watch(limit, _say_error)
    # A signal that ends a job goes to all roles, and the workers still need this one.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    kvstore = _join(kv_store, role, watch)
    from model.job.sums import run_server

    run_server(kvstore, kv_store, _count("WORKER"), _count("SERVER"), watch.end)
    watch.looks_for_lost(None)
    # ps-lite's threads are still there when a Python that ends takes their tables away.
    _leave(0)


# What workers tell each other

FAILED = -1
_HEADER = struct.Struct("<iI")
_LITTLE = 1 << 12


class Alone:
    """The only worker of a run."""

    rank, workers = 0, 1
    #: Whether parameter servers, and not the workers, update the parameters.
    updates_on_servers = False

    def __init__(self, kvstore: str = "local"):
        #: What adds up the gradients of this process's devices, and in dist_async of all: Module's.
        self.kvstore = kvstore

    def add_up(self, arrays: dict):
        """Have each array hold its sum over all devices of all workers, where Module's kvstore does
        not. arrays : name -> list with the array of each device."""

    def exchange(self, status: int, _reached: str = "") -> list:
        return [status]

    def gather(self, content: bytes) -> list:
        return [content]

    def broadcast(self, content: bytes, _source: int) -> bytes:
        return content

    def fail(self, message: str):
        pass

    def abort(self):
        pass

    def close(self):
        pass


class Cluster:
    """This worker's way to the others. What all workers call, they call in the same order.

    Everything goes through the parameter server, as sums that all but one worker add nothing to:
    no other port, no other protocol. With dist_async the servers can't sum, and each worker is by
    itself but for the gradients.
    """

    def __init__(self, kv_store: str, limit: float):
        self._watch = Watch(limit, _say_error)
        self._kvstore = _join(kv_store, "worker", self._watch)
        from model.job.sums import sums_of

        self._watch.gathered = True
        self._watch.rests()
        self.updates_on_servers = kv_store == "dist_async"
        # Otherwise every worker updates its own copy, and so has the optimizer's state for
        # checkpoints.
        self.kvstore = self._kvstore if self.updates_on_servers else None
        self.rank, self.workers = self._kvstore.rank, self._kvstore.num_workers
        self._sums = sums_of(self._kvstore, kv_store, _count("SERVER"))
        self._threshold = None

    def add_up(self, arrays: dict):
        if not self.updates_on_servers:
            self._sums.add_up(arrays)

    def compress_gradients(self, kind: str, threshold: float):
        """Have all that is pushed from now on compressed (MXNet's set_gradient_compression)."""
        from model.job.sums import CompressingStore

        if self.updates_on_servers:
            self.kvstore = CompressingStore(self._kvstore)
        self._kvstore.set_gradient_compression({"type": kind, "threshold": threshold})
        self._kvstore._barrier()
        self._threshold = threshold

    def exchange(self, status: int, reached: str = "") -> list:
        """Return the status (any 32-bit number but FAILED) of each worker. Raises JobError where
        one has failed. reached : what is done with that, for the watch."""
        statuses = [status]
        if not self.updates_on_servers:
            statuses = [status for status, _ in self._headers(status, 0)]
        if reached:
            self._watch.waits_for(
                f"all that comes after {reached}: the other workers, a server, or the records"
            )
        return statuses

    def gather(self, content: bytes) -> list:
        """Return the content of each worker. Raises JobError where one has failed."""
        if self.updates_on_servers:
            return [content]
        lengths = [length for _, length in self._headers(0, len(content))]
        return [self._from(source, length, content) for source, length in enumerate(lengths)]

    def broadcast(self, content: Optional[bytes], source: int) -> bytes:
        """Return the content that worker `source` has."""
        mine = content if self.rank == source else b""
        return self.gather(mine)[source]

    def fail(self, message: str):
        """Tell the others why this worker ends, so that they do."""
        if self.updates_on_servers:
            return
        # They may be where they can't hear.
        self._watch.waits_for("the other workers to hear that", 60)
        with contextlib.suppress(JobError):  # its own, or another one's
            self._headers(FAILED, len(message.encode()), message.encode())

    def abort(self):
        """End this process at once, with the exception that is being handled: MXNet would wait for
        the other workers first."""
        traceback.print_exc()
        _leave(1)

    def close(self):
        """Leave the job, when all workers do."""
        from mxnet.base import _LIB

        self._watch.looks_for_lost(None)
        self._watch.waits_for("the other roles to end, too", 60)
        handle, self._kvstore.handle = self._kvstore.handle, None
        _LIB.MXKVStoreFree(handle)
        self._watch.rests()

    # On the wire

    def _headers(self, status, length, message=b""):
        slots = bytearray(_HEADER.size * self.workers)
        _HEADER.pack_into(slots, _HEADER.size * self.rank, status, length)
        headers = list(_HEADER.iter_unpack(self._sum("headers", bytes(slots))))
        for source, (status, length) in enumerate(headers):
            if status == FAILED:
                told = self._from(source, length, message).decode()
                raise JobError(f"worker {source}: {told}")
        return headers

    def _from(self, source, length, content):
        """Return `length` bytes that worker `source` has as `content`."""
        received = bytearray()
        large = 1 << (15 if self._threshold else 20)
        while len(received) < length:
            size = large if length - len(received) > _LITTLE else _LITTLE
            piece = content[len(received) : len(received) + size] if self.rank == source else b""
            received += self._sum(f"{size} bytes", piece.ljust(size, b"\0"))
        return bytes(received[:length])

    def _sum(self, name, content):
        """Return the sum of what all workers give; no byte is given by two of them."""
        import mxnet as mx
        import numpy as np

        if self._threshold:
            # Compressed to 2 bits, a number is 0 or the threshold: one for each bit.
            name = f"{name}, compressed"
            bits = np.unpackbits(np.frombuffer(content, np.uint8))
            values = bits.astype(np.float32) * np.float32(self._threshold)
        else:
            # The servers sum nothing but floating-point numbers; of 16 bits, these are exact.
            values = np.frombuffer(content, np.uint16).astype(np.float32)
        array = mx.nd.array(values, dtype=values.dtype)
        self._sums.add_up({name: [array]})
        summed = array.asnumpy()
        if self._threshold:
            return np.packbits(summed > self._threshold / 2).tobytes()
        return summed.astype(np.uint16).tobytes()


def join(kv_store: str, limit: float):
    """Return the `Cluster` of this worker, or `Alone`."""
    return Cluster(kv_store, limit) if "dist" in kv_store else Alone(kv_store)
