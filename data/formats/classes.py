"""Names of classes: the file next to records that lists them."""

from pathlib import Path
from typing import Iterable, List, Optional

from data import DataError
from log.files import PathLike, read_text, write_whole

#: The file next to training records that names the classes, one a line, in label order.
CLASSES = "classes.txt"


def class_names(rec: PathLike) -> Optional[List[str]]:
    """Return the class names in the file `CLASSES` next to the records, None if there is none."""
    path = Path(rec).with_name(CLASSES)
    return read_class_names(path) if path.exists() else None


def read_class_names(path: PathLike) -> List[str]:
    """Return the names in a file, one a line. Raises DataError where it is not UTF-8 text."""
    lines = read_text(path, DataError).split("\n")
    return lines if lines[-1] else lines[:-1]


def write_class_names(folder: PathLike, names: Iterable[str]) -> None:
    """Write classes.txt: the names of the classes in the order of the labels, one a line."""
    text = "".join(f"{printable(name)}\n" for name in names)
    write_whole(Path(folder, CLASSES), text.encode())


def printable(name: str) -> str:
    """Return a file's name in one line of Unicode: what is neither is written as in Python."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
