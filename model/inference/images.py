"""Image files as the input of a network."""

import os
import sys
from pathlib import Path
from typing import Iterable, Iterator, Optional, Sequence, Tuple

import cv2
import numpy as np

from log import UserError
from log.files import PathLike, read_file

_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class Unreadable(UserError):
    """An image that can't be read. One line: the file and the reason."""


def image_paths(arguments: Iterable[str]) -> Iterator[str]:
    """Yield the paths that the IMAGE arguments stand for; a folder without images as itself."""
    for argument in arguments:
        if argument == "-":
            # A name need not be text in the encoding of standard input.
            lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer)
            yield from filter(None, lines)
        elif os.path.isdir(argument):
            inside = sorted(p for p in Path(argument).rglob("*") if p.suffix.lower() in _ENDINGS)
            yield from map(str, inside) if inside else [argument]
        else:
            yield argument


def read_image(path: PathLike) -> np.ndarray:
    """Return the (height, width, 3) uint8 pixels of an image file, channels blue, green, red.
    Raises Unreadable."""
    content = read_file(path, Unreadable, limit=1 << 30, what="an image")
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if pixels is None:
        raise Unreadable(f"{path}: not an image that can be read")
    return pixels


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
    to `short_side` (None: not at all), the centre is cut out, and `mean` taken off and divided by
    `std`, each three numbers in the order red, green, blue.
    """

    def with_rows(rows: int) -> np.ndarray:
        return cv2.resize(pixels, (pixels.shape[1] * rows // pixels.shape[0], rows))

    def with_columns(columns: int) -> np.ndarray:
        return cv2.resize(pixels, (columns, pixels.shape[0] * columns // pixels.shape[1]))

    if short_side:
        rows, columns = pixels.shape[:2]
        pixels = with_columns(short_side) if rows > columns else with_rows(short_side)
    # ImageRecordIter's way, in two steps, with an image smaller than what is cut out of it.
    height, width = image_shape[1:]
    if pixels.shape[0] < height:
        pixels = with_rows(height)
    if pixels.shape[1] < width:
        pixels = with_columns(width)
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    pixels = pixels[top : top + height, left : left + width, ::-1]
    scale = np.float32(1) / np.asarray(std, np.float32)
    return ((pixels - np.asarray(mean, np.float32)) * scale).transpose(2, 0, 1)
