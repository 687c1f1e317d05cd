"""Batches: of records, by epoch, place and worker; and of random pixels, which need no files."""

import math
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import mxnet as mx
import numpy as np

from data import DataError
from data.formats.images import ImageError, decode
from data.formats.recordfile import unpacked
from data.formats.recordset import record_files, scan, state
from data.parts import SHUFFLED_BYTES, Takes, part_of_records, parts_of, readers_of
from data.readers import FirstToLast, SideBySide, Unreadable
from log.files import PathLike

# ImageRecordIter reads some of its chunks ahead.
_NEAR = 16 * SHUFFLED_BYTES
# With so many files their sizes are looked at before every batch, with more once an epoch.
_FEW_FILES = 16


class EpochIter(mx.io.DataIter):
    """Batches of records, each epoch from fresh ImageRecordIters with seeds of their own.

    An ImageRecordIter's second epoch continues from the random state after its first, and
    leaves out the images that have filled up the first one's last batch. Here every epoch has all
    images, and epoch e can be had without those before it: shuffle and augmentation follow from
    (seed, e, part). Every batch carries its place, `batch.epoch` and `batch.number` (both from 0),
    and `batch.seed`, for what is drawn at random while it is trained on.
    The last batch of an epoch is filled up with other images of the epoch.

    Parameters
    ----------
    record_args : dict
        Arguments of ImageRecordIter.
    seed : int
        Any whole number.
    epoch, number : int
        The place of the first batch.
    batches : int
        Batches an epoch (default: as many as it takes for all images once). Workers need as many
        as each other, and `num_parts` does not give them that: a longer part is cut, a shorter one
        begins anew.
    readers : int
        ImageRecordIters that decode side by side (`data.readers`), fewer where the records are
        few. The batches depend on it.

    `next` raises DataError where ImageRecordIter can't read a batch; it names the record. So it
    does where a file was changed since the first batch, at the end of the epoch at the latest. The
    constructor raises it where the part has no record.
    """

    def __init__(
        self,
        record_args: Dict[str, Any],
        seed: int = 0,
        epoch: int = 0,
        number: int = 0,
        batches: Optional[int] = None,
        readers: int = 1,
    ) -> None:
        super().__init__(record_args["batch_size"])
        self._batches = batches
        self._path = record_args["path_imgrec"]
        self._files = _WatchedFiles(record_files(self._path))
        # With more than one batch read ahead, MXNet keeps the others' memory when an iterator ends:
        # with its own default, 4, three batches an epoch.
        self._args = {"prefetch_buffer": 1, **record_args, "path_imgrec": mxnet_path(self._path)}
        self._seed = seed
        self._part = record_args.get("part_index", 0)
        workers = record_args.get("num_parts", 1)
        self._readers = readers_of(self._files.size, workers, readers)
        parts = parts_of(self._files.size, workers, self._readers)
        #: Images of each part of all workers; the parts of this one.
        self._sizes: List[int] = []
        self._own = range(self._part * parts, (self._part + 1) * parts)
        if self._readers > 1:
            self._sizes = part_sizes(self._path, workers * parts)
            self._batches = batches or self._round
        self._reader: Optional[Union[FirstToLast, SideBySide]] = None
        shape = (self.batch_size, *record_args["data_shape"])
        self.provide_data = [mx.io.DataDesc("data", shape)]
        self.provide_label = [mx.io.DataDesc("softmax_label", shape[:1])]
        self._open(epoch, number)

    def _open(self, epoch: int, number: int = 0) -> None:
        self.epoch, self.number = epoch, 0
        self._problem = self._files.problem()
        if self._problem:
            return self._abandon()
        if self._readers == 1:
            self._reader = self._first_to_last(self._epoch_seed())
            for _ in range(number):
                self.next()
        else:
            self._reader = self._side_by_side(number)
            self.number = number

    def _begin_anew(self) -> None:
        """Read this worker's records a second time in this epoch."""
        if self._readers == 1:
            self._reader = self._first_to_last(self._epoch_seed(anew=True))
        else:
            self._reader = self._side_by_side(self.number)

    @property
    def _round(self) -> int:
        """The batches that this worker's images make once."""
        return math.ceil(sum(self._sizes[part] for part in self._own) / self.batch_size)

    def _epoch_seed(self, anew: bool = False) -> int:
        return epoch_seed(self._seed, self.epoch, self._part, *([-1] if anew else []))

    def _first_to_last(self, seed: int) -> FirstToLast:
        self._reader = None  # its memory, before another takes as much
        try:
            return FirstToLast({**self._args, "seed": seed, "seed_aug": seed})
        except StopIteration:
            raise DataError(
                f"{self._path}: no record begins in part {self._part} of "
                f"{self._args.get('num_parts', 1)}: too few records for so many workers"
            ) from None

    def _side_by_side(self, number: int) -> SideBySide:
        self._reader = None
        anew, number = divmod(number, self._round)
        seed = self._epoch_seed(anew > 0)
        order = list(self._own)
        if self._args.get("shuffle"):
            np.random.RandomState(epoch_seed(seed)).shuffle(order)
        return SideBySide(
            {**self._args, "num_parts": len(self._sizes)},
            Takes(order, self._sizes, self._readers, self.batch_size),
            self._sizes,
            [epoch_seed(seed, part) for part in range(len(self._sizes))],
            number,
        )

    def reset(self) -> None:
        self._open(self.epoch + 1)

    def next(self) -> mx.io.DataBatch:
        if self.number == self._batches:
            self._check_files()
            raise StopIteration
        if self._problem or len(self._files) <= _FEW_FILES:
            self._check_files()
        try:
            batch = self._next_of_records()
        except StopIteration:
            self._check_files()
            if self._batches is None:
                raise
            self._begin_anew()
            batch = self._next_of_records()
        batch.epoch, batch.number = self.epoch, self.number
        batch.seed = epoch_seed(self._seed, self.epoch, self._part, self.number)
        self.number += 1
        return batch

    def _check_files(self) -> None:
        problem = self._problem or self._files.problem()
        if problem:
            self._abandon()
            raise DataError(problem)

    def _abandon(self) -> None:
        if self._reader is not None:
            self._reader.abandon()
        self._reader = None

    def _next_of_records(self) -> mx.io.DataBatch:
        assert self._reader is not None
        try:
            return self._reader.next()
        except Unreadable as error:
            self._check_files()
            self._abandon()
            self._problem = self._named(error)
            raise DataError(self._problem) from None

    def _named(self, error: Unreadable) -> str:
        """Return a line that names the record."""
        path = self._path
        what = f"{path}: epoch {self.epoch}, batch {self.number + 1}: a record can't be read: "
        found = first_bad_record(path, error.num_parts, error.part, error.delivered)
        if not found:
            reason = next((line for line in str(error).splitlines() if "failed" in line), error)
            return f"{what}{str(reason).strip()}"
        return (
            f"{what}{found}: python -m data.verify lists all faults, "
            "--skip-bad-records trains without them"
        )


class _WatchedFiles:
    """Files that must not change during a run, by a copy over them or a program that appends."""

    def __init__(self, paths: List[str]) -> None:
        self._paths = paths
        self._known = [state(path) for path in paths]
        #: Bytes of all files.
        self.size = sum(known[0] for known in self._known if known)

    def __len__(self) -> int:
        return len(self._paths)

    def problem(self) -> Optional[str]:
        """Return which file has changed since the start, None for none."""
        for path, known in zip(self._paths, self._known):
            now = state(path)
            if now != known:
                return (
                    f"{path}: changed while it was read ({_difference(known, now)}): when it is "
                    "complete, resume with --retrain"
                )
        return None


def _difference(known: Tuple[int, ...], now: Tuple[int, ...]) -> str:
    if not now:
        return "now it is gone"
    size, new_size = known[0], now[0]
    return "written to" if size == new_size else f"{size} bytes, now {new_size}"


_links: Dict[str, str] = {}
_folder_of_links: Optional["tempfile.TemporaryDirectory[str]"] = None


def mxnet_path(records: PathLike) -> str:
    """Return what ImageRecordIter takes for these records. dmlc-core reads paths as URIs, in which
    # ? and ; mean something else: such names get a link with a plain one, as long as the process
    lives."""
    return ";".join(map(_plain, record_files(records)))


def _plain(path: str) -> str:
    global _folder_of_links
    if not re.search("[#?;]", path):
        return path
    if path not in _links:
        _folder_of_links = _folder_of_links or tempfile.TemporaryDirectory(prefix="records-")
        link = Path(_folder_of_links.name, f"{len(_links)}.rec")
        link.symlink_to(os.path.abspath(path))
        _links[path] = str(link)
    return _links[path]


def first_bad_record(path: PathLike, num_parts: int, part: int, delivered: int) -> Optional[str]:
    """Return which record of a part ImageRecordIter can't decode, and why; None for none.

    It reads a part in the order of the file, megabytes at a time, and shuffles within these: the
    record that it failed on is near the `delivered` images that it gave before.
    """
    records = scan(path)
    numbers = np.flatnonzero(part_of_records(records, num_parts) == part)
    reached = records.offsets[numbers[min(delivered, len(numbers) - 1)]]
    for number in numbers[np.abs(records.offsets[numbers] - reached) <= _NEAR].tolist():
        found = records.read(number)
        try:
            if found.record is None:
                raise ValueError(found.problem)
            decode(unpacked(found.record).image)
        except (ImageError, ValueError) as error:
            file = f"{records.place(number).file}: " if len(records.files) > 1 else ""
            return f"{file}{found.place}: {error}"
    return None


def part_sizes(path: PathLike, num_parts: int) -> List[int]:
    """Return how many records each part has that ImageRecordIter reads with `num_parts`."""
    parts = part_of_records(scan(path), num_parts)
    return np.bincount(parts, minlength=num_parts).tolist()


def epoch_seed(*numbers: int) -> int:
    """Mix whole numbers to a seed, 0 <= seed < 2**31 (splitmix64's finalizer, Steele 2014)."""
    mixed = 0
    for number in numbers:
        mixed = (mixed + number + 0x9E3779B97F4A7C15) % 2**64
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
        mixed ^= mixed >> 31
    return mixed % 2**31


def record_args(
    path: PathLike,
    data_shape: Tuple[int, ...],
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    num_thread: int,
    gpu: Optional[int] = None,
) -> Dict[str, Any]:
    """Return what an ImageRecordIter needs to read the records `path` for a network.

    mean, std : by colour, R G B. gpu : the one by which the batches' memory is pinned, so that it
    is copied faster to any; None for none. By default MXNet pins it by GPU 0, and takes memory
    there, whatever the network runs on.
    """
    return {
        "path_imgrec": str(path),
        "data_shape": data_shape,
        "batch_size": batch_size,
        "preprocess_threads": num_thread,
        "device_id": -1 if gpu is None else gpu,
        "label_name": "softmax_label",
        "verbose": False,
        **{f"mean_{colour}": value for colour, value in zip("rgb", mean)},
        **{f"std_{colour}": value for colour, value in zip("rgb", std)},
    }


def fitting_batch_size(batch_size: int, num_images: int, num_devices: int) -> int:
    """Return the batch size, or less where the images are fewer: ImageRecordIter can't fill a batch
    of more than twice its records."""
    return min(batch_size, math.ceil(num_images / num_devices) * num_devices)


def training_args(record_args: Dict[str, Any], augmentation: Dict[str, Any]) -> Dict[str, Any]:
    return {**record_args, "shuffle": True, **augmentation}


class SyntheticIter(mx.io.DataIter):
    """The same batch of random pixels and labels, `batches` times an epoch.

    image_shape : (3, height, width). Batches carry what those of `EpochIter` carry.
    `times` is when each batch was asked for, in seconds: when the training step on the one before
    had ended.
    """

    def __init__(
        self, batch_size: int, image_shape: Tuple[int, int, int], num_classes: int, batches: int
    ) -> None:
        super().__init__(batch_size)
        self._images = mx.nd.random.uniform(0, 256, (batch_size, *image_shape)).floor()
        self._labels = mx.nd.random.randint(0, num_classes, (batch_size,)).astype("float32")
        self._batches = batches
        self.times: List[float] = []
        self.epoch = -1
        self.provide_data = [mx.io.DataDesc("data", self._images.shape)]
        self.provide_label = [mx.io.DataDesc("softmax_label", self._labels.shape)]
        self.reset()

    def reset(self) -> None:
        self.epoch += 1
        self.number = 0

    def next(self) -> mx.io.DataBatch:
        if self.number == self._batches:
            raise StopIteration
        self.times.append(time.perf_counter())
        batch = mx.io.DataBatch([self._images], [self._labels], pad=0)
        batch.epoch, batch.number = self.epoch, self.number
        batch.seed = epoch_seed(self.epoch, self.number)
        self.number += 1
        return batch
