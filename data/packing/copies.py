"""Images that occur more than once: one file in two rows of a list, links, copies."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Callable, Dict, Hashable, List, Sequence, Set

from data.packing.sources import Item

# Of the beginning and of the end: what tells nearly all files apart.
_ENDS = 4096


def first_of_copies(items: Sequence[Item]) -> List[int]:
    """Return for each item the place of the first one that has the same bytes, itself if none has.

    Of most files only the size is looked at: the beginning and the end of those of equal size, and
    all of those whose ends are equal too.
    """
    paths = [item.read.path for item in items]
    same_file: List[Hashable] = []
    sizes = []
    for path in paths:
        key: Hashable = path
        size = -1
        with suppress(OSError, ValueError):
            status = os.stat(path)
            key, size = (status.st_dev, status.st_ino), status.st_size
        same_file.append(key)
        sizes.append(size)
    first = _firsts(same_file)
    # What is known to differ so far has another key.
    keys: List[Hashable] = [(size, i) if size <= 0 else size for i, size in enumerate(sizes)]
    for look in (_ends, _all):
        keys = _refined(keys, first, paths, look)
    by_content = _firsts([keys[i] for i in first])
    return [by_content[i] for i in range(len(items))]


def _firsts(keys: Sequence[Hashable]) -> List[int]:
    seen: Dict[Hashable, int] = {}
    return [seen.setdefault(key, i) for i, key in enumerate(keys)]


def _refined(
    keys: Sequence[Hashable],
    first: Sequence[int],
    paths: Sequence[Path],
    look: Callable[[Path], bytes],
) -> List[Hashable]:
    """Return keys that tell apart what `look` does, of the files with the same key."""
    files: Dict[Hashable, Set[int]] = {}
    for i, key in enumerate(keys):
        files.setdefault(key, set()).add(first[i])
    refined: Dict[int, Hashable] = {}
    for key, members in files.items():
        for i in members:
            refined[i] = key
            if len(members) > 1:
                try:
                    refined[i] = (key, look(paths[i]))
                except OSError:
                    refined[i] = (key, i)
    return [refined[first[i]] for i in range(len(keys))]


def _ends(path: Path) -> bytes:
    with open(path, "rb") as file:
        start = file.read(_ENDS)
        file.seek(max(os.fstat(file.fileno()).st_size - _ENDS, 0))
        return hashlib.blake2b(start + file.read(_ENDS), digest_size=16).digest()


def _all(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()
