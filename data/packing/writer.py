"""Encoded images into record files, which are whole or absent."""

import hashlib
import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
from tqdm import tqdm

from data import DataError
from data.formats import images
from data.formats.images import ImageError
from data.formats.recordfile import packed, writing
from data.packing import CHUNK
from log import schema
from log.files import read_json, read_text, write_whole

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


def encode_png(image) -> bytes:
    """Encode a (height, width, 3) uint8 image, channels in the order blue, green, red."""
    return cv2.imencode(".png", image)[1].tobytes()


def write_records(rec, items, total: int):
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
    rec,
    items,
    resize: int,
    quality: int,
    num_thread: int,
    chunk: int = CHUNK,
    strict: bool = True,
    enlarge: bool = True,
) -> list:
    """Resize and encode `items`, a list of (label, name, read), on `num_thread` threads, as im2rec
    does. `read()` gives the bytes of an image file, or raises ImageError; `name` is for messages.

    `resize` is the length of the short side in pixels; without `enlarge`, smaller images keep
    theirs. `quality` is that of the JPEGs, 1..100. An
    interrupted call goes on, when repeated, behind the last finished chunk. An image that can't be
    read is left out, and its number in the index stays unused; without `strict`, damaged JPEGs
    count as images, as they do for im2rec.
    Return [(name, reason)] of those left out, which are also in NAME.skipped.txt.
    """
    rec = Path(rec)
    list_of_skipped = rec.with_suffix(".skipped.txt")
    if finished(rec):
        print(f"{rec}: already there")
        return _read_skipped(list_of_skipped)
    rec.parent.mkdir(parents=True, exist_ok=True)
    part, part_idx = _part(rec), _part(rec.with_suffix(".idx"))
    progress = rec.with_name(rec.name + ".progress")
    # What the finished chunks were made from, and how long the files were behind the last one.
    job = {"images": digest(items), "resize": resize, "quality": quality, "chunk": chunk}
    if not enlarge:
        job["enlarge"] = False
    state = {"job": job, "done": 0, "rec": 0, "idx": 0, "skipped": []}
    if progress.exists():
        saved = read_json(progress, DataError, _STATE, "delete it to restart")
        if saved["job"] != job:
            raise DataError(f"{progress}: of another list or other settings; delete it to restart")
        state = saved
        # Interrupted between its two last steps.
        if rec.with_suffix(".idx").exists() and not part_idx.exists():
            os.replace(rec.with_suffix(".idx"), part_idx)
        for path, size in ((part, state["rec"]), (part_idx, state["idx"])):
            if not path.exists() or path.stat().st_size < size:
                raise DataError(f"{progress}: {path.name} is shorter; delete both to restart")

    encode = partial(_encode, resize=resize, quality=quality, strict=strict, enlarge=enlarge)
    # An interrupted run has left its folder.
    for folder in rec.parent.glob(f".{rec.name}-*"):
        shutil.rmtree(folder)
    with open(part, "ab") as rec_file, open(part_idx, "ab") as idx_file, tqdm(
        total=len(items), initial=state["done"], desc=rec.name, unit="image", disable=None
    ) as bar, ThreadPoolExecutor(num_thread) as pool:
        rec_file.truncate(state["rec"])
        idx_file.truncate(state["idx"])
        while state["done"] < len(items):
            numbers = range(state["done"], min(state["done"] + chunk, len(items)))
            results = pool.map(encode, (items[i][2] for i in numbers))
            with tempfile.TemporaryDirectory(dir=rec.parent, prefix=f".{rec.name}-") as folder:
                packed_chunk = Path(folder, "chunk.rec")
                with writing(packed_chunk, packed_chunk.with_suffix(".idx")) as writer:
                    for i, result in zip(numbers, results):
                        label, name, _ = items[i]
                        if isinstance(result, ImageError):
                            state["skipped"].append([name, str(result)])
                            bar.write(f"{rec.name}: left out: {name}: {result}")
                        else:
                            idx_file.write(b"%d\t%d\n" % (i, state["rec"] + writer.tell()))
                            writer.write_idx(i, packed(label, i, result))
                        bar.update()
                with open(packed_chunk, "rb") as source:
                    shutil.copyfileobj(source, rec_file, 1 << 24)
            for file in (rec_file, idx_file):
                file.flush()
                os.fsync(file.fileno())
            state.update(done=numbers.stop, rec=rec_file.tell(), idx=idx_file.tell())
            write_whole(progress, json.dumps(state).encode())
    if not state["rec"]:
        raise DataError(f"{rec}: none of its {len(items)} images can be read")
    if state["skipped"]:
        write_skipped(list_of_skipped, state["skipped"])
    _finish(rec)
    progress.unlink()
    left_out = len(state["skipped"])
    print(f"{rec}: {len(items) - left_out} images, {left_out} left out")
    return state["skipped"]


def digest(items) -> str:
    """Return a checksum of a list of (label, name, ...)."""
    lines = (f"{label}\t{name}\n" for label, name, *_ in items)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_skipped(path, skipped):
    write_whole(path, "".join(f"{name}\t{reason}\n" for name, reason in skipped).encode())


def _read_skipped(path):
    if not path.exists():
        return []
    lines = read_text(path, DataError).split("\n")
    return [line.split("\t", 1) for line in lines if "\t" in line]


def finished(rec: Path) -> bool:
    return rec.exists() and rec.with_suffix(".idx").exists()


def _encode(read, resize, quality, strict, enlarge):
    """Return the JPEG of an image, or the ImageError that says why there is none."""
    try:
        pixels = images.resized(images.read(read(), strict), resize, enlarge)
    except ImageError as error:
        return error
    # As mx.recordio.pack_img does.
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _finish(rec: Path):
    """Give the finished files their names, the .rec last: where it is, all is."""
    for path in (rec.with_suffix(".idx"), rec):
        os.replace(_part(path), path)
