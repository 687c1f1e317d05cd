"""Images that are to be packed: those of a folder of folders, or of a list."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from data import DataError
from data.formats.classes import printable
from data.formats.folders import (
    Skipped,
    entries,
    files_below,
    is_folder,
    is_hidden,
    name_below,
    read_image_file,
)
from data.formats.images import ENDINGS
from data.formats.lists import Row, find_file, read_list
from log.notices import Notices


@dataclass(frozen=True)
class ImageFile:
    """An image file; a call reads it."""

    path: Path

    def __call__(self) -> bytes:
        """Return its content. Raises ImageError."""
        return read_image_file(self.path)


class Item(NamedTuple):
    """An image to pack. name : for lists and messages."""

    label: int
    name: str
    read: ImageFile


@dataclass
class ImageSet:
    """Images with their classes.

    classes : their names by label. are_names : False if they are only the labels, as text.
    skipped : what is left out.
    """

    classes: List[str]
    items: List[Item]
    skipped: Skipped = field(default_factory=list)
    are_names: bool = True


def find_images(source: Path, root: Optional[Path]) -> ImageSet:
    """Return the images of a folder, or of a list whose paths begin in `root`. Raises DataError."""
    try:
        found = (
            folder_images(source)
            if source.is_dir()
            else listed_images(source, read_list(source), root or source.parent)
        )
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    if found.items:
        return found
    if not source.is_dir():
        raise DataError(f"{source}: no images in it")
    raise DataError(
        f"{source}: no folder of images in it: give a folder that holds one for each class, or a "
        ".lst file"
    )


# Folders

_TRAIN = frozenset(("train", "training"))
_VAL = frozenset(("val", "valid", "validation", "dev"))
_TEST = frozenset(("test", "testing"))


def find_parts(source: Path, notices: Notices) -> Tuple[Path, Optional[Path]]:
    """Return the folder with the training images and, if there is one, that with the validation
    images. Lists are returned as they are.

    DIR/cat DIR/dog                  DIR
    DIR/animals/cat DIR/animals/dog  DIR/animals, as a zip file unpacks
    DIR/train/cat DIR/val/cat        DIR/train, DIR/val

    Raises DataError if it can't be told which folders are the classes.
    """
    while source.is_dir():
        folders, has_images = _inside(source)
        if len(folders) == 1 and not has_images:
            inner, has_images = _inside(folders[0])
            if inner and not has_images:
                notices.info(
                    printable(
                        f"{source}: its only folder, {folders[0].name}, is not one class: the "
                        "folders in it are the classes"
                    )
                )
                source = folders[0]
                continue
        return _parts(source, folders, notices)
    return source, None


def _parts(source: Path, folders: List[Path], notices: Notices) -> Tuple[Path, Optional[Path]]:
    named = {part: [f for f in folders if f.name.lower() in names] for part, names in
             (("train", _TRAIN), ("val", _VAL), ("test", _TEST))}  # fmt: skip
    parts = [folder for found in named.values() for folder in found]
    if len(parts) < 2:
        return source, None
    names = ", ".join(folder.name for folder in parts)
    holds_classes = []
    for folder in parts:
        inner, has_images = _inside(folder)
        holds_classes.append(bool(inner) and not has_images)
    if not all(holds_classes):
        if len(parts) == len(folders):
            raise DataError(
                f"{source}: {names}: images in them are not in folders of classes: it must be "
                "train/CLASS/IMAGE and val/CLASS/IMAGE; rename a class that has such a name"
            )
        return source, None
    if len(named["train"]) != 1 or len(named["val"]) != 1:
        train = named["train"][0] if named["train"] else "FOLDER"
        raise DataError(
            f"{source}: {names}: these are parts of a data set, not classes, but not one train and "
            f"one val: give {train}, and --val FOLDER for validation images"
        )
    left = [folder.name for folder in folders if folder not in named["train"] + named["val"]]
    train, val = named["train"][0], named["val"][0]
    notices.info(
        printable(f"{source}: training images in {train.name}, validation images in {val.name}")
        + (printable(f"; not packed: {', '.join(left)}") if left else "")
    )
    return train, val


def _inside(folder: Path) -> Tuple[List[Path], bool]:
    """Return (the folders in a folder, whether it has images of its own)."""
    visible = [entry for entry in entries(folder) if not is_hidden(entry.name)]
    folders = [Path(entry.path) for entry in visible if is_folder(entry)]
    endings = {os.path.splitext(entry.name)[1].lower() for entry in visible if not is_folder(entry)}
    return folders, bool(endings & ENDINGS)


def folder_images(root: Path) -> ImageSet:
    """Return the images of a folder with a folder for each class; those may have folders of their
    own. Links are followed."""
    found = ImageSet([], [])
    for entry in entries(root):
        name = printable(entry.name)
        if is_hidden(entry.name):
            found.skipped.append((name, "hidden"))
        elif not is_folder(entry):
            found.skipped.append((name, "not in a folder of a class"))
        else:
            files = files_below(Path(entry.path), root, found.skipped)
            if not files:
                found.skipped.append((name, "a class without a file"))
                continue
            label = len(found.classes)
            found.items += [Item(label, name_below(path, root), ImageFile(path)) for path in files]
            found.classes.append(entry.name)
    return found


# Lists


def listed_images(lst: Path, rows: List[Row], root: Path) -> ImageSet:
    """Return the images of a list. A class has the name of the folder that its images are in, if no
    other images are in it; else its label."""
    items = [
        Item(row.label, printable(row.path), ImageFile(find_file(root, row.path))) for row in rows
    ]
    for name in (lambda row: row.folder, lambda row: os.path.dirname(row.path)):
        names = _names(rows, name)
        if names:
            return ImageSet(names, items)
    count = max((row.label for row in rows), default=-1) + 1
    return ImageSet(list(map(str, range(count))), items, are_names=False)


def _names(rows: List[Row], name: Callable[[Row], str]) -> Optional[List[str]]:
    """Return the names of the classes by label, None if there is not one for each."""
    names: Dict[int, Set[str]] = {}
    for row in rows:
        names.setdefault(row.label, set()).add(name(row))
    if any(len(each) != 1 for each in names.values()) or max(names, default=0) >= len(names):
        return None
    found = [next(iter(names[label])) for label in range(len(names))]
    return found if all(found) and len(set(found)) == len(found) else None
