"""What a worker sees of the others of its job."""

from typing import Any, Dict, List, Optional, Union


class Cluster:
    """The workers of a run, as one of them sees them. This is a worker without others; one of
    several is a `model.job.exchange.JobCluster`. All workers make the collective calls in the
    same order.
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
