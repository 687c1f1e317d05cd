"""CIFAR-10's images: read from the published archive or from image files, written as records."""

import os
import pickle
import random
import tarfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from data import DataError
from data.formats import images, recordfile, recordset
from data.packing.archives import content_of, open_tar
from data.packing.writer import encode_png, finished, write_records
from log.files import unpickle

#: Names of the classes, in the order of the labels.
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
#: Images of the published data set, by folder.
IMAGES = {"train": 50000, "test": 10000}
SIDE = 32
_TRAINING = tuple(f"data_batch_{i}" for i in range(1, 6))
_NAMES = "batches.meta"
#: What a damaged pickle, or one of something else, ends in.
_UNREADABLE = (
    pickle.UnpicklingError, AttributeError, EOFError, ImportError, IndexError, KeyError, TypeError,
    ValueError,
)  # fmt: skip
#: What the archive's pickles name: numpy's arrays.
_ARRAYS = frozenset(
    (
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    )
)


class Part(NamedTuple):
    """The training images, or the test images."""

    pixels: np.ndarray  # (N, 32, 32, 3) uint8; red, green, blue
    labels: List[int]  # N numbers of classes


class Cifar10(NamedTuple):
    train: Part
    test: Part
    classes: List[str]  # in the order of the labels


def read_source(source: Path) -> Cifar10:
    """Return the images of the published archive, or of a folder or tar archive of image files.

    Raises DataError if there are none, or if one can't be used.
    """
    if source.is_dir():
        return read_image_files(source, _folder_files(source))
    with open_tar(source) as tar:
        batches, files = _read_tar(source, tar)
    if files and not batches:
        return read_image_files(source, files)
    return read_batches(source, batches)


# The published archive


def _read_tar(source: Path, tar: tarfile.TarFile) -> Tuple[dict, List["ImageFile"]]:
    """Return what there is in a tar archive, in one pass: batches by name, and image files."""
    readers: Dict[str, Callable[[dict], Any]] = {
        **dict.fromkeys((*_TRAINING, "test_batch"), read_batch),
        _NAMES: lambda meta: [name.decode() for name in meta[b"label_names"]],
    }
    batches, files = {}, []
    for member in tar:
        name = Path(member.name).name
        if not member.isfile():
            continue
        if name in readers:
            content = content_of(tar, member).read()
            try:
                batches[name] = readers[name](unpickle(content, _ARRAYS, "bytes"))
            except _UNREADABLE as error:
                raise DataError(
                    f"{source}: not the CIFAR-10 archive, python version: {name}: {error}"
                ) from None
        elif _is_image_file(member.name):
            files.append(ImageFile(member.name, content_of(tar, member).read()))
    return batches, files


def read_batch(batch: dict) -> Part:
    """Return the images of an archive's batch. Raises ValueError if it is not one."""
    pixels, labels = batch[b"data"], batch[b"labels"]
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3 * SIDE * SIDE):
        raise ValueError(f"its data is {pixels.dtype} {pixels.shape}")
    return Part(pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), labels)


def read_batches(source: Path, batches: dict) -> Cifar10:
    """Return the images of all batches of the archive. Raises DataError if one is missing."""
    missing = [name for name in (*_TRAINING, "test_batch", _NAMES) if name not in batches]
    if missing:
        raise DataError(
            f"{source}: neither the CIFAR-10 archive, python version (no {missing[0]} in it), "
            f"nor image files in train/CLASS/ and test/CLASS/"
        )
    pixels = np.concatenate([batches[name].pixels for name in _TRAINING])
    labels = [label for name in _TRAINING for label in batches[name].labels]
    return Cifar10(Part(pixels, labels), batches["test_batch"], batches[_NAMES])


# Image files


class ImageFile(NamedTuple):
    path: str  # .../train/CLASS/NAME or .../test/CLASS/NAME
    content: bytes

    @property
    def part(self) -> str:
        return self.path.split("/")[-3]

    @property
    def class_name(self) -> str:
        return self.path.split("/")[-2]


def _is_image_file(path: str) -> bool:
    parts = path.split("/")
    return (
        len(parts) >= 3
        and parts[-3] in IMAGES
        and not any(part.startswith(".") for part in parts[-2:])
        and parts[-1].lower().endswith((".png", ".jpg", ".jpeg"))
    )


def _folder_files(folder: Path) -> Iterator[ImageFile]:
    """Yield the image files of a folder, or of the only folder in it that has them."""
    roots = [each for each in (folder, *sorted(folder.iterdir())) if (each / "train").is_dir()]
    for root in roots[:1]:
        for part in IMAGES:
            for path in root.glob(f"{part}/*/*"):
                name = path.relative_to(folder.parent).as_posix()
                if _is_image_file(name) and path.is_file():
                    yield ImageFile(name, path.read_bytes())


def read_image_files(source: Path, files: Iterable[ImageFile]) -> Cifar10:
    """Return the images of image files, labelled by their folders.

    The labels are those of the published archive if the folders have its names (in any case), else
    in the order of the names. The order of the training images is drawn once, with a fixed seed:
    ImageRecordIter shuffles within some megabytes only.
    """
    files = sorted(files, key=lambda file: os.fsencode(file.path))
    found = {part: sorted({f.class_name for f in files if f.part == part}) for part in IMAGES}
    for part, names in found.items():
        if not names:
            raise DataError(f"{source}: no PNG or JPEG files in {part}/CLASS/")
    unknown = [name for name in found["test"] if name not in found["train"]]
    if unknown:
        raise DataError(f"{source}: test/{unknown[0]}: not a class of train/")
    classes = found["train"]
    if sorted(name.lower() for name in classes) == sorted(CLASSES):
        classes = sorted(classes, key=lambda name: CLASSES.index(name.lower()))
    by_part = {part: [file for file in files if file.part == part] for part in IMAGES}
    random.Random(0).shuffle(by_part["train"])
    parts = {part: _decoded(source, by_part[part], classes) for part in IMAGES}
    return Cifar10(parts["train"], parts["test"], classes)


def _decoded(source: Path, files: List[ImageFile], classes: List[str]) -> Part:
    pixels = np.empty((len(files), SIDE, SIDE, 3), np.uint8)
    for i, file in enumerate(files):
        try:
            bgr = images.read(file.content)
        except images.ImageError as error:
            raise DataError(f"{source}: {file.path}: {error}") from None
        if bgr.shape[:2] != (SIDE, SIDE):
            height, width = bgr.shape[:2]
            raise DataError(
                f"{source}: {file.path}: {width}x{height} pixels, CIFAR-10's images have "
                f"{SIDE}x{SIDE}: pack others with python -m data.pack"
            )
        pixels[i] = bgr[:, :, ::-1]
    return Part(pixels, [classes.index(file.class_name) for file in files])


# What is written


def differences(found: Cifar10) -> List[str]:
    """Return the differences from the published data set, a line each."""
    lines = []
    for part, expected in IMAGES.items():
        count = len(getattr(found, part).labels)
        if count != expected:
            lines.append(f"{count} {part} images; CIFAR-10 has {expected}")
    if len(found.classes) != len(CLASSES):
        lines.append(f"{len(found.classes)} classes; CIFAR-10 has {len(CLASSES)}")
    elif tuple(name.lower() for name in found.classes) != CLASSES:
        lines.append(f"classes have other names than CIFAR-10's: {', '.join(found.classes)}")
    return lines


def write_part(rec: Path, part: Part) -> None:
    """Write the records of one part. Raises DataError if those there are of other images."""
    if finished(rec):
        _check_same(rec, part)
    # OpenCV wants blue, green, red.
    items = ((label, encode_png(rgb[:, :, ::-1])) for rgb, label in zip(*part))
    write_records(rec, items, total=len(part.labels))


def _check_same(rec: Path, part: Part) -> None:
    """Compare the number of records, and the first and the last of them."""
    index = recordset.read_index(rec)
    assert index is not None, f"{rec} is finished"
    ends = (0, len(part.labels) - 1)
    if len(index) != len(part.labels) or any(
        _record(rec, int(index[i][1])) != (part.labels[i], part.pixels[i].tobytes()) for i in ends
    ):
        raise DataError(f"{rec} exists and holds other images: delete it, or give another --out")


def _record(rec: Path, offset: int) -> Optional[Tuple[int, bytes]]:
    """Return label and pixels of the record at a byte of a file; None if it is damaged."""
    record = next(recordfile.walk(rec, offset=offset)).record
    if record is None:
        return None
    try:
        label, _, image = recordfile.unpacked(record)
        return label, images.check(image)[:, :, ::-1].tobytes()
    except (ValueError, images.ImageError):
        return None
