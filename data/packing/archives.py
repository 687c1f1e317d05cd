"""Tar archives, read to their ends."""

import tarfile
import zlib
from contextlib import contextmanager
from typing import IO, Iterator

from data import DataError
from log.files import PathLike, open_file

# How compressed files begin. Left to itself, tarfile reads through 200 GB of zeros as LZMA.
_MAGIC = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\0": "xz"}


@contextmanager
def open_tar(path: PathLike, mode: str = "r") -> Iterator[tarfile.TarFile]:
    """The tar archive, compressed or not; with mode ``r:``, an uncompressed one only, whose members
    are ranges of its bytes. Raises DataError where it is missing or damaged."""
    with open_file(path, DataError, "a tar archive") as file:
        begins = file.read(6)
    compression = next((kind for magic, kind in _MAGIC.items() if begins.startswith(magic)), "")
    try:
        with tarfile.open(  # type: ignore[call-overload]
            path, mode if ":" in mode else f"{mode}:{compression}"
        ) as tar:
            yield tar
            # A compressed archive's checksum is after all that tarfile reads by itself.
            while compression and tar.fileobj.read(1 << 20):
                pass
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        reason = str(error).split(":\n")[0]
        raise DataError(f"{path}: damaged, or not a tar archive: {reason}") from None


def content_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    """Return the content of a member that is a file, open for reading."""
    file = tar.extractfile(member)
    assert file is not None, f"{member.name} is not a file"
    return file
