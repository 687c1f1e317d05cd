"""Files of torch.save, without PyTorch: tensors, and containers and plain values around them.

A pickle can have any function called. Here it may name nothing but what tensors are made of, and
that is made by functions of this module; anything else it names is an error, and is not imported.

Since PyTorch 1.6 a file is a zip archive: ``NAME/data.pkl`` and a file for each storage. Before, it
was five pickles (a magic number, the protocol, the machine, the object, the storages' keys) and
then, by key, each storage: its number of items and these.
"""

import io
import pickle
import struct
import zipfile
import zlib
from typing import Any, Callable, Dict, List, Tuple

from model import ModelError
from model.convert.torch.tensors import DTYPES, Tensor, item_size

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
#: What unpickling raises on what is not of torch.save, or damaged.
_DAMAGE = (
    pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError, TypeError,
    ValueError, OverflowError, MemoryError, RecursionError, struct.error, zipfile.BadZipFile,
    zlib.error, NotImplementedError, RuntimeError,
)  # fmt: skip
#: Returns what reads a storage: of a key, a dtype, and a number of items.
_Storages = Callable[[str, str, int], Callable[[], bytes]]


class _Storage:
    """A storage in the file."""

    def __init__(self, dtype: str, content: Callable[[], bytes]):
        self.dtype, self.content = dtype, content


class _Dict(dict):
    """An OrderedDict. A state dict's has an attribute."""


def parse(content: bytes, path: object) -> Any:
    """Return the object in a file: containers, plain values, and `Tensor`. Raises ModelError."""
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            return _parse_archive(zipfile.ZipFile(io.BytesIO(content)))
        return _parse_legacy(io.BytesIO(content))
    except _Forbidden as error:
        raise ModelError(
            f"{path}: it names {error}, and only tensors are read: in PyTorch, "
            "torch.save(model.state_dict(), 'weights.pth')"
        ) from None
    except _DAMAGE as error:
        raise ModelError(f"{path}: not a file of torch.save, or damaged: {error}") from None


class _Forbidden(Exception):
    pass


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, storages: _Storages):
        super().__init__(file, encoding="latin-1")
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) not in _MADE_BY:
            raise _Forbidden(f"{module}.{name}")
        return _MADE_BY[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, items, *view = pid
        if kind != "storage" or dtype not in DTYPES.values() or view not in ([], [None]):
            raise pickle.UnpicklingError(f"a storage of another kind: {pid}")
        return _Storage(dtype, self._storages(str(key), dtype, int(items)))


def _no_storages(key: str, dtype: str, items: int) -> Callable[[], bytes]:
    raise pickle.UnpicklingError("a storage before the object")


def _parse_archive(archive: zipfile.ZipFile) -> Any:
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise ValueError("a zip archive without data.pkl")
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise ValueError("its members are compressed, which may be without end")
    folder = names[0][: -len("data.pkl")]
    order = f"{folder}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise ValueError("its numbers are big-endian")

    def storages(key: str, dtype: str, items: int) -> Callable[[], bytes]:
        member = f"{folder}data/{key}"
        if archive.getinfo(member).file_size < items * item_size(dtype):
            raise ValueError(f"storage {key} is cut off")
        return lambda: archive.read(member)

    return _Unpickler(io.BytesIO(archive.read(names[0])), storages).load()


def _parse_legacy(file: io.BytesIO) -> Any:
    def load(storages: _Storages = _no_storages) -> Any:
        return _Unpickler(file, storages).load()

    if load() != _MAGIC or load() != _PROTOCOL:
        raise ValueError("it has no magic number")
    if not load().get("little_endian", True):
        raise ValueError("its numbers are big-endian")
    kinds: Dict[str, Tuple[str, int]] = {}
    places: Dict[str, Tuple[int, int]] = {}

    def storages(key: str, dtype: str, items: int) -> Callable[[], bytes]:
        kinds[key] = dtype, items

        def content() -> bytes:
            start, end = places[key]
            return file.getvalue()[start:end]

        return content

    found = load(storages)
    keys: List[str] = load()
    for key in keys:
        dtype, items = kinds[key]
        (there,) = struct.unpack("<q", file.read(8))
        start = file.tell()
        end = start + items * item_size(dtype)
        if there != items or file.seek(0, io.SEEK_END) < end:
            raise ValueError(f"storage {key} is cut off")
        places[key] = start, end
        file.seek(end)
    return found


def _rebuild_tensor(storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Tensor:
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError(f"a tensor of shape {shape}, strides {strides} at {offset}")
    return Tensor(storage.dtype, tuple(shape), tuple(strides), offset, storage.content)


def _rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


_MADE_BY: Dict[Tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}
