"""Images into record files (RecordIO, as MXNet's ImageRecordIter reads them).

Two ways in: `write_records` takes encoded images from memory, `pack_files` has MXNet's own im2rec
resize and encode files on all cores. Either leaves NAME.rec and its index NAME.idx, or neither.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import cv2
import mxnet as mx
from tqdm import tqdm

from data import DataError

#: Images that one call of im2rec packs: what an interrupted run does again, at most.
CHUNK = 10_000


def encode_png(image) -> bytes:
    """Encode a (height, width, 3) uint8 image, channels in the order blue, green, red."""
    return cv2.imencode(".png", image)[1].tobytes()


@contextmanager
def open_tar(path, mode="r"):
    """The tar archive, compressed or not; with mode ``r:``, an uncompressed one only, whose members
    are ranges of its bytes. Raises DataError where it is missing or damaged."""
    try:
        with tarfile.open(path, mode) as tar:
            yield tar
            # A compressed archive's checksum is behind all that tarfile reads by itself.
            while tar.fileobj.read(1 << 20):
                pass
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        reason = str(error).split(":\n")[0]
        raise DataError(f"{path}: damaged, or not a tar archive: {reason}") from None


def write_records(rec, items, total: int):
    """Write `total` `items`, pairs (label, encoded image), as the records 0, 1, ... of `rec`."""
    rec = Path(rec)
    if finished(rec):
        print(f"{rec}: already there")
        return
    rec.parent.mkdir(parents=True, exist_ok=True)
    part, part_idx = _part(rec), _part(rec.with_suffix(".idx"))
    writer = mx.recordio.MXIndexedRecordIO(str(part_idx), str(part), "w")
    for i, (label, image) in enumerate(tqdm(items, total=total, desc=rec.name, unit="image")):
        header = mx.recordio.IRHeader(0, float(label), i, 0)
        writer.write_idx(i, mx.recordio.pack(header, image))
    writer.close()
    _finish(rec)
    print(f"{rec}: {total} images")


def pack_files(rec, items, resize: int, quality: int, num_thread: int, chunk: int = CHUNK):
    """Pack `items`, a list of (label, name, read), with MXNet's im2rec; `read()` gives the bytes
    of an image file, `name` is for messages.

    `resize` is the length of the short side in pixels, `quality` that of the JPEGs, 1..100. An
    interrupted call goes on, when repeated, behind the last finished chunk. An image that im2rec
    can't read is named and left out, and its number in the index stays unused.
    """
    rec = Path(rec)
    if finished(rec):
        print(f"{rec}: already there")
        return
    rec.parent.mkdir(parents=True, exist_ok=True)
    part, part_idx = _part(rec), _part(rec.with_suffix(".idx"))
    progress = rec.with_name(rec.name + ".progress")
    # What the finished chunks were made from, and how long the files were behind the last one.
    names = hashlib.sha256("".join(f"{label}\t{name}\n" for label, name, _ in items).encode())
    job = {"images": names.hexdigest(), "resize": resize, "quality": quality, "chunk": chunk}
    state = {"job": job, "done": 0, "rec": 0, "idx": 0, "skipped": 0}
    if progress.exists():
        saved = json.loads(progress.read_text())
        if saved["job"] != job:
            raise DataError(f"{progress}: of another list or other settings; delete it to restart")
        state = saved
        # Interrupted between its two last steps.
        if rec.with_suffix(".idx").exists() and not part_idx.exists():
            os.replace(rec.with_suffix(".idx"), part_idx)
        for path, size in ((part, state["rec"]), (part_idx, state["idx"])):
            if not path.exists() or path.stat().st_size < size:
                raise DataError(f"{progress}: {path.name} is shorter; delete both to restart")

    # An interrupted im2rec has left its folder.
    for folder in rec.parent.glob(f".{rec.name}-*"):
        shutil.rmtree(folder)
    with open(part, "ab") as rec_file, open(part_idx, "ab") as idx_file, tqdm(
        total=len(items), initial=state["done"], desc=rec.name, unit="image"
    ) as bar:
        rec_file.truncate(state["rec"])
        idx_file.truncate(state["idx"])
        while state["done"] < len(items):
            numbers = range(state["done"], min(state["done"] + chunk, len(items)))
            with tempfile.TemporaryDirectory(dir=rec.parent, prefix=f".{rec.name}-") as folder:
                packed, index, skipped = _im2rec(
                    folder, [(i, *items[i]) for i in numbers], resize, quality, num_thread
                )
                with open(packed, "rb") as source:
                    _append(source, rec_file)
            for i, offset in index:
                idx_file.write(b"%d\t%d\n" % (i, state["rec"] + offset))
            for file in (rec_file, idx_file):
                file.flush()
                os.fsync(file.fileno())
            state.update(done=numbers.stop, rec=rec_file.tell(), idx=idx_file.tell())
            state["skipped"] += len(skipped)
            for i in skipped:
                bar.write(f"{rec.name}: {items[i][1]} can't be read and is left out")
            new = progress.with_name(progress.name + ".new")
            new.write_text(json.dumps(state))
            os.replace(new, progress)
            bar.update(len(numbers))
    _finish(rec)
    progress.unlink()
    print(f"{rec}: {len(items) - state['skipped']} images, {state['skipped']} left out")


def finished(rec: Path) -> bool:
    return rec.exists() and rec.with_suffix(".idx").exists()


def _im2rec(folder, items, resize, quality, num_thread):
    """Return im2rec's .rec file, its index [(number, offset)], and the numbers it left out."""
    for i, _, _, read in items:
        Path(folder, f"{i}").write_bytes(read())
    prefix = Path(folder, "chunk")
    # With one thread, im2rec stops at an image that it can't read.
    num_thread = max(num_thread, 2)
    prefix.with_suffix(".lst").write_text(
        "".join(f"{i}\t{label:f}\t{i}\n" for i, label, _, _ in items)
    )
    script = Path(mx.__file__).with_name("tools") / "im2rec.py"
    command = [
        sys.executable, script, prefix, folder, "--resize", resize, "--quality", quality,
        "--num-thread", num_thread,
    ]  # fmt: skip
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    packed = prefix.with_suffix(".rec")
    if done.returncode or not packed.exists():
        raise DataError(f"im2rec failed: {(done.stderr or done.stdout).strip()[-300:]}")
    lines = prefix.with_suffix(".idx").read_text().split("\n")[:-1]
    index = [tuple(map(int, line.split("\t"))) for line in lines]
    return packed, index, sorted({i for i, *_ in items} - {i for i, _ in index})


def _append(source, target, block=1 << 24):
    while data := source.read(block):
        target.write(data)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _finish(rec: Path):
    """Give the finished files their names, the .rec last: where it is, all is."""
    for path in (rec.with_suffix(".idx"), rec):
        os.replace(_part(path), path)
