"""A kvstore whose gradients may be compressed."""

import mxnet as mx


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
