"""The door: from here on mxnet is loaded, and the other workers of the job are there."""

import contextlib
from typing import Iterator

from log import Interrupted, UserError
from model.arguments import Devices
from model.devices import import_mxnet
from model.job.cluster import Alone, JobError, join, role_of_this_process, serve


@contextlib.contextmanager
def joined(devices: Devices) -> Iterator[Alone]:
    """Load mxnet, join the job of --kv-store, and leave it when the body is done.

    Yield the other workers, `Alone` if there are none. A scheduler or server serves until the job
    is over, and ends the process. What ends this worker is told to the others, so that they end.
    Raises ModelError if mxnet can't be loaded or the job can't be joined.
    """
    role = role_of_this_process(devices.kv_store)
    if role in ("scheduler", "server"):
        serve(role, devices.kv_store, devices.stall_timeout)
    import_mxnet(devices.cpus or 1)
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
