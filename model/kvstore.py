"""How a worker's gradients go to the parameter servers and come back summed."""

import mxnet as mx


class GradientStore(mx.kv.KVStore):
    """View of `kvstore`, for Module, in which gradients are summed in `dtype`.

    Servers add what workers send in the order in which it arrives. In float32 that is another sum
    in another order, as soon as there are three. In float64 it is not: the sum of some float32
    numbers is exact in it as long as none of them is 2**27 times smaller than another.
    """

    def __init__(self, kvstore: mx.kv.KVStore, dtype: str):
        super().__init__(kvstore.handle)
        self._dtype = dtype
        # Whose handle it is.
        self._kvstore = kvstore

    def __del__(self):
        pass

    def init(self, key, value):
        super().init(key, value.astype(self._dtype))

    def pushpull(self, key, value, out=None, priority=0):
        """As MXNet's, of dense arrays. That one refuses to compress gradients."""
        summed = [array.astype(self._dtype, copy=False) for array in value]
        self.push(key, summed, priority)
        if out is not None:
            self.pull(key, out=out, priority=priority)
            return
        self.pull(key, out=summed, priority=priority)
        if self._dtype != "float32":
            for array, total in zip(value, summed):
                mx.nd.cast(total, dtype="float32", out=array)
