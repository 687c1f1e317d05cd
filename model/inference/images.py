"""Image files as the input of a network, processed as images in records are."""

import os
import sys
from pathlib import Path
from typing import Iterable, Iterator, Optional, Sequence, Tuple

import cv2
import numpy as np

from data.formats import images
from data.formats.folders import Skipped, files_below, read_image_file
from data.formats.images import ENDINGS, MAX_PIXELS, ImageError
from log import UserError
from log.files import PathLike
from model.network.loading import Network


class Unreadable(UserError):
    """An image that can't be read. One line: the file and the reason."""


def image_paths(arguments: Iterable[str]) -> Iterator[str]:
    """Yield the paths that the IMAGE arguments stand for; a folder without images as itself.

    Of a folder these are the files that data.pack would take, and those with the name of an image.
    """
    for argument in arguments:
        if argument == "-":
            # A name need not be text in the encoding of standard input.
            lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer)
            yield from filter(None, lines)
        elif os.path.isdir(argument):
            empty = True
            left_out: Skipped = []
            for path in files_below(Path(argument), Path(argument), left_out):
                if path.suffix.lower() in ENDINGS or _is_image(path):
                    empty = False
                    yield str(path)
            if empty:
                yield argument
        else:
            yield argument


def _is_image(path: Path) -> bool:
    try:
        return images.is_image(read_image_file(path))
    except ImageError:
        return False


def read_image(path: PathLike) -> np.ndarray:
    """Return the (height, width, 3) uint8 pixels of an image file, channels blue, green, red, as
    data.pack reads them. Raises Unreadable."""
    try:
        return images.read(read_image_file(path))
    except ImageError as error:
        raise Unreadable(f"{path}: {error}") from None
    except MemoryError:
        raise Unreadable(f"{path}: not enough memory to decode it") from None


def network_input(path: PathLike, network: Network) -> np.ndarray:
    """Return the network's input for a file, (3, height, width) float32. Raises Unreadable."""
    pixels = read_image(path)
    try:
        return prepare_image(
            pixels, network.input_shape, network.short_side, network.mean, network.std
        )
    except ImageError as error:
        raise Unreadable(f"{path}: {error}") from None


def prepare_image(
    pixels: np.ndarray,
    image_shape: Tuple[int, int, int],
    short_side: Optional[int],
    mean: Sequence[float],
    std: Sequence[float],
) -> np.ndarray:
    """Return the network's input, (3, height, width) float32 of `image_shape`, for an image as
    `read_image` gives it.

    What im2rec and ImageRecordIter do to a validation image, to the bit: the short side is resized
    to `short_side` (None: not at all), the centre is cut out, `mean` subtracted, and the result
    divided by `std`, each three numbers in the order red, green, blue. Raises ImageError if the
    image is too thin for that.
    """
    if short_side:
        pixels = images.resized(pixels, short_side)
    # ImageRecordIter's way, in two steps, with an image smaller than what is cut out of it.
    height, width = image_shape[1:]
    rows, columns = pixels.shape[:2]
    if rows < height:
        pixels = _resized(pixels, height, columns * height // rows)
    rows, columns = pixels.shape[:2]
    if columns < width:
        pixels = _resized(pixels, rows * width // columns, width)
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    pixels = pixels[top : top + height, left : left + width, ::-1]
    scale = np.float32(1) / np.asarray(std, np.float32)
    return ((pixels - np.asarray(mean, np.float32)) * scale).transpose(2, 0, 1)


def _resized(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    if rows * columns > MAX_PIXELS:
        height, width = pixels.shape[:2]
        raise ImageError(f"{width}x{height} pixels: too thin")
    return cv2.resize(pixels, (columns, rows))
