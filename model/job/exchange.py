"""What workers send each other, other than gradients.

Everything goes through the parameter server, as sums that all but one worker add nothing to: no
other port, no other protocol. With dist_async the servers can't sum, and each worker is by itself
except the gradients.
"""

import contextlib
import struct
import traceback
from typing import Dict, List, NoReturn, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.base import _LIB

from model.job import JobError
from model.job.cluster import Cluster
from model.job.environment import number_of
from model.job.gathering import gather_roles
from model.job.sums import CompressingStore, sums_of
from model.job.watch import Watch, leave

FAILED = -1
_HEADER = struct.Struct("<iI")
_LITTLE = 1 << 12


class JobCluster(Cluster):
    """This worker's way to the others."""

    def __init__(self, kv_store: str, watch: Watch):
        self._watch = watch
        self._kvstore = gather_roles(kv_store, "worker", watch)
        self._watch.gathered = True
        self._watch.rests()
        self.updates_on_servers = kv_store == "dist_async"
        # Otherwise every worker updates its own copy, and so has the optimizer's state for
        # checkpoints.
        self.kvstore = self._kvstore if self.updates_on_servers else None
        self.rank, self.workers = self._kvstore.rank, self._kvstore.num_workers
        self._sums = sums_of(self._kvstore, kv_store, number_of("server"))
        self._threshold: Optional[float] = None

    def add_up(self, arrays: Dict[str, List[mx.nd.NDArray]]) -> None:
        if not self.updates_on_servers:
            self._sums.add_up(arrays)

    def compress_gradients(self, kind: str, threshold: float) -> None:
        if self.updates_on_servers:
            self.kvstore = CompressingStore(self._kvstore)
        self._kvstore.set_gradient_compression({"type": kind, "threshold": threshold})
        self._kvstore._barrier()
        self._threshold = threshold

    def exchange(self, status: int, reached: str = "") -> List[int]:
        statuses = [status]
        if not self.updates_on_servers:
            statuses = [status for status, _ in self._headers(status, 0)]
        if reached:
            self._watch.waits_for(
                f"progress after {reached}: the other workers, a server, or the records"
            )
        return statuses

    def gather(self, content: bytes) -> List[bytes]:
        if self.updates_on_servers:
            return [content]
        lengths = [length for _, length in self._headers(0, len(content))]
        return [self._from(source, length, content) for source, length in enumerate(lengths)]

    def fail(self, message: str) -> None:
        if self.updates_on_servers:
            return
        # They may be where they can't hear.
        self._watch.waits_for("the other workers to hear that", 60)
        with contextlib.suppress(JobError):  # its own, or another one's
            self._headers(FAILED, len(message.encode()), message.encode())

    def abort(self) -> NoReturn:
        traceback.print_exc()
        leave(1)

    def close(self) -> None:
        self._watch.looks_for_lost(None)
        self._watch.waits_for("the other roles to end, too", 60)
        handle, self._kvstore.handle = self._kvstore.handle, None
        _LIB.MXKVStoreFree(handle)
        self._watch.rests()

    # On the wire

    def _headers(self, status: int, length: int, message: bytes = b"") -> List[Tuple[int, int]]:
        """Return (status, length of what follows) of each worker. Raises JobError with the message
        of one that has failed."""
        slots = bytearray(_HEADER.size * self.workers)
        _HEADER.pack_into(slots, _HEADER.size * self.rank, status, length)
        headers = list(_HEADER.iter_unpack(self._sum("headers", bytes(slots))))
        for source, (status, length) in enumerate(headers):
            if status == FAILED:
                why = self._from(source, length, message).decode()
                raise JobError(f"worker {source}: {why}")
        return [(status, length) for status, length in headers]

    def _from(self, source: int, length: int, content: bytes) -> bytes:
        """Return `length` bytes that worker `source` has as `content`."""
        received = bytearray()
        large = 1 << (15 if self._threshold else 20)
        while len(received) < length:
            size = large if length - len(received) > _LITTLE else _LITTLE
            piece = content[len(received) : len(received) + size] if self.rank == source else b""
            received += self._sum(f"{size} bytes", piece.ljust(size, b"\0"))
        return bytes(received[:length])

    def _sum(self, name: str, content: bytes) -> bytes:
        """Return the sum of what all workers give; no byte is given by two of them."""
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
