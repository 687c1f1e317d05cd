"""The files that conversions write."""

from pathlib import Path

from log.files import part_of, write_whole
from model import ModelError


def write_file(path: Path, content: bytes) -> None:
    """Write a file, and the folders it is in, whole or not at all. Raises ModelError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        part_of(path).unlink(missing_ok=True)
        raise ModelError(f"{path}: {error.strerror}") from None
