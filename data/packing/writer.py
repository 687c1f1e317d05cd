"""Encoded images into record files, which are whole or absent."""

import hashlib
import json
import os
import shutil
import tempfile
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import (
    Any,
    BinaryIO,
    Callable,
    Collection,
    Dict,
    Iterable,
    Iterator,
    List,
    Sequence,
    Tuple,
    Union,
)

import cv2
import numpy as np
from tqdm import tqdm

from data import DataError
from data.formats import images
from data.formats.classes import printable
from data.formats.images import ImageError
from data.formats.recordfile import packed, writing
from data.formats.recordset import scan
from data.packing import CHUNK
from log import schema
from log.files import PathLike, read_json, read_text, write_whole

# What is kept of an interrupted `pack_files`.
_STATE = schema.entries(
    {
        "job": schema.map_of(schema.anything),
        "done": schema.whole(),
        "rec": schema.whole(),
        "idx": schema.whole(),
        "skipped": schema.list_of(schema.tuple_of(schema.text, schema.text)),
    }
)


def encode_png(image: np.ndarray) -> bytes:
    """Encode a (height, width, 3) uint8 image, channels in the order blue, green, red."""
    return cv2.imencode(".png", image)[1].tobytes()


def write_records(rec: PathLike, items: Iterable[Tuple[int, bytes]], total: int) -> None:
    """Write `total` `items`, pairs (label, encoded image), as the records 0, 1, ... of `rec`."""
    rec = Path(rec)
    if finished(rec):
        print(f"{rec}: already there")
        return
    rec.parent.mkdir(parents=True, exist_ok=True)
    part, part_idx = _part(rec), _part(rec.with_suffix(".idx"))
    with writing(part, part_idx) as writer:
        for i, (label, image) in enumerate(
            tqdm(items, total=total, desc=rec.name, unit="image", disable=None)
        ):
            writer.write_idx(i, packed(label, i, image))
    _finish(rec)
    print(f"{rec}: {total} images")


def pack_files(
    rec: PathLike,
    items: Sequence[Tuple[int, str, Callable[[], bytes]]],
    resize: int,
    quality: int,
    num_thread: int,
    chunk: int = CHUNK,
    strict: bool = True,
    enlarge: bool = True,
) -> List[Tuple[str, str]]:
    """Resize and encode `items`, a list of (label, name, read), on `num_thread` threads, as im2rec
    does. `read()` gives the bytes of an image file, or raises ImageError; `name` is for messages.

    `resize` is the length of the short side in pixels; without `enlarge`, smaller images keep
    theirs. `quality` is that of the JPEGs, 1..100. An interrupted call resumes, when repeated,
    after the last finished chunk. An image that can't be read is left out, and its number in the
    index stays unused; without `strict`, damaged JPEGs count as images, as they do for im2rec.
    Return [(name, reason)] of those left out, which are also in NAME.skipped.txt.
    """
    rec = Path(rec)
    list_of_skipped = rec.with_suffix(".skipped.txt")
    if finished(rec):
        print(f"{rec}: already there")
        return _read_skipped(list_of_skipped)
    rec.parent.mkdir(parents=True, exist_ok=True)
    # What the finished chunks were made from.
    job = {"images": digest(items), "resize": resize, "quality": quality, "chunk": chunk}
    if not enlarge:
        job["enlarge"] = False
    progress = _Progress.of(rec, job)
    encode = partial(_encode, resize=resize, quality=quality, strict=strict, enlarge=enlarge)
    # An interrupted run has left its folder.
    for folder in rec.parent.glob(f".{rec.name}-*"):
        shutil.rmtree(folder)
    with open(_part(rec), "ab") as rec_file, open(
        _part(rec.with_suffix(".idx")), "ab"
    ) as idx_file, tqdm(
        total=len(items), initial=progress.done, desc=rec.name, unit="image", disable=None
    ) as bar, ThreadPoolExecutor(num_thread) as pool:
        rec_file.truncate(progress.rec)
        idx_file.truncate(progress.idx)
        while progress.done < len(items):
            numbers = range(progress.done, min(progress.done + chunk, len(items)))
            content = _encoded(items, numbers, encode, pool, progress.skipped, rec, bar)
            _append_chunk(rec, content, progress.rec, rec_file, idx_file)
            progress.reached(numbers.stop, rec_file.tell(), idx_file.tell())
    if not progress.rec:
        raise DataError(f"{rec}: none of its {len(items)} images can be read")
    if progress.skipped:
        write_skipped(list_of_skipped, progress.skipped)
    _finish(rec)
    progress.path.unlink()
    left_out = len(progress.skipped)
    print(f"{rec}: {len(items) - left_out} images, {left_out} left out")
    return progress.skipped


@dataclass
class _Progress:
    """The progress of an interrupted call, kept in NAME.rec.progress.

    done : items. rec, idx : bytes of the files after the last finished chunk.
    """

    path: Path
    job: Dict[str, Any]
    done: int = 0
    rec: int = 0
    idx: int = 0
    skipped: List[Tuple[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, rec: Path, job: Dict[str, Any]) -> "_Progress":
        """Return where to resume. Raises DataError if it was another job or its files are gone."""
        path = rec.with_name(rec.name + ".progress")
        if not path.exists():
            return cls(path, job)
        saved = read_json(path, DataError, _STATE, "delete it to restart")
        if saved["job"] != job:
            raise DataError(
                f"{path}: made from another list or with other settings; delete it to restart"
            )
        index = rec.with_suffix(".idx")
        # Interrupted between its two last steps.
        if index.exists() and not _part(index).exists():
            os.replace(index, _part(index))
        for file, size in ((_part(rec), saved["rec"]), (_part(index), saved["idx"])):
            if not file.exists() or file.stat().st_size < size:
                raise DataError(f"{path}: {file.name} is shorter; delete both to restart")
        saved["skipped"] = [(name, reason) for name, reason in saved["skipped"]]
        return cls(path, **saved)

    def reached(self, done: int, rec: int, idx: int) -> None:
        self.done, self.rec, self.idx = done, rec, idx
        state = {name: getattr(self, name) for name in ("job", "done", "rec", "idx", "skipped")}
        write_whole(self.path, json.dumps(state).encode())


def _encoded(
    items: Sequence[Tuple[int, str, Callable[[], bytes]]],
    numbers: Sequence[int],
    encode: Callable[[Callable[[], bytes]], Union[bytes, ImageError]],
    pool: Executor,
    skipped: List[Tuple[str, str]],
    rec: Path,
    bar: tqdm,
) -> Iterator[Tuple[int, bytes]]:
    """Yield (number, record) of the items with these numbers; add to `skipped` what is left out."""
    results = pool.map(encode, (items[i][2] for i in numbers))
    for i, result in zip(numbers, results):
        label, name, _ = items[i]
        if isinstance(result, ImageError):
            skipped.append((name, str(result)))
            bar.write(f"{rec.name}: left out: {name}: {result}")
        else:
            yield i, packed(label, i, result)
        bar.update()


def _append_chunk(
    rec: Path,
    content: Iterable[Tuple[int, bytes]],
    start: int,
    rec_file: BinaryIO,
    idx_file: BinaryIO,
) -> None:
    """Append (number, record) pairs to the files. start : where the records' file ends."""
    with tempfile.TemporaryDirectory(dir=rec.parent, prefix=f".{rec.name}-") as folder:
        chunk = Path(folder, "chunk.rec")
        with writing(chunk, chunk.with_suffix(".idx")) as writer:
            for i, record in content:
                idx_file.write(b"%d\t%d\n" % (i, start + writer.tell()))
                writer.write_idx(i, record)
        with open(chunk, "rb") as source:
            shutil.copyfileobj(source, rec_file, 1 << 24)
    for file in (rec_file, idx_file):
        file.flush()
        os.fsync(file.fileno())


def _encode(
    read: Callable[[], bytes], resize: int, quality: int, strict: bool, enlarge: bool
) -> Union[bytes, ImageError]:
    """Return the JPEG of an image, or the ImageError that gives the reason for leaving it out."""
    try:
        pixels = images.resized(images.read(read(), strict), resize, enlarge)
    except ImageError as error:
        return error
    # As mx.recordio.pack_img does.
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def digest(items: Iterable[Tuple[int, str, Any]]) -> str:
    """Return a checksum of a list of (label, name, ...)."""
    lines = (f"{label}\t{name}\n" for label, name, *_ in items)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_list(path: PathLike, items: Iterable[Tuple[int, str, Any]]) -> None:
    """Write which record is which file, as im2rec's lists have it."""
    lines = (f"{i}\t{label}\t{name}\n" for i, (label, name, _) in enumerate(items))
    write_whole(path, "".join(lines).encode())


def write_skipped(path: PathLike, skipped: Iterable[Tuple[str, str]]) -> None:
    write_whole(path, "".join(f"{name}\t{reason}\n" for name, reason in skipped).encode())


def _read_skipped(path: Path) -> List[Tuple[str, str]]:
    if not path.exists():
        return []
    lines = [line.partition("\t") for line in read_text(path, DataError).split("\n")]
    return [(name, reason) for name, tab, reason in lines if tab]


def classes_without_images(
    rec: PathLike, items: Iterable[Tuple[int, str, Any]], classes: Sequence[str]
) -> Iterator[str]:
    """Yield a warning for each class without an image in the records."""
    wanted: Dict[int, int] = {}
    for label, *_ in items:
        wanted[label] = wanted.get(label, 0) + 1
    left_out: Collection[int] = set(wanted) - set(scan(rec).labels.astype(int).tolist())
    for label in sorted(left_out):
        yield (
            f"class {label}, {printable(classes[label])}: none of its {wanted[label]} images "
            "can be read: repair the images, or remove their folder, and pack again into another "
            "folder"
        )


def finished(rec: Path) -> bool:
    return rec.exists() and rec.with_suffix(".idx").exists()


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _finish(rec: Path) -> None:
    """Give the finished files their names, the .rec last: if it exists, so do the others."""
    for path in (rec.with_suffix(".idx"), rec):
        os.replace(_part(path), path)
