"""Check every record of record files.

    python -m data.verify X.rec [Y.rec ...]

Framing, header, label and image of each, and whether the index leads to it. What is wrong is named
by record number (from 0) and byte offset; exit code 1 where anything is.

A record that data.pack or data.*.prepare wrote has a checksum, and any change to it is found. In
other records no reader can notice a changed label that is another class, or changed pixels in an
image that still decodes.
"""

import argparse
import json
import math
import os
import random
import shutil
import sys
import tempfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Iterator, Optional

import mxnet as mx
import numpy as np
from tqdm import tqdm

from data import DataError
from data.arguments import image_shape
from data.augmentation import add_augmentation_args, augmentation_of, complete_augmentation
from data.datasets import DATASETS
from data.formats.images import read
from data.formats.recordfile import has_checksum, problem_of, read_index, unpacked, walk, writing
from data.records import EpochIter, class_names, training_args
from log.command import OneLineParser, add_num_thread_arg, whole

# Bytes that one task of a thread checks: small records in groups.
_GROUP = 1 << 18


def checked(
    path, num_classes: Optional[int] = None, index: Optional[np.ndarray] = None, num_thread: int = 1
) -> Iterator[tuple]:
    """Yield (Found, what is wrong with it or None) for each record of a file, in order.

    num_classes : labels must be below it. index : rows (number, byte offset) that must fit.
    """
    numbers = None if index is None else {offset: number for number, offset in index.tolist()}

    def check(found):
        if found.problem:
            return found.problem
        if numbers is None:
            return problem_of(found.record, num_classes)
        if found.offset not in numbers:
            return "not in the index"
        return problem_of(found.record, num_classes, numbers[found.offset])

    def check_group(group):
        return [(found, check(found)) for found in group]

    with ThreadPoolExecutor(num_thread) as pool:
        waiting = deque()
        for group in _grouped(walk(path)):
            waiting.append(pool.submit(check_group, group))
            if len(waiting) > 2 * num_thread:
                yield from waiting.popleft().result()
        for task in waiting:
            yield from task.result()


def _grouped(places):
    group, size = [], 0
    for found in places:
        group.append(found)
        size += len(found.record or b"")
        if size >= _GROUP:
            yield group
            group, size = [], 0
    yield group


def verify(path, num_classes, num_thread, repair=None, show: int = 0) -> tuple:
    """Check a file and print what is wrong with it.

    repair : folder for a copy of the good records, under the same name.
    Return (how much is wrong, `show` good records, drawn at random, in order).
    """
    try:
        index, wrong = read_index(path), 0
    except DataError as error:
        print(error)
        index, wrong = None, 1
    count = good = without_checksum = 0
    offsets = set()
    shown, randomness = [], random.Random(0)
    target = repair and Path(repair, Path(path).name)
    with _copying(target) if target else nullcontext() as copy, _bar(path) as bar:
        for found, problem in checked(path, num_classes, index, num_thread):
            count += 1
            offsets.add(found.offset)
            bar.update(found.offset - bar.n)
            if problem:
                wrong += 1
                bar.write(f"{path}: {found.place}: {problem}")
                continue
            good += 1
            without_checksum += not has_checksum(found.record)
            if copy:
                copy(found.record)
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
            f"{path}: {without_checksum} records have no checksum: a label that was changed to "
            "another class, or pixels in an image that still decodes, can't be noticed in them"
        )
    if target:
        print(f"{target}: {good} records")
    return wrong, sorted(shown, key=lambda found: found.number)


def _bar(path):
    return tqdm(
        total=os.path.getsize(path), desc=Path(path).name, unit="B", unit_scale=True, disable=None
    )


@contextmanager
def _copying(target: Path):
    """Give a function that copies a record into the file `target`; it is there, whole and with its
    index, when the context ends."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        part = Path(folder, target.name)
        with writing(part, part.with_suffix(".idx")) as writer:
            yield lambda record: writer.write_idx(unpacked(record)[1], record)
        for ending in (".idx", ".rec"):
            os.replace(part.with_suffix(ending), target.with_suffix(ending))


def without_bad_records(path, num_thread: int) -> tuple:
    """Return (a file of the good records of `path`, [what is left out]): `path` itself where all
    are good, else NAME.clean.rec beside it. What was found is remembered in NAME.clean.json, for
    as long as the file is the same."""
    path = Path(path)
    clean, notes = path.with_suffix(".clean.rec"), path.with_suffix(".clean.json")
    status = os.stat(path)
    same = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    try:
        known = json.loads(notes.read_text())
    except FileNotFoundError:
        known = None
    if not known or known["file"] != same or (known["bad"] and not clean.exists()):
        bad = []
        if shutil.disk_usage(path.parent).free < status.st_size:
            raise DataError(
                f"{path.parent}: no room for a copy of {path.name} without its bad records"
            )
        with _copying(clean) as copy, _bar(path) as bar:
            for found, problem in checked(path, index=read_index(path), num_thread=num_thread):
                bar.update(found.offset - bar.n)
                if problem:
                    bad.append(f"{found.place}: {problem}")
                else:
                    copy(found.record)
        if not bad:
            for ending in (".idx", ".rec"):
                clean.with_suffix(ending).unlink()
        known = {"file": same, "bad": bad}
        notes.write_text(json.dumps(known, indent=1))
    return str(clean if known["bad"] else path), known["bad"]


# Looking at records


def draw(shown: list, names, augmented_args: dict, prefix: Path) -> list:
    """Write the pictures PREFIX-samples.png, the records of `shown` with their labels, and
    PREFIX-augmented.png, the same as training with the arguments `augmented_args` of
    ImageRecordIter sees them. Return their paths."""
    labels, samples = [], []
    with tempfile.TemporaryDirectory() as folder:
        rec = str(Path(folder, "shown.rec"))
        writer = mx.recordio.MXRecordIO(rec, "w")
        for found in shown:
            label, _, image = unpacked(found.record)
            labels.append(f"{label} {names[label]}" if label < len(names or ()) else str(label))
            samples.append(read(image, strict=False)[:, :, ::-1])
            writer.write(found.record)
        writer.close()
        in_order = {"path_imgrec": rec, "batch_size": len(shown), "shuffle": False}
        batch = EpochIter({**augmented_args, **in_order}).next()
        augmented = batch.data[0].asnumpy().transpose(0, 2, 3, 1).clip(0, 255).astype(np.uint8)
    paths = []
    for kind, pictures in (("samples", samples), ("augmented", augmented)):
        paths.append(prefix.with_name(f"{prefix.name}-{kind}.png"))
        _contact_sheet(pictures, labels, paths[-1])
    return paths


def _contact_sheet(pictures, labels, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    figure, axes = plt.subplots(
        rows, columns, squeeze=False, figsize=(2 * columns, 2.2 * rows), layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, picture, label in zip(axes.flat, pictures, labels):
        axis.imshow(picture)
        # No TeX in a name.
        axis.set_title(label.replace("$", r"\$"), fontsize="small")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def parse_arguments(argv) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m data.verify",
        description="Check every record of record files; exit code 1 where anything is wrong.",
    )
    parser.add_argument("records", nargs="+", type=Path, metavar="X.rec", help="record files")
    parser.add_argument(
        "--num-classes",
        type=whole(1),
        metavar="N",
        help="labels must be below it (default: the lines of classes.txt beside the file, if "
        "there is one)",
    )
    parser.add_argument(
        "--repair",
        type=Path,
        metavar="OUT",
        help="copy the good records into this folder, with indexes and classes.txt",
    )
    parser.add_argument(
        "--show",
        type=whole(1),
        metavar="N",
        help="draw N of the good records with their labels, X-samples.png, and the same as "
        "training sees them, X-augmented.png",
    )
    parser.add_argument(
        "--show-dir",
        type=Path,
        metavar="DIR",
        help="folder for these pictures (default: that of the records)",
    )
    parser.add_argument(
        "--data-type",
        choices=DATASETS,
        default="custom",
        help="data set whose augmentation to show (default: %(default)s)",
    )
    parser.add_argument(
        "--image-shape",
        type=image_shape,
        metavar="C,H,W",
        help="what training cuts out, as for train_xception.py (default: that of --data-type)",
    )
    parser.add_argument(
        "--aug-level",
        type=int,
        choices=(1, 2, 3),
        default=2,
        help="its level, as for train_xception.py (default: %(default)s)",
    )
    add_num_thread_arg(parser)
    add_augmentation_args(parser)
    args = parser.parse_args(argv)
    args.image_shape = args.image_shape or DATASETS[args.data_type].image_shape
    complete_augmentation(parser, args)
    for path in args.records:
        if path.is_dir():
            parser.error(f"{path}: a folder: give the .rec files in it")
        if not path.is_file():
            parser.error(f"{path}: no such file")
        if args.repair and Path(args.repair, path.name).exists():
            parser.error(f"--repair: {Path(args.repair, path.name)} is already there")
    if args.repair and len({path.name for path in args.records}) < len(args.records):
        parser.error("--repair: two of the files have the same name: give one at a time")
    return args


def main(argv=None) -> int:
    args = parse_arguments(argv)
    wrong = 0
    try:
        for path in args.records:
            names = class_names(path)
            num_classes = args.num_classes or (len(names) if names else None)
            more, shown = verify(path, num_classes, args.num_thread, args.repair, args.show or 0)
            wrong += more
            if args.repair and names:
                shutil.copy(path.with_name("classes.txt"), args.repair)
            if shown:
                shape = {"data_shape": args.image_shape, "verbose": False}
                augmented = training_args(shape, augmentation_of(args, path))
                folder = args.show_dir or path.parent
                folder.mkdir(parents=True, exist_ok=True)
                for picture in draw(shown, names, augmented, folder / path.stem):
                    print(picture)
    except DataError as error:
        print(f"data.verify: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"data.verify: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("data.verify: interrupted", file=sys.stderr)
        return 130
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
