"""What goes into which record file, and what the records of a folder were made from."""

import json
import random
from contextlib import suppress
from statistics import median_low
from typing import Optional

from data import DataError
from data.formats import images
from data.packing.sources import find_images
from data.packing.writer import digest
from log.files import read_json, write_whole

#: Images whose size is looked at, about.
_SAMPLE = 100


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


def enlargement(items, resize: int) -> Optional[str]:
    """Return a warning if most images are less than half as large as they will be stored."""
    sides = []
    for _, _, read in items[:: max(len(items) // _SAMPLE, 1)]:
        with suppress(images.ImageError):
            sides.append(images.short_side(read()))
    if not sides or 2 * median_low(sides) >= resize:
        return None
    side = median_low(sides)
    return (
        f"short side {side} pixels, in the middle of a sample; stored {resize / side:.3g} times as "
        f"wide and high, {(resize / side) ** 2:.0f} times the pixels"
    )


def remember_job(args, parts):
    """Write down what the records in the folder are made from; raise DataError where those that are
    there were made from something else."""
    job = {name: digest(items) for name, items in parts.items()}
    job.update(resize=args.resize, val_resize=args.val_resize, quality=args.quality)
    if not args.enlarge:
        job.update(enlarge=False)
    path = args.out / "pack.json"
    if (
        path.exists()
        and read_json(path, DataError, way_out=f"give another folder, or delete {args.out}") != job
    ):
        raise DataError(
            f"{args.out} has records of other images or settings: give another folder, or delete it"
        )
    if not path.exists() and any(args.out.glob("*.rec")):
        raise DataError(f"{args.out} has records that data.pack did not make: give another folder")
    write_whole(path, json.dumps(job, indent=1).encode())
