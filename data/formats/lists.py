"""Lists of images, as MXNet's im2rec has them: lines of a number, a label and a path, with tabs
between."""

import os
from pathlib import Path
from typing import List, NamedTuple, Optional, Tuple

from data import DataError
from log.files import PathLike, read_file

#: More classes than any network has; a larger label is an id of something else.
MAX_CLASSES = 1_000_000
_LIMIT = 1 << 32


class Row(NamedTuple):
    """A line of a list. line : its number, from 1."""

    line: int
    label: int
    path: str

    @property
    def folder(self) -> str:
        """The name of the folder that the file is in, empty if the list does not tell."""
        return os.path.basename(os.path.dirname(self.path))


def read_list(lst: PathLike) -> List[Row]:
    """Return the lines of a list. Raises DataError, which names the line and what is wrong."""
    text = os.fsdecode(read_file(lst, DataError, _LIMIT, "a list of images"))
    rows, numbers = [], set()
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            number, row = _parsed(line, content.rstrip("\r"))
        except ValueError as reason:
            raise DataError(f"{lst}: line {line}: {reason}") from None
        numbers.add(number)
        rows.append(row)
    labels = {row.label for row in rows}
    if len(rows) > 2 and len(labels) == len(rows) > len(numbers):
        raise DataError(
            f"{lst}: each row has a label of its own, and the first column repeats: number and "
            "label are swapped"
        )
    return rows


def _parsed(line: int, content: str) -> Tuple[float, Row]:
    """Return (number, Row). Raises ValueError."""
    columns = content.split("\t")
    if len(columns) < 3 or _number(columns[0]) is None:
        raise ValueError("not a number, a label and a path with tabs between")
    if len(columns) > 3:
        raise ValueError(f"{len(columns) - 2} labels: one is needed")
    number, word, path = columns
    label = _number(word)
    if label is None and _number(path) is not None:
        raise ValueError("label and path are swapped: the order is number, label, path")
    if label is None or not label >= 0 or not label.is_integer():
        raise ValueError(f"its label is {word!r}, not a whole number from 0 up")
    if label >= MAX_CLASSES:
        raise ValueError(
            f"its label is {word}: classes are numbered from 0, without gaps: an id of something "
            "else?"
        )
    if not path.strip() or "\0" in path:
        raise ValueError(f"{path!r} is not a path")
    return float(number), Row(line, int(label), path)


def _number(word: str) -> Optional[float]:
    try:
        return float(word)
    except ValueError:
        return None


def find_file(root: Path, path: str) -> Path:
    """Return where the file of a list is: `path` below `root`. If nothing is there: without a
    leading slash, without spaces around, with the slashes that another system writes otherwise."""
    found = Path(root, path)
    stripped = path.strip()
    others = dict.fromkeys((stripped, stripped.replace("\\", "/")))
    candidates = [Path(root, other.lstrip("/")) for other in others]
    if path == stripped and "\\" not in path and not path.startswith("/"):
        return found  # as nearly all: no look at the disk
    return next((each for each in [found, *candidates] if os.path.lexists(each)), found)
