"""Which images go into which record file, and what the records of a folder were made from."""

import argparse
import itertools
import json
import random
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from data import DataError
from data.formats import images
from data.formats.classes import printable
from data.formats.folders import Skipped
from data.packing.copies import first_of_copies
from data.packing.sources import ImageSet, Item, find_images, find_parts
from data.packing.writer import digest
from log.files import read_json, write_whole
from log.locks import Lock
from log.notices import Notices

#: Images whose size is looked at, about.
_SAMPLE = 100


@dataclass
class Job:
    """What is to be packed.

    classes : names by label. parts : the images of "train" and "val", those that there are.
    skipped : files that are left out.
    """

    classes: List[str]
    parts: Dict[str, List[Item]]
    skipped: Skipped


def plan(args: argparse.Namespace, notices: Notices) -> Job:
    """Return what the arguments of data.pack say. Raises DataError."""
    source, val = find_parts(args.images, notices)
    if args.val is not None:
        train_or_all, part = find_parts(args.val, notices)
        val = part or train_or_all
    found = find_images(source, args.root)
    _check_classes(found, notices)
    skipped = found.skipped
    if val is None:
        copies = first_of_copies(found.items)
        training, validation = split(found.items, args.val_fraction, args.seed, copies)
        if args.val_fraction and not validation:
            notices.warn("no class has two different images: none is left for validation")
    else:
        training, _ = split(found.items, 0, args.seed)
        other = find_images(val, args.root)
        validation = _with_labels_of(found, other, source, val)
        skipped = skipped + other.skipped
        copies = first_of_copies(found.items + validation)
    _report_copies(found.items + (validation if val else []), copies, len(found.items), notices)
    if args.balance:
        training = balanced(training, args.seed, notices)
    parts = {"train": training, "val": validation}
    return Job(found.classes, {name: part for name, part in parts.items() if part}, skipped)


def _check_classes(found: ImageSet, notices: Notices) -> None:
    labels = {item.label for item in found.items}
    if len(labels) == 1:
        name = printable(found.classes[labels.pop()])
        notices.warn(
            f"one class, {name}: a network can't learn anything from it; IMAGES must have a folder "
            "for each class"
        )
        return
    empty = sorted(set(range(len(found.classes))) - labels)
    if empty and min(labels) > 0:
        notices.warn(
            f"labels begin at {min(labels)}, not at 0: no image has the label {_some(empty)}; "
            f"subtract {min(labels)} from each label"
        )
    elif empty:
        notices.warn(
            f"no image has the label {_some(empty)}: the network has outputs that it does not need"
        )


def _some(labels: Sequence[int]) -> str:
    more = f" and {len(labels) - 3} others" if len(labels) > 3 else ""
    return ", ".join(map(str, labels[:3])) + more


def _with_labels_of(training: ImageSet, other: ImageSet, source: Path, val: Path) -> List[Item]:
    """Return the validation images, with the labels that their classes have in `training`.

    Raises DataError if there are other classes, or if labels of lists mean other ones.
    """
    if val.is_dir():
        label = {name: i for i, name in enumerate(training.classes)}
        unknown = [name for name in other.classes if name not in label]
        if unknown:
            raise DataError(f"{val}: {unknown[0]!r} is not a class of {source}")
        return [item._replace(label=label[other.classes[item.label]]) for item in other.items]
    if len(other.classes) > len(training.classes):
        raise DataError(f"{val}: label {len(other.classes) - 1} is not a class of {source}")
    if training.are_names:
        _check_folders(training.classes, other.items, source, val)
    return other.items


def _check_folders(classes: List[str], items: List[Item], source: Path, val: Path) -> None:
    """Raise DataError if images of a list are in folders that have the names of other classes."""
    label = {printable(name): i for i, name in enumerate(classes)}
    wrong = []
    for item in items:
        folder = Path(item.name.replace("\\", "/")).parent.name
        if label.get(folder, item.label) != item.label:
            wrong.append((item, folder))
    if wrong:
        item, folder = wrong[0]
        raise DataError(
            f"{val}: {item.name} has the label {item.label}, which is {classes[item.label]!r} in "
            f"{source}, where {folder!r} is {label[folder]}; so have {len(wrong)} of "
            f"{len(items)} images labels of other classes: number them as {source} sorts, or give "
            "--val a folder"
        )


def _report_copies(
    items: Sequence[Item], copies: Sequence[int], num_training: int, notices: Notices
) -> None:
    """Say what images are there more than once. copies : of each the first one."""
    again = [i for i, first in enumerate(copies) if first != i]
    if not again:
        return
    shared = [i for i in again if i >= num_training > copies[i]]
    if shared:
        first = shared[0]
        notices.warn(
            f"{len(shared)} validation images are training images too, the first "
            f"{items[first].name} = {items[copies[first]].name}: validation accuracy will be too "
            "high"
        )
    contradicting = [i for i in again if items[i].label != items[copies[i]].label]
    if contradicting:
        first = contradicting[0]
        notices.warn(
            f"{len(contradicting)} images are in two classes, the first {items[first].name} = "
            f"{items[copies[first]].name}"
        )
    if not shared:
        notices.info(
            f"{len(again)} images are copies of others, the first {items[again[0]].name} = "
            f"{items[copies[again[0]]].name}: all copies are on the same side, training or "
            "validation"
        )


def split(
    items: Sequence[Item], fraction: float, seed: int, copies: Optional[Sequence[int]] = None
) -> Tuple[List[Item], List[Item]]:
    """Return (training, validation) items: of each class this fraction for validation, rounded, but
    one at least where the class has two; in the order of the classes, the training images shuffled.

    copies : for each item the place of the first that is the same image: both are on the same side,
    and a class has less for validation if that takes it.
    """
    copies = range(len(items)) if copies is None else copies
    by_class: Dict[int, List[int]] = {}
    for i, item in enumerate(items):
        by_class.setdefault(item[0], []).append(i)
    randomness = random.Random(seed)
    training: List[Item] = []
    validation: List[Item] = []
    for_validation: Dict[int, bool] = {}  # of each image, by the place of its first copy
    for label in sorted(by_class):
        members = by_class[label]
        randomness.shuffle(members)
        count = max(round(fraction * len(members)), 1) if fraction else 0
        _choose(members, min(count, len(members) - 1), copies, for_validation)
        for i in members:
            (validation if for_validation[copies[i]] else training).append(items[i])
    # ImageRecordIter shuffles within some megabytes only.
    randomness.shuffle(training)
    return training, validation


def _choose(
    members: Sequence[int], count: int, copies: Sequence[int], for_validation: Dict[int, bool]
) -> None:
    """Decide, of the images of a class, the first `count` for validation, or less with copies."""
    same: Dict[int, int] = {}
    for i in members:
        same[copies[i]] = same.get(copies[i], 0) + 1
    chosen = sum(number for first, number in same.items() if for_validation.get(first))
    for first, number in same.items():
        if first not in for_validation and chosen + number <= count:
            for_validation[first] = True
            chosen += number
    if not chosen and count:
        # All have copies: those with the fewest, if something is left to train on.
        free = [first for first in same if first not in for_validation]
        if len(free) > 1:
            for_validation[min(free, key=same.__getitem__)] = True
    for first in same:
        for_validation.setdefault(first, False)


def balanced(items: Sequence[Item], seed: int, notices: Notices) -> List[Item]:
    """Return the items with those of smaller classes repeated, until all classes have as many;
    shuffled."""
    by_class: Dict[int, List[Item]] = {}
    for item in items:
        by_class.setdefault(item[0], []).append(item)
    most = max(map(len, by_class.values()), default=0)
    repeated: List[Item] = []
    for label in sorted(by_class):
        repeated += itertools.islice(itertools.cycle(by_class[label]), most)
    random.Random(seed).shuffle(repeated)
    notices.info(
        f"--balance: each class has {most} training images, {len(repeated)} instead of {len(items)}"
    )
    return repeated


#: Short sides of the stored images, if neither arguments nor images say otherwise.
DEFAULT_SIZES = {"train": 480, "val": 256}


def stored_sizes(
    given: Dict[str, Optional[int]], parts: Dict[str, List[Item]], enlarge: bool, notices: Notices
) -> Dict[str, int]:
    """Return the short side that the images of each part are stored with.

    given : sizes of the command line. Others are the default or, if nearly all images are less than
    half as large, that of these: enlarging them takes space and adds no detail.
    """
    if not enlarge:
        return {part: given[part] or size for part, size in DEFAULT_SIZES.items()}
    sides = _sampled_sides([item for items in parts.values() for item in items])
    largest = sides[int(0.95 * (len(sides) - 1))] if sides else DEFAULT_SIZES["train"]
    small = 2 * largest < DEFAULT_SIZES["train"]
    sizes, flags = {}, {"train": "--resize", "val": "--val-resize"}
    for part, default in DEFAULT_SIZES.items():
        sizes[part] = given[part] or (min(default, largest) if small else default)
        if part not in parts:
            continue
        if sizes[part] < default and not given[part]:
            notices.info(
                f"{part}: nearly all images have a short side of {largest} pixels or less: stored "
                f"with {sizes[part]}; {flags[part]} {default} enlarges them"
            )
        elif sides and 2 * median_low(sides) < sizes[part]:
            ratio = sizes[part] / median_low(sides)
            notices.warn(
                f"{part}: the median short side of a sample is {median_low(sides)} pixels; images "
                f"are stored {ratio:.3g} times as wide and high, {ratio**2:.0f} times the pixels: "
                f"give a smaller {flags[part]}, or --no-enlarge"
            )
    return sizes


def _sampled_sides(items: Sequence[Item]) -> List[int]:
    """Return short sides of some of the images, the smallest first."""
    sides = []
    for item in items[:: max(len(items) // _SAMPLE, 1)]:
        with suppress(images.ImageError):
            sides.append(images.short_side(item.read()))
    return sorted(sides)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other packers out of a folder. Raises DataError if one is at work there."""
    try:
        lock = Lock(folder / "pack.lock")
    except BlockingIOError:
        raise DataError(f"{folder}: another process is packing into it") from None
    if lock.warning:
        print(f"warning: {lock.warning}")
    with closing(lock):
        yield


def remember_job(
    args: argparse.Namespace, parts: Dict[str, List[Item]], sizes: Dict[str, int]
) -> None:
    """Write down what the records in the folder are made from; raise DataError where those that are
    there were made from something else."""
    job: Dict[str, object] = {name: digest(items) for name, items in parts.items()}
    job.update(resize=sizes["train"], val_resize=sizes["val"], quality=args.quality)
    if not args.enlarge:
        job.update(enlarge=False)
    path = args.out / "pack.json"
    way_out = f"give another folder, or delete {args.out}"
    if path.exists() and read_json(path, DataError, way_out=way_out) != job:
        raise DataError(
            f"{args.out} has records of other images or settings: give another folder, or delete it"
        )
    if not path.exists() and any(args.out.glob("*.rec")):
        raise DataError(f"{args.out} has records that data.pack did not make: give another folder")
    write_whole(path, json.dumps(job, indent=1).encode())
