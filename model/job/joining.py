"""The door to a job: how a process becomes one of its roles.

mxnet is not loaded yet when this is. `joined` loads it, with what it reads from the environment for
the role: what needs mxnet is imported in these functions, after that.
"""

import contextlib
import os
import signal
from typing import Iterator, NoReturn

from log import Interrupted, UserError
from model.arguments import Devices
from model.devices import import_mxnet
from model.job import JobError
from model.job.cluster import Cluster
from model.job.environment import (
    check_bind,
    number_of,
    resolve_scheduler,
    role_of_this_process,
)
from model.job.watch import Watch, leave


@contextlib.contextmanager
def joined(devices: Devices, only_reads: bool = False) -> Iterator[Cluster]:
    """Load mxnet, join the job of --kv-store, and leave it when the body is done.

    Yield the other workers, `Cluster` if there are none. A scheduler or server serves until the job
    is over, and ends the process. An error that ends this worker is sent to the others, which end.
    only_reads : no network is computed.
    Raises ModelError if mxnet can't be loaded or the job can't be joined.
    """
    role = role_of_this_process(devices.kv_store)
    if role in ("scheduler", "server"):
        serve(role, devices.kv_store, devices.stall_timeout)
    import_mxnet(devices.cpus or 1, only_reads)
    cluster = join(devices.kv_store, devices.stall_timeout)
    try:
        yield cluster
    except (JobError, Interrupted):
        cluster.close()  # the others know
        raise
    except UserError as error:
        cluster.fail(str(error))
        cluster.close()
        raise
    except KeyboardInterrupt:
        cluster.fail("stopped by SIGINT")
        cluster.close()
        raise
    except Exception:
        cluster.abort()
        raise
    cluster.close()


def join(kv_store: str, limit: float) -> Cluster:
    """Join the job of --kv-store `kv_store`, as a worker; return its workers.

    limit : seconds to wait for the others. Raises ModelError if the job can't be joined.
    """
    if "dist" not in kv_store:
        return Cluster(kv_store)
    watch = Watch(limit)
    _load_mxnet("worker", watch)
    from model.job.exchange import JobCluster

    return JobCluster(kv_store, watch)


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
