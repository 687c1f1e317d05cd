"""Folders of images, and the bytes of the files in them: the same ones for packing and prediction.

Hidden files and folders are left out, links are followed; whether a file is an image depends on its
content, not on its name.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Iterator, List, Tuple

from data.formats.classes import printable
from data.formats.images import ImageError
from log.files import PathLike

#: A larger file is not an image that one would train on.
MAX_BYTES = 1 << 30

#: (name of a file or folder, the reason that it is left out for).
Skipped = List[Tuple[str, str]]


def entries(folder: "os.PathLike[str]") -> List["os.DirEntry[str]"]:
    """Return what is in a folder, in the order of the bytes: the same on every machine."""
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: os.fsencode(entry.name))


def is_hidden(name: str) -> bool:
    """True for what programs leave: .git, .DS_Store, ._0.jpg, and __MACOSX in zip files."""
    return name.startswith(".") or name == "__MACOSX"


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """True for a folder, or a link to one; a link to itself, or to nowhere, is not one."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def name_below(path: "os.PathLike[str]", root: "os.PathLike[str]") -> str:
    """Return a printable name of a file for lists and messages: its path below `root`."""
    return printable(os.path.relpath(path, root))


def files_below(folder: Path, root: Path, skipped: Skipped) -> List[Path]:
    """Return the files in a folder and in the folders in it, in the order of the bytes.

    root : what names begin below. Add to `skipped` what is left out.
    """
    return sorted(_walk(folder, root, skipped))


def _walk(folder: Path, root: Path, skipped: Skipped) -> Iterator[Path]:
    # Folders to come, each with the os.stat of those that it is in. No recursion: people nest.
    above: Tuple[os.stat_result, ...] = () if folder == root else (os.stat(root),)
    waiting = [(folder, above)]
    while waiting:
        folder, above = waiting.pop()
        try:
            here = os.stat(folder)
            inside = entries(folder)
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.EACCES, errno.ENOENT):
                raise
            skipped.append((name_below(folder, root), str(error.strerror)))
            continue
        if any(os.path.samestat(here, other) for other in above):
            skipped.append((name_below(folder, root), "a link to a folder that it is in"))
            continue
        for entry in inside:
            path = Path(entry.path)
            if is_hidden(entry.name):
                skipped.append((name_below(path, root), "hidden"))
            elif is_folder(entry):
                waiting.append((path, (*above, here)))
            else:
                yield path


def read_image_file(path: PathLike) -> bytes:
    """Return the content of a file that should be an image. Raises ImageError."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # to open a pipe waits for its other end
            raise ImageError("a folder" if stat.S_ISDIR(status.st_mode) else "not a file")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"larger than {MAX_BYTES >> 20} MB")
        return Path(path).read_bytes()
    except OSError as error:
        broken = os.path.islink(path) and not os.path.exists(path)
        raise ImageError("a broken link" if broken else str(error.strerror)) from None
    except ValueError as error:  # a NUL in the name
        raise ImageError(f"no file can have this name: {error}") from None
