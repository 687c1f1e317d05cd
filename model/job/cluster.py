"""The door to a job: what a worker sees of the others, and how a process becomes one of its roles.

mxnet is not loaded yet when this is: `join` and `serve` load it, with what it reads from the
environment for their role.
"""

import os
import signal
from typing import Any, Dict, List, NoReturn, Optional, Union

from model.devices import import_mxnet
from model.job import JobError
from model.job.environment import check_bind, number_of, resolve_scheduler, role_of_this_process
from model.job.watch import Watch, leave

__all__ = ["Alone", "JobError", "join", "role_of_this_process", "serve"]


class Alone:
    """The workers of a run, as one of them sees them. This is a worker without others; one of
    several is a `model.job.exchange.Cluster`. What all workers call, they call in the same order.
    """

    rank, workers = 0, 1
    #: Whether parameter servers, and not the workers, update the parameters.
    updates_on_servers = False

    def __init__(self, kvstore: str = "local"):
        #: What adds up the gradients of this process's devices, and in dist_async of all: the
        #: `kvstore` of Module.
        self.kvstore: Union[str, Any, None] = kvstore

    def add_up(self, arrays: Dict[str, list]) -> None:
        """Have each array hold its sum over all devices of all workers, where Module's kvstore does
        not. arrays : name -> list with the array of each device."""

    def compress_gradients(self, kind: str, threshold: float) -> None:
        """Have all that is sent from now on compressed (MXNet's set_gradient_compression)."""

    def exchange(self, status: int, reached: str = "") -> List[int]:
        """Return the status (any 32-bit number but -1) of each worker. Raises JobError if one has
        failed. reached : what is done with that, for the watch."""
        return [status]

    def gather(self, content: bytes) -> List[bytes]:
        """Return the content of each worker. Raises JobError if one has failed."""
        return [content]

    def broadcast(self, content: Optional[bytes], source: int) -> bytes:
        """Return the content that worker `source` has."""
        mine = content if self.rank == source else None
        return self.gather(mine or b"")[source]

    def fail(self, message: str) -> None:
        """Tell the others why this worker ends, so that they do."""

    def abort(self) -> None:
        """End this process at once, with the exception that is being handled, if the others would
        be waited for first."""

    def close(self) -> None:
        """Leave the job, when all workers do."""


def join(kv_store: str, limit: float) -> Alone:
    """Join the job of --kv-store `kv_store`, as a worker; return its workers.

    limit : seconds to wait for the others. Raises ModelError if the job can't be joined.
    """
    if "dist" not in kv_store:
        return Alone(kv_store)
    watch = Watch(limit)
    _load_mxnet("worker", watch)
    from model.job.exchange import Cluster

    return Cluster(kv_store, watch)


def serve(role: str, kv_store: str, limit: float) -> NoReturn:
    """Be the scheduler or a server, until the workers are done, and end with exit code 0."""
    watch = Watch(limit)
    # A signal that ends a job goes to all roles, and the workers still need this one.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    _load_mxnet(role, watch)
    from model.job.gathering import gather_roles
    from model.job.server import run_server

    kvstore = gather_roles(kv_store, role, watch)
    run_server(kvstore, kv_store, number_of("worker"), number_of("server"), watch.end)
    watch.looks_for_lost(None)
    # ps-lite's threads are still there when a Python that ends takes their tables away.
    leave(0)


def _load_mxnet(role: str, watch: Watch) -> None:
    """Load mxnet, in an environment with which it can become this role of a job."""
    os.environ.setdefault("PS_HEARTBEAT_INTERVAL", "5")
    os.environ.setdefault("PS_HEARTBEAT_TIMEOUT", "60")
    resolve_scheduler(watch)
    if role == "scheduler":
        address, port = os.environ["DMLC_PS_ROOT_URI"], os.environ["DMLC_PS_ROOT_PORT"]
        check_bind("DMLC_PS_ROOT_URI", address, int(port))
    # Loaded as a server or scheduler, mxnet would not come back before the job's end.
    os.environ["DMLC_ROLE"] = "worker"
    import_mxnet()
    os.environ["DMLC_ROLE"] = role
