"""Images into record files (RecordIO, as MXNet's ImageRecordIter reads them).

    python -m data.pack IMAGES OUT

IMAGES is a folder with a folder of images for each class, or a .lst file of MXNet's im2rec. OUT
gets train.rec and val.rec with their indexes, train.lst and val.lst (which record is which file, as
im2rec has them) and classes.txt, the names of the classes in the order of the labels.

What im2rec does, and with the same pixels, but: an image that is cut off or damaged is left out, as
is what is no image, each with its reason; EXIF rotation of WebP is followed; transparent pixels
become white; GIFs are read; any file name will do; and an interrupted run goes on.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import stat
import sys
import tarfile
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
from tqdm import tqdm

from data import DataError
from data.formats import images
from data.formats.images import ImageError
from data.formats.recordfile import packed, writing
from log.command import OneLineParser, add_num_thread_arg, whole

#: Images between two places that an interrupted run goes on from.
CHUNK = 1000
#: A larger file is no image that one would train on.
_MAX_BYTES = 1 << 30


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
    with writing(part, part_idx) as writer:
        for i, (label, image) in enumerate(
            tqdm(items, total=total, desc=rec.name, unit="image", disable=None)
        ):
            writer.write_idx(i, packed(label, i, image))
    _finish(rec)
    print(f"{rec}: {total} images")


def write_class_names(folder, names):
    """Write classes.txt: the names of the classes in the order of the labels, one a line."""
    text = "".join(f"{printable(name)}\n" for name in names)
    Path(folder, "classes.txt").write_text(text, encoding="utf-8")


def printable(name: str) -> str:
    """Return a file's name in one line of Unicode: what is neither is written as in Python."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def pack_files(
    rec, items, resize: int, quality: int, num_thread: int, chunk: int = CHUNK, strict: bool = True
) -> list:
    """Resize and encode `items`, a list of (label, name, read), on `num_thread` threads, as im2rec
    does. `read()` gives the bytes of an image file, or raises ImageError; `name` is for messages.

    `resize` is the length of the short side in pixels, `quality` that of the JPEGs, 1..100. An
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
    state = {"job": job, "done": 0, "rec": 0, "idx": 0, "skipped": []}
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

    encode = partial(_encode, resize=resize, quality=quality, strict=strict)
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
            new = progress.with_name(progress.name + ".new")
            new.write_text(json.dumps(state))
            os.replace(new, progress)
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
    Path(path).write_text("".join(f"{name}\t{reason}\n" for name, reason in skipped), "utf-8")


def _read_skipped(path):
    if not path.exists():
        return []
    return [line.split("\t", 1) for line in path.read_text("utf-8").splitlines()]


def finished(rec: Path) -> bool:
    return rec.exists() and rec.with_suffix(".idx").exists()


def _encode(read, resize, quality, strict):
    """Return the JPEG of an image, or the ImageError that says why there is none."""
    try:
        pixels = images.resized(images.read(read(), strict), resize)
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


# A person's folder


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
    text = os.fsdecode(lst.read_bytes())
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


def split(items, fraction: float, seed: int) -> tuple:
    """Return (training, validation) items: of each class this fraction for validation, rounded, but
    one at least where the class has two; in the order of the classes, the training images shuffled.
    """
    by_class = {}
    for item in items:
        by_class.setdefault(item[0], []).append(item)
    randomness = random.Random(seed)
    training, validation = [], []
    for label in sorted(by_class):
        members = by_class[label]
        randomness.shuffle(members)
        count = max(round(fraction * len(members)), 1) if fraction else 0
        count = min(count, len(members) - 1)
        validation += members[:count]
        training += members[count:]
    # ImageRecordIter shuffles within some megabytes only.
    randomness.shuffle(training)
    return training, validation


def add_packing_args(parser):
    """Add what says how `pack_files` works, and nothing about its records."""
    add_num_thread_arg(parser)
    parser.add_argument(
        "--chunk",
        type=whole(1),
        default=CHUNK,
        metavar="N",
        help="images at a time: what an interruption costs at most (default: %(default)s)",
    )


def parse_arguments(argv) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m data.pack",
        description="Pack images into train.rec and val.rec. The same command goes on where it was "
        "interrupted.",
    )
    parser.add_argument(
        "images", type=Path, help="folder with a folder for each class, or a .lst file of im2rec"
    )
    parser.add_argument("out", type=Path, help="folder for the records")
    parser.add_argument(
        "--val",
        type=Path,
        metavar="IMAGES",
        help="validation images, like IMAGES (default: a part of IMAGES, --val-fraction)",
    )
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=0.1,
        metavar="X",
        help="of each class, for validation; 0 for none (default: %(default)s)",
    )
    parser.add_argument(
        "--root", type=Path, help="folder that a .lst file's paths begin in (default: that file's)"
    )
    parser.add_argument(
        "--resize",
        type=whole(1),
        default=480,
        metavar="PIXELS",
        help="short side of the training images (default: %(default)s)",
    )
    parser.add_argument(
        "--val-resize",
        type=whole(1),
        default=256,
        metavar="PIXELS",
        help="short side of the validation images, whose centre is what a network is shown "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--quality",
        type=whole(1),
        default=90,
        metavar="N",
        help="of the JPEGs, 1 to 100 (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=whole(0),
        default=0,
        metavar="N",
        help="of the split and the order of the training images (default: %(default)s)",
    )
    add_packing_args(parser)
    args = parser.parse_args(argv)
    if not 0 <= args.val_fraction < 1:
        parser.error(f"--val-fraction: must be in [0, 1), not {args.val_fraction}")
    if args.quality > 100:
        parser.error(f"--quality: must be at most 100, not {args.quality}")
    return args


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


def plan(args) -> tuple:
    """Return (class names, {"train" or "val": items}, [(name, reason)] of what is left out)."""
    classes, items, skipped = find_images(args.images, args.root)
    if args.val is None:
        training, validation = split(items, args.val_fraction, args.seed)
    else:
        training, _ = split(items, 0, args.seed)
        names, validation, more = find_images(args.val, args.root)
        if args.val.is_dir():  # a list has labels of its own
            label = {name: i for i, name in enumerate(classes)}
            unknown = [name for name in names if name not in label]
            if unknown:
                raise DataError(f"{args.val}: {unknown[0]!r} is no class of {args.images}")
            validation = [(label[names[own]], *rest) for own, *rest in validation]
        elif len(names) > len(classes):
            raise DataError(f"{args.val}: label {len(names) - 1} is no class of {args.images}")
        skipped += more
    parts = {"train": training, "val": validation}
    return classes, {name: part for name, part in parts.items() if part}, skipped


def remember_job(args, parts):
    """Write down what the records in the folder are made from; raise DataError where those that are
    there were made from something else."""
    job = {name: digest(items) for name, items in parts.items()}
    job.update(resize=args.resize, val_resize=args.val_resize, quality=args.quality)
    path = args.out / "pack.json"
    if path.exists() and json.loads(path.read_text()) != job:
        raise DataError(
            f"{args.out} has records of other images or settings: give another folder, or delete it"
        )
    if not path.exists() and any(args.out.glob("*.rec")):
        raise DataError(f"{args.out} has records that data.pack did not make: give another folder")
    path.write_text(json.dumps(job, indent=1))


def main(argv=None) -> int:
    args = parse_arguments(argv)
    code = 2
    try:
        classes, parts, skipped = plan(args)
        args.out.mkdir(parents=True, exist_ok=True)
        remember_job(args, parts)
        write_class_names(args.out, classes)
        code = 1
        for name, reason in skipped:
            print(f"left out: {name}: {reason}")
        if skipped:
            write_skipped(args.out / "skipped.txt", skipped)
        left_out = len(skipped)
        for name, items in parts.items():
            lines = (f"{i}\t{label}\t{path}\n" for i, (label, path, _) in enumerate(items))
            (args.out / f"{name}.lst").write_text("".join(lines), "utf-8")
            resize = args.resize if name == "train" else args.val_resize
            left_out += len(
                pack_files(
                    args.out / f"{name}.rec", items, resize, args.quality, args.num_thread,
                    args.chunk,
                )
            )  # fmt: skip
    except DataError as error:
        print(f"data.pack: error: {error}", file=sys.stderr)
        return code
    except OSError as error:
        print(f"data.pack: error: {error.filename or args.out}: {error.strerror}", file=sys.stderr)
        return code
    except KeyboardInterrupt:
        print("data.pack: interrupted; the same command goes on", file=sys.stderr)
        return 130
    print(
        f"{args.out}: {len(classes)} classes; {left_out} files left out"
        + (f", listed in {args.out}/*skipped.txt" if left_out else "")
    )
    without = "" if "val" in parts else " --data-val="
    print(f"next: python -u train_xception.py --data-type custom --data-dir {args.out}{without}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
