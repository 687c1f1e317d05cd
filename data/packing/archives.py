"""Tar archives, read to their ends."""

import tarfile
import zlib
from contextlib import contextmanager

from data import DataError


@contextmanager
def open_tar(path, mode="r"):
    """The tar archive, compressed or not; with mode ``r:``, an uncompressed one only, whose members
    are ranges of its bytes. Raises DataError where it is missing or damaged."""
    try:
        with tarfile.open(path, mode) as tar:
            yield tar
            # A compressed archive's checksum is behind all that tarfile reads by itself.
            while tar.fileobj.read(1 << 20):
                pass
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        reason = str(error).split(":\n")[0]
        raise DataError(f"{path}: damaged, or not a tar archive: {reason}") from None
