"""Safetensors files: a length, a JSON header of that length, and the tensors' bytes."""

import json
import math
import struct
from typing import Any, Dict, Tuple

import numpy as np

from model import ModelError
from model.convert.torch.tensors import DTYPES, Tensor, contiguous, item_size


def parse(content: bytes, path: object) -> Dict[str, Tensor]:
    """Return name -> tensor. Raises ModelError."""
    try:
        (length,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8 : 8 + length])
        return {
            name: _tensor(content, 8 + length, entry, name)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: not a safetensors file, or damaged: {error}") from None


def _tensor(content: bytes, start: int, entry: Dict[str, Any], name: str) -> Tensor:
    shape: Tuple[int, ...] = tuple(entry["shape"])
    first, last = entry["data_offsets"]
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"{name} is of {entry['dtype']}")
    dtype = DTYPES[entry["dtype"]]
    numbers = (*shape, first, last)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError(f"{name} has the shape {shape} at {first} to {last}")
    if last - first != math.prod(shape) * item_size(dtype) or start + last > len(content):
        raise ValueError(f"{name} of shape {shape} is at {first} to {last}")
    return Tensor(dtype, shape, contiguous(shape), 0, lambda: content[start + first : start + last])


def dump(arrays: Dict[str, np.ndarray], metadata: Dict[str, str]) -> bytes:
    """Return a file of float32 and int64 arrays, aligned as safetensors aligns them."""
    header: Dict[str, Any] = {"__metadata__": metadata}
    names = {"<f4": "F32", "<i8": "I64"}
    pieces, end = [], 0
    for name, array in sorted(arrays.items(), key=lambda pair: (-pair[1].itemsize, pair[0])):
        piece = array.tobytes()
        header[name] = {
            "dtype": names[array.dtype.str],
            "shape": list(array.shape),
            "data_offsets": [end, end + len(piece)],
        }
        pieces.append(piece)
        end += len(piece)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(pieces)
