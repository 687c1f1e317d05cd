"""ImageNet's images and their classes, read from the archives of ILSVRC2012 or from folders."""

import io
import os
import re
import tarfile
from functools import partial
from pathlib import Path
from typing import Callable, List, Optional, Tuple

import numpy as np
import scipy.io

from data import DataError
from data.packing.archives import content_of, open_tar

_IMAGE_ENDINGS = (".jpeg", ".jpg", ".png")

#: Returns the bytes of an image file.
Read = Callable[[], bytes]
#: Name of the class (n01440764 ...), file name, content.
Image = Tuple[str, str, Read]


def training_images(source: Path) -> List[Image]:
    """Return the images of ILSVRC2012_img_train.tar, or of a folder of folders."""
    if source.is_dir():
        return _folders(source)
    images: List[Image] = []
    with open_tar(source, "r:") as outer:
        for member in outer:
            if not member.isfile() or not member.name.endswith(".tar"):
                raise DataError(f"{source}: not ILSVRC2012_img_train.tar: {member.name} in it")
            # A class is a tar of its own in the tar, both uncompressed: an image is a range of
            # bytes of the outer file.
            start = member.offset_data
            with tarfile.open(fileobj=content_of(outer, member)) as inner:
                for image in inner:
                    if image.isfile():
                        read = partial(_range, source, start + image.offset_data, image.size)
                        images.append((Path(member.name).stem, Path(image.name).name, read))
    return images


def validation_images(source: Path, devkit: Optional[Path]) -> List[Image]:
    """Return the images of ILSVRC2012_img_val.tar, or of a folder."""
    if source.is_dir():
        if any(entry.is_dir() for entry in os.scandir(source)):
            return _folders(source)
        paths = [entry for entry in sorted(source.iterdir()) if _is_image(entry)]
        files: List[Tuple[str, Read]] = [(path.name, path.read_bytes) for path in paths]
    else:
        with open_tar(source, "r:") as tar:
            files = [
                (Path(member.name).name, partial(_range, source, member.offset_data, member.size))
                for member in tar
                if member.isfile()
            ]
    if devkit is None:
        raise DataError(f"{source} is not sorted by class: give --devkit, which lists the classes")
    classes = validation_classes(devkit)
    images = []
    for name, read in sorted(files, key=lambda file: file[0]):
        number = re.search(r"_(\d+)\.\w+$", name)
        if not number or not 0 < int(number[1]) <= len(classes):
            raise DataError(f"{source}: {name}: not one of the {len(classes)} validation images")
        images.append((classes[int(number[1]) - 1], name, read))
    return images


def validation_classes(devkit: Path) -> List[str]:
    """Return the class name (n01440764 ...) of each validation image, in order of their numbers."""
    synsets = scipy.io.loadmat(
        io.BytesIO(_devkit_file(devkit, "meta.mat")), squeeze_me=True, struct_as_record=False
    )["synsets"]
    names = {int(each.ILSVRC2012_ID): str(each.WNID) for each in np.atleast_1d(synsets)}
    truth = _devkit_file(devkit, "ILSVRC2012_validation_ground_truth.txt").split()
    try:
        return [names[int(word)] for word in truth]
    except (KeyError, ValueError) as error:
        raise DataError(f"{devkit}: an unknown class in its ground truth: {error}") from None


def _devkit_file(devkit: Path, name: str) -> bytes:
    if devkit.is_dir():
        for path in devkit.rglob(name):
            return path.read_bytes()
    else:
        with open_tar(devkit) as tar:
            for member in tar:
                if Path(member.name).name == name:
                    return content_of(tar, member).read()
    raise DataError(f"{devkit}: no {name} in it: not the ILSVRC2012 devkit?")


def _folders(source: Path) -> List[Image]:
    return [
        (folder.name, path.name, path.read_bytes)
        for folder in sorted(source.iterdir())
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if _is_image(path)
    ]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _IMAGE_ENDINGS and path.is_file()


def _range(path: Path, start: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)


def labelled(images: List[Image], classes: List[str]) -> List[Tuple[int, str, Read]]:
    """Return [(label, name, read)]; a label is the index of the class name in `classes`."""
    number = {name: i for i, name in enumerate(classes)}
    unknown = next((image for image in images if image[0] not in number), None)
    if unknown:
        raise DataError(f"{unknown[1]}: its class {unknown[0]} is not one of the training images'")
    return [(number[name], file, read) for name, file, read in images]
