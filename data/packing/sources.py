"""Images that are to be packed: those of a folder of folders, or of a list."""

import os
import stat
from functools import partial
from pathlib import Path

from data import DataError
from data.formats.classes import printable
from data.formats.images import ImageError
from log.files import read_file

#: A larger file is no image that one would train on.
_MAX_BYTES = 1 << 30


def find_images(source: Path, root) -> tuple:
    """Return what `folder_images` or `listed_images` gives. Raises DataError."""
    try:
        found = (
            folder_images(source)
            if source.is_dir()
            else listed_images(source, root or source.parent)
        )
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    if not found[1]:
        raise DataError(
            f"{source}: no images in it: it must have a folder for each class, or be a .lst file"
        )
    return found


def folder_images(root: Path) -> tuple:
    """Return (class names, [(label, name, read)], [(name, reason)] of what is left out) of a
    folder with a folder for each class; those may have folders of their own. Links are followed.
    """
    classes, items, skipped = [], [], []
    for entry in _entries(root):
        name = printable(entry.name)
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            skipped.append((name, "hidden"))
        elif not entry.is_dir():
            skipped.append((name, "not in a folder of a class"))
        else:
            files = sorted(_files(Path(entry.path), [os.stat(root)], skipped, root))
            if not files:
                skipped.append((name, "a class without a file"))
                continue
            items += [(len(classes), _name(path, root), _reader(path)) for path in files]
            classes.append(entry.name)
    return classes, items, skipped


def _entries(folder) -> list:
    # In the order of the bytes: the same on every machine.
    return sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))


def _name(path, root) -> str:
    return printable(os.path.relpath(path, root))


def _files(folder, above, skipped, root):
    """Yield the files in a folder and those in it, `above` being the os.stat of those it is in."""
    here = os.stat(folder)
    if any(os.path.samestat(here, other) for other in above):
        skipped.append((_name(folder, root), "a link to a folder that it is in"))
        return
    for entry in _entries(folder):
        path = Path(entry.path)
        if entry.name.startswith("."):
            skipped.append((_name(path, root), "hidden"))
        elif entry.is_dir():
            yield from _files(path, [*above, here], skipped, root)
        else:
            yield path


def _reader(path):
    return partial(_read_file, path)


def _read_file(path) -> bytes:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # to open a pipe waits for its other end
            raise ImageError("not a file")
        if status.st_size > _MAX_BYTES:
            raise ImageError(f"larger than {_MAX_BYTES >> 20} MB")
        return path.read_bytes()
    except OSError as error:
        broken = os.path.islink(path) and not os.path.exists(path)
        raise ImageError("a broken link" if broken else error.strerror) from None


def listed_images(lst: Path, root: Path) -> tuple:
    """Return (class names, [(label, name, read)], []) of an im2rec list: lines of a number, a label
    and a path below `root`, with tabs between. A class has the name of its images' folder, if they
    are in one and no others are; else its label."""
    items, folders = [], {}
    text = os.fsdecode(read_file(lst, DataError, 1 << 32, "a list of images"))
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            _, *labels, path = line.rstrip("\r").split("\t")
            (label,) = (float(word) for word in labels)
            if label < 0 or not label.is_integer():
                raise ValueError
        except ValueError:
            raise DataError(
                f"{lst}: line {number}: not a number, a whole label from 0 up and a path, "
                "with tabs between"
            ) from None
        items.append((int(label), printable(path), _reader(Path(root, path))))
        folders.setdefault(int(label), set()).add(os.path.dirname(path))
    names = [folders.get(label, set()) for label in range(max(folders, default=-1) + 1)]
    known = [name for each in names for name in each if name]
    if any(len(each) != 1 for each in names) or len(set(known)) != len(names):
        return [str(label) for label in range(len(names))], items, []
    return known, items, []
