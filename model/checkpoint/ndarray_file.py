"""MXNet's NDArray file format (.params), read and written as plain data.

`mx.nd.save` neither syncs nor gives the checksum of what it meant to write, and `mx.nd.load`
trusts a file's own counts: on a damaged one it may ask for any amount of memory or bring the
process down. Here every number is checked against the file's size before it is believed.

The format (mxnet/src/ndarray/ndarray.cc, `NDArray::Save`), little-endian: magic 0x112 and a
reserved word (u64 each), the number of arrays (u64), the arrays, the number of names (u64), the
names (u64 length, bytes). An array: magic 0xF993FAC9 (u32), storage type 0, dense (i32), number of
dimensions (i32), dimensions (i64 each), device type and id (i32 each), type (i32), values. Two
older forms are read too: 0xF993FAC8 without a storage type, and, before that, no magic but
dimensions of 32 bits.
"""

import struct
from typing import Any, Callable, Dict, List, Tuple

import numpy as np

_LIST_MAGIC = 0x112
_V2_MAGIC = 0xF993FAC9
_V1_MAGIC = 0xF993FAC8
_CPU = 1
# mshadow's type numbers.
_TYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64")
_MAX_DIMENSIONS = 32


class FormatError(ValueError):
    """Not an NDArray file, or a damaged one; says where."""


def dump(arrays: Dict[str, np.ndarray], write: Callable[[bytes], object]) -> None:
    """Pass a file's bytes, piece by piece, to `write`. `arrays`: name -> numpy array."""
    write(struct.pack("<QQQ", _LIST_MAGIC, 0, len(arrays)))
    for array in arrays.values():
        head = struct.pack("<Iii", _V2_MAGIC, 0, array.ndim)
        head += struct.pack(f"<{array.ndim}q", *array.shape)
        write(head + struct.pack("<iii", _CPU, 0, _TYPES.index(str(array.dtype))))
        write(np.ascontiguousarray(array).data.cast("B"))
    write(struct.pack("<Q", len(arrays)))
    for name in arrays:
        encoded = name.encode()
        write(struct.pack("<Q", len(encoded)) + encoded)


def has_magic(content: bytes) -> bool:
    """True where `content`, the first bytes of a file, is the beginning of an NDArray file."""
    return content[:8] == struct.pack("<Q", _LIST_MAGIC)


def parse(content: bytes) -> Dict[str, np.ndarray]:
    """Return name -> numpy array of a whole file's `content`. Raises FormatError."""
    reader = _Reader(content)
    magic, _, count = reader.take("QQQ", "header")
    if magic != _LIST_MAGIC:
        raise FormatError(f"not an NDArray file (it begins with {content[:8].hex()})")
    arrays: List[np.ndarray] = []
    while len(arrays) < count:
        arrays.append(_parse_array(reader, f"array {len(arrays)}"))
    (named,) = reader.take("Q", "names")
    if named != count:
        raise FormatError(f"{count} arrays but {named} names")
    names = [_parse_name(reader) for _ in range(named)]
    if reader.left():
        raise FormatError(f"{reader.left()} bytes too many at the end")
    if len(set(names)) != len(names):
        raise FormatError("two arrays of the same name")
    return dict(zip(names, arrays))


def _parse_array(reader: "_Reader", what: str) -> np.ndarray:
    (magic,) = reader.take("I", what)
    if magic == _V2_MAGIC:
        storage, ndim = reader.take("ii", what)
        if storage != 0:
            raise FormatError(f"{what} is sparse")
        dimension = "q"
    elif magic == _V1_MAGIC:
        (ndim,) = reader.take("I", what)
        dimension = "q"
    else:
        ndim, dimension = magic, "I"
    if not 0 < ndim <= _MAX_DIMENSIONS:
        raise FormatError(f"{what} has {ndim} dimensions")
    shape = reader.take(dimension * ndim, what)
    _, _, type_flag = reader.take("iii", what)
    if not 0 <= type_flag < len(_TYPES):
        raise FormatError(f"{what} has the unknown type {type_flag}")
    dtype = np.dtype(_TYPES[type_flag])
    size = dtype.itemsize
    for length in shape:
        if length <= 0:
            raise FormatError(f"{what} has the shape {shape}")
        size *= length
    return np.frombuffer(reader.bytes(size, what), dtype).reshape(shape)


def _parse_name(reader: "_Reader") -> str:
    (length,) = reader.take("Q", "a name")
    try:
        return bytes(reader.bytes(length, "a name")).decode()
    except UnicodeDecodeError:
        raise FormatError("a name is not UTF-8") from None


class _Reader:
    def __init__(self, content: bytes):
        self._content = memoryview(content)
        self._position = 0

    def left(self) -> int:
        return len(self._content) - self._position

    def bytes(self, size: int, what: str) -> memoryview:
        if size > self.left():
            raise FormatError(f"cut off: {what} needs {size} bytes, {self.left()} are left")
        self._position += size
        return self._content[self._position - size : self._position]

    def take(self, types: str, what: str) -> Tuple[Any, ...]:
        return struct.unpack(f"<{types}", self.bytes(struct.calcsize(f"<{types}"), what))
