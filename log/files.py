"""Files: written whole or not at all, read only if they are files, unpickled without running code.

A file is written beside its place, as NAME.part, synced, and then renamed: a kill leaves the
earlier file, or none.
"""

import errno
import hashlib
import io
import os
import pickle
import stat
from pathlib import Path
from typing import Any, Callable, FrozenSet, Optional, Tuple, Type, Union

from log import UserError

PathLike = Union[str, "os.PathLike[str]"]
#: Called with bytes to write them.
Write = Callable[[bytes], None]

#: The ending of a file that is being written.
UNFINISHED = ".part"


def write_whole(path: PathLike, content: Union[bytes, Callable[[Write], None]]) -> Tuple[str, int]:
    """Write a file whole or not at all.

    content : the bytes, or a function that is called with a function that writes bytes.
    Return (SHA-256 in hexadecimal, bytes written). The checksum is that of the bytes handed over,
    not of what the disk made of them. Raises OSError; then the earlier file is still there.
    """
    written = write_part(path, content)
    name_part(path)
    return written


def part_of(path: PathLike) -> Path:
    """Return the name under which the file `path` is written."""
    path = Path(path)
    return path.with_name(path.name + UNFINISHED)


def write_part(path: PathLike, content: Union[bytes, Callable[[Write], None]]) -> Tuple[str, int]:
    """Write and sync a file under the name `part_of(path)`. Return as `write_whole` does."""
    digest = hashlib.sha256()
    size = 0
    with open(part_of(path), "wb") as file:

        def write(data: bytes) -> None:
            nonlocal size
            digest.update(data)
            size += file.write(data)

        if callable(content):
            content(write)
        else:
            write(content)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), size


def name_part(path: PathLike) -> None:
    """Give the file that `write_part` wrote its name, and sync its folder."""
    path = Path(path)
    os.replace(part_of(path), path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems can't sync a folder; they order renames by themselves.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def read_file(
    path: PathLike, error: Type[UserError], limit: int = 1 << 34, what: Optional[str] = None
) -> bytes:
    """Return the content of a regular file.

    A FIFO would block, a device never ends, and a sparse file may be larger than the memory: these
    raise `error` in one line, and so does a file of more than `limit` bytes (default: 16 GB) or one
    that can't be read. what : what the file should be, for that line.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
                raise error(f"{path}: {kind}" + (f", not {what}" if what else ""))
            if status.st_size > limit:
                raise error(
                    f"{path}: {status.st_size >> 20} MB, more than the {limit >> 20} MB that "
                    f"{what or 'this file'} can have"
                )
            return file.read(limit + 1)
    except OSError as reason:
        raise error(f"{path}: {os.strerror(reason.errno or 0)}") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, allowed: FrozenSet[Tuple[str, str]], encoding: str):
        super().__init__(file, encoding=encoding)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def unpickle(content: bytes, allowed: FrozenSet[Tuple[str, str]], encoding: str = "ASCII") -> Any:
    """Return the object of a pickle, which may name nothing but `allowed`, (module, name) pairs: a
    pickle can have any function called. Raises what pickle.load does."""
    return _Unpickler(io.BytesIO(content), allowed, encoding).load()
