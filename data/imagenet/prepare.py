"""ImageNet (ILSVRC2012) as records.

    python -m data.imagenet.prepare --train TRAIN --val VAL [--devkit DEVKIT]
                                    [--resize 480] [--val-resize 256] [--records NAMES]

TRAIN  ILSVRC2012_img_train.tar, or a folder with a folder of images for each class (n01440764 ...)
VAL    ILSVRC2012_img_val.tar, a folder with all of its images, or one like TRAIN's
DEVKIT ILSVRC2012_devkit_t12.tar.gz or what it holds as a folder; it knows the validation images'
       classes, where VAL is not sorted into folders

writes, next to this file, the records that the 2017 script names, with their indexes:
train_480_q90.rec (short side 480 pixels, JPEG quality 90), train_256_q90.rec and val_256_q90.rec;
and classes.txt, the class folders' names in the order of the labels, which is the alphabet's.
With --resize and --val-resize, the names have these sizes. The training images are shuffled.
Nothing is unpacked to the disk. After an interruption, the same command resumes.
"""

import argparse
import io
import os
import random
import re
import sys
import tarfile
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import scipy.io

from data import DataError
from data.formats.classes import write_class_names
from data.pack import add_packing_args
from data.packing.archives import content_of, open_tar
from data.packing.writer import pack_files
from log.command import OneLineParser, command, whole

_QUALITY = 90
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


def record_files(resize: int, val_resize: int) -> Dict[str, Tuple[str, int]]:
    """Return name -> (part, short side in pixels) of the record files.

    --aug-level 1 crops without scaling: it trains on images as large as those of validation.
    """
    files = (("train", resize), ("train", val_resize), ("val", val_resize))
    return {f"{part}_{side}_q{_QUALITY}": (part, side) for part, side in files}


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m data.imagenet.prepare",
        description="Make the records of ImageNet (ILSVRC2012).",
    )
    parser.add_argument("--train", type=Path, required=True, help="training images")
    parser.add_argument("--val", type=Path, required=True, help="validation images")
    parser.add_argument("--devkit", type=Path, help="for validation images not sorted by class")
    parser.add_argument(
        "--resize",
        type=whole(1),
        default=480,
        metavar="PIXELS",
        help="short side of the training images for --aug-level 2 and 3 (default: %(default)s)",
    )
    parser.add_argument(
        "--val-resize",
        type=whole(1),
        default=256,
        metavar="PIXELS",
        help="short side of the validation images, and of the training images for --aug-level 1 "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--records",
        type=lambda text: text.split(","),
        metavar="NAMES",
        help="which record files to make, as in train_480_q90,val_256_q90; the numbers are the "
        "sizes (default: all three)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder for the records"
    )
    add_packing_args(parser)
    args = parser.parse_args(argv)
    files = record_files(args.resize, args.val_resize)
    unknown = sorted(set(args.records or files) - set(files))
    if unknown:
        parser.error(f"--records: {unknown[0]} is not one of {', '.join(files)}")
    return args


def main(argv: Optional[Sequence[str]] = None) -> int:
    interrupted = "interrupted; the same command resumes"
    with command("data.imagenet.prepare", interrupted, writes_files=True) as outcome:
        args = parse_arguments(argv)
        outcome.begun()
        print("reading the lists of images ...")
        training = training_images(args.train)
        validation = validation_images(args.val, args.devkit)
        for path, found in ((args.train, training), (args.val, validation)):
            if not found:
                raise DataError(f"{path}: no images in it")
        classes = sorted({name for name, _, _ in training})
        images = {
            "train": labelled(training, classes),
            "val": labelled(validation, classes),
        }
        random.Random(0).shuffle(images["train"])
        for part, items in images.items():
            print(f"{part}: {len(items)} images of {len({label for label, _, _ in items})} classes")
        args.out.mkdir(parents=True, exist_ok=True)
        write_class_names(args.out, classes)
        files = record_files(args.resize, args.val_resize)
        for name in args.records or files:
            part, resize = files[name]
            pack_files(
                args.out / f"{name}.rec",
                images[part],
                resize,
                _QUALITY,
                args.num_thread,
                args.chunk,
                strict=False,  # the published set, as everybody has it
            )
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
