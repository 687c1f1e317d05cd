"""Names of classes: the file beside records that lists them."""

from pathlib import Path
from typing import Optional

from data import DataError

#: The file beside training records that names the classes, one a line, in label order.
CLASSES = "classes.txt"


def class_names(rec) -> Optional[list]:
    """Return the class names in the file `CLASSES` beside the records, None where there is none."""
    path = Path(rec).with_name(CLASSES)
    return read_class_names(path) if path.exists() else None


def read_class_names(path) -> list:
    """Return the names in a file, one a line. Raises DataError where it is not UTF-8 text."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
    return lines if lines[-1] else lines[:-1]


def write_class_names(folder, names):
    """Write classes.txt: the names of the classes in the order of the labels, one a line."""
    text = "".join(f"{printable(name)}\n" for name in names)
    Path(folder, "classes.txt").write_text(text, encoding="utf-8")


def printable(name: str) -> str:
    """Return a file's name in one line of Unicode: what is neither is written as in Python."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
