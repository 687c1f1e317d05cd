"""Every record of a file: what is wrong with it, and a copy of the file without the bad ones."""

import hashlib
import json
import os
import random
import shutil
import tempfile
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, List, Optional, Tuple

import numpy as np
from tqdm import tqdm

from data import DataError
from data.formats.images import is_seen_otherwise
from data.formats.recordfile import (
    Found,
    has_checksum,
    problem_of,
    unpacked,
    walk,
    writes_checksums,
    writing,
)
from data.formats.recordset import read_index, record_files
from log import schema
from log.files import PathLike, read_json, write_whole

# Bytes that one task of a thread checks: small records in groups.
_GROUP = 1 << 18


#: A record, or what is there instead, and what is wrong with it.
Checked = Tuple[Found, Optional[str]]


def checked(
    path: PathLike,
    num_classes: Optional[int] = None,
    index: Optional[np.ndarray] = None,
    num_thread: int = 1,
) -> Iterator[Checked]:
    """Yield (Found, what is wrong with it or None) for each record of a file, in order.

    num_classes : labels must be below it. index : rows (number, byte offset) that must fit.
    """
    numbers = None if index is None else {offset: number for number, offset in index.tolist()}
    with_checksum = writes_checksums(path)

    def check(found: Found) -> Optional[str]:
        if found.record is None:
            return found.problem
        if numbers is not None and found.offset not in numbers:
            return "not in the index"
        number = None if numbers is None else numbers[found.offset]
        return problem_of(found.record, num_classes, number, with_checksum)

    def check_group(group: List[Found]) -> List[Checked]:
        return [(found, check(found)) for found in group]

    with ThreadPoolExecutor(num_thread) as pool:
        waiting: Deque[Future[List[Checked]]] = deque()
        for group in _grouped(walk(path)):
            waiting.append(pool.submit(check_group, group))
            if len(waiting) > 2 * num_thread:
                yield from waiting.popleft().result()
        for task in waiting:
            yield from task.result()


def _grouped(places: Iterable[Found]) -> Iterator[List[Found]]:
    group: List[Found] = []
    size = 0
    for found in places:
        group.append(found)
        size += len(found.record or b"")
        if size >= _GROUP:
            yield group
            group, size = [], 0
    yield group


def verify(
    path: PathLike,
    num_classes: Optional[int],
    num_thread: int,
    repair: Optional[PathLike] = None,
    show: int = 0,
) -> Tuple[int, List[Found]]:
    """Check a file and print what is wrong with it.

    repair : folder for a copy of the good records, under the same name.
    Return (how much is wrong, `show` good records, drawn at random, in order).
    """
    index, wrong = None, 0
    try:
        index = read_index(path)
    except DataError as error:
        print(error)
        wrong = 1
    count = good = without_checksum = altered = 0
    offsets = set()
    shown: List[Found] = []
    randomness = random.Random(0)
    target = Path(repair, Path(path).name) if repair else None
    with _copying(target, index) if target else nullcontext() as copy, _bar(path) as bar:
        for found, problem in checked(path, num_classes, index, num_thread):
            count += 1
            offsets.add(found.offset)
            bar.update(found.offset - bar.n)
            if problem:
                wrong += 1
                bar.write(f"{path}: {found.place}: {problem}")
                continue
            good += 1
            without_checksum += not has_checksum(found.content)
            altered += is_seen_otherwise(unpacked(found.content).image)
            if copy:
                copy(found)
            if len(shown) < show:
                shown.append(found)
            elif randomness.randrange(good) < show:
                shown[randomness.randrange(show)] = found
        bar.update(bar.total - bar.n)
    for number, offset in [] if index is None else index.tolist():
        if offset not in offsets:
            wrong += 1
            print(f"{Path(path).with_suffix('.idx')}: {number}: no record begins at byte {offset}")
    if not count:
        wrong += 1
        print(f"{path}: no records in it")
    print(f"{path}: {count} records, {wrong or 'nothing'} wrong")
    if without_checksum:
        print(
            f"{path}: {without_checksum} records have no checksum: in these, a label that "
            "was changed to another class, or pixels in an image that still decodes, can't be "
            "noticed"
        )
    if altered:
        print(
            f"{path}: {altered} records have transparency or an EXIF rotation: MXNet ignores "
            "transparency, and rotates only JPEGs; data.pack and model.predict apply both, as an "
            "image viewer does"
        )
    if target:
        print(f"{target}: {good} records")
    return wrong, sorted(shown, key=lambda found: found.number)


def _bar(path: PathLike) -> tqdm:
    return tqdm(
        total=os.path.getsize(path), desc=Path(path).name, unit="B", unit_scale=True, disable=None
    )


@contextmanager
def _copying(target: Path, index: Optional[np.ndarray]) -> Iterator[Callable[[Found], None]]:
    """Give a function that copies a record into the file `target`; it is there, whole and with its
    index, when the context ends.

    index : of the original: a record keeps its number in it; without one that in its header, if it
    has a checksum, else its place.
    """
    numbers = {} if index is None else {offset: number for number, offset in index.tolist()}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        part = Path(folder, target.name)
        with writing(part, part.with_suffix(".idx")) as writer:

            def copy(found: Found) -> None:
                record = found.content
                own = unpacked(record).number if has_checksum(record) else found.number
                writer.write_idx(numbers.get(found.offset, own), record)

            yield copy
        for ending in (".idx", ".rec"):
            os.replace(part.with_suffix(ending), target.with_suffix(ending))


def without_bad_records(records: PathLike, num_thread: int) -> Tuple[str, List[str]]:
    """Return (the good records of a set, [what is left out]): each file itself where all of it is
    good, else NAME.clean.rec next to it, or in the user's cache if that folder can't be written to.
    What was found is kept in NAME.clean.json there, for as long as the file is the same."""
    files = record_files(records)
    found = [_without_bad_records(Path(file), num_thread) for file in files]
    if len(files) == 1:
        return found[0]
    bad = [f"{file}: {each}" for file, (_, of_file) in zip(files, found) for each in of_file]
    return (";".join(clean for clean, _ in found) if bad else os.fspath(records)), bad


def _without_bad_records(path: Path, num_thread: int) -> Tuple[str, List[str]]:
    clean = _folder_for_copy(path) / path.with_suffix(".clean.rec").name
    notes = clean.with_suffix(".json")
    status = os.stat(path)
    same = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    known = _known(notes)
    if not known or known["file"] != same or (known["bad"] and not clean.exists()):
        bad = []
        clean.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(clean.parent).free < status.st_size:
            raise DataError(
                f"{clean.parent}: no room for a copy of {path.name} without its bad records"
            )
        index = read_index(path)
        with _copying(clean, index) as copy, _bar(path) as bar:
            for found, problem in checked(path, index=index, num_thread=num_thread):
                bar.update(found.offset - bar.n)
                if problem:
                    bad.append(f"{found.place}: {problem}")
                else:
                    copy(found)
        if not bad:
            for ending in (".idx", ".rec"):
                clean.with_suffix(ending).unlink()
        known = {"file": same, "bad": bad}
        write_whole(notes, json.dumps(known, indent=1).encode())
    return str(clean if known["bad"] else path), known["bad"]


def _folder_for_copy(path: Path) -> Path:
    """Return the folder for a copy of records: theirs or, if it can't be written, one of their own
    in the user's cache."""
    if os.access(path.parent, os.W_OK):
        return path.parent
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    return Path(cache, "xception", digest[:16])


_KNOWN = schema.entries({"file": schema.map_of(schema.whole()), "bad": schema.list_of(schema.text)})


def _known(notes: Path) -> Optional[Dict[str, Any]]:
    """Return what was found in an earlier run, None if that is not known or damaged."""
    known: Optional[Dict[str, Any]] = None
    if notes.exists():
        with suppress(DataError):
            known = read_json(notes, DataError, _KNOWN)
    return known
