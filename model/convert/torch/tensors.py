"""A tensor in a file: what is known of it before its values are read."""

import math
from dataclasses import dataclass
from typing import Callable, Dict, Tuple

import numpy as np

from model import ModelError

#: By the names of safetensors and of PyTorch's storages. bfloat16 is the upper half of a float32.
DTYPES: Dict[str, str] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "U8": "<u1", "BOOL": "|b1",
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "|b1",
}  # fmt: skip


def item_size(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


@dataclass(frozen=True)
class Tensor:
    """A tensor that has not been read yet.

    dtype : a value of `DTYPES`. strides, offset : in items of its storage.
    storage : returns the bytes of its storage.
    """

    dtype: str
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]
    offset: int
    storage: Callable[[], bytes]

    @property
    def is_float(self) -> bool:
        return self.dtype == "bfloat16" or self.dtype[1] == "f"

    def values(self, name: str) -> np.ndarray:
        """Return its values as float32, in an array that is its own. name : for messages.

        Raises ModelError where it is of no floats, beyond its storage, or not finite.
        """
        if not self.is_float:
            raise ModelError(f"{name} is of {self.dtype}, not of floats")
        dtype = np.dtype("<u2" if self.dtype == "bfloat16" else self.dtype)
        content = self.storage()
        items = np.frombuffer(content, dtype, len(content) // dtype.itemsize)
        steps = sum((n - 1) * step for n, step in zip(self.shape, self.strides))
        if math.prod(self.shape) and not 0 <= self.offset <= self.offset + steps < len(items):
            raise ModelError(f"{name} is beyond its storage: damaged")
        strides = tuple(step * dtype.itemsize for step in self.strides)
        view = np.lib.stride_tricks.as_strided(items[self.offset :], self.shape, strides)
        if self.dtype == "bfloat16":
            view = (view.astype(np.uint32) << 16).view(np.float32)
        values = np.array(view, np.float32)
        if not np.isfinite(values).all():
            raise ModelError(f"{name} has NaN or infinite values")
        return values


def contiguous(shape: Tuple[int, ...]) -> Tuple[int, ...]:
    """Return the strides, in items, of a tensor without gaps."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
