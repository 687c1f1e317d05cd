"""Files: written whole or not at all, read only if they are regular files, unpickled without
running code.

A file is written in the same folder, as NAME.part, synced, and then renamed: a kill leaves the
earlier file, or none.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import pickle
import stat
from pathlib import Path
from typing import Any, BinaryIO, Callable, FrozenSet, Iterator, Optional, Tuple, Type, Union

from log import UserError, schema

PathLike = Union[str, "os.PathLike[str]"]
#: Called with bytes to write them.
Write = Callable[[bytes], None]

#: The ending of a file that is being written.
UNFINISHED = ".part"


def os_reason(error: OSError) -> str:
    """Return "file: reason" of an OSError, the reason alone where no file is known."""
    reason = error.strerror or str(error)
    name = error.filename
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    return reason if name is None else f"{name}: {reason}"


def write_whole(path: PathLike, content: Union[bytes, Callable[[Write], None]]) -> Tuple[str, int]:
    """Write a file whole or not at all.

    content : the bytes, or a function that is called with a function that writes bytes.
    Return (SHA-256 in hexadecimal, bytes written). The checksum is that of the bytes handed over,
    not of what the disk made of them. Raises OSError, which names `path`; then the earlier file is
    still there.
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
    part = part_of(path)
    digest = hashlib.sha256()
    size = 0
    with naming(path):
        check_replaceable(path)
        with _removed_on_error(part), open(part, "wb") as file:

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
    with naming(path):
        os.replace(part_of(path), path)
        _sync_folder(path.parent)


def check_replaceable(path: PathLike) -> None:
    """Raise OSError where `path` is a folder, a device or the like, which no file may replace."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(mode):
            raise FileExistsError(errno.EEXIST, "not a regular file", os.fspath(path))


@contextlib.contextmanager
def naming(path: PathLike) -> Iterator[None]:
    """Have OSErrors name `path` if they name no file, such as those of a full disk, or only the
    unfinished one."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename) == str(part_of(path)):
            error.filename, error.filename2 = os.fspath(path), None
        raise


@contextlib.contextmanager
def _removed_on_error(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _sync_folder(folder: Path) -> None:
    # Some file systems can't sync a folder, or not for everybody; they order renames by themselves.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EROFS):
            raise
    finally:
        os.close(descriptor)


#: What no text or JSON of this project comes near: 256 MB.
TEXT_LIMIT = 1 << 28


def read_file(
    path: PathLike, error: Type[UserError], limit: int = 1 << 34, what: Optional[str] = None
) -> bytes:
    """Return the content of a regular file.

    A FIFO would block, a device never ends, and a sparse file may be larger than the memory: these
    raise `error` in one line, and so does a file of more than `limit` bytes (default: 16 GB) or one
    that can't be read. what : what the file should be, for that line.
    """
    try:
        with open_file(path, error, what) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise error(
                    f"{path}: {size >> 20} MB, more than the {limit >> 20} MB that "
                    f"{what or 'this file'} can have"
                )
            return file.read(size)
    except OSError as reason:
        raise error(f"{path}: {reason.strerror or reason}") from None
    except MemoryError:
        raise error(f"{path}: {size >> 20} MB, more than the memory that is free") from None


def open_file(path: PathLike, error: Type[UserError], what: Optional[str] = None) -> BinaryIO:
    """Open a regular file to read it. Raises `error` as `read_file` does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as reason:
        raise error(f"{path}: {reason.strerror or reason}") from None
    except ValueError as reason:  # a NUL, or a character that no file name here can have
        raise error(f"{path}: {reason}") from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
    raise error(f"{path}: {kind}" + (f", not {what}" if what else ""))


def read_text(path: PathLike, error: Type[UserError], limit: int = TEXT_LIMIT) -> str:
    """Return the text of a file in UTF-8, its lines ended by \\n. Raises `error` as `read_file`
    does."""
    try:
        text = read_file(path, error, limit, "a text").decode()
    except UnicodeDecodeError:
        raise error(f"{path}: not UTF-8 text") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(
    text: Union[str, bytes],
    name: object,
    error: Type[UserError],
    form: schema.Form = schema.anything,
    way_out: str = "",
) -> Any:
    """Return the value of a JSON text. Raises `error`, one line that begins with `name` and ends
    with `way_out`, if it is none, or not of the form."""
    try:
        value = json.loads(text)
        form(value, "")
        return value
    except RecursionError:
        reason = "nested too deeply"
    except (ValueError, schema.Mismatch) as found:
        reason = str(found)
    raise error(f"{name}: damaged: {reason}" + (f": {way_out}" if way_out else ""))


def read_json(
    path: PathLike,
    error: Type[UserError],
    form: schema.Form = schema.anything,
    way_out: str = "",
) -> Any:
    """Return the value of a JSON file. Raises `error` as `read_file` and `parse_json` do."""
    content = read_file(path, error, TEXT_LIMIT, "a JSON file")
    return parse_json(content, path, error, form, way_out)


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
