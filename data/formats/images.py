"""Image files to pixels, strictly: what a decoder would fill up or guess is an error.

OpenCV, which im2rec and ImageRecordIter read images with, is right on almost everything: EXIF
rotation of JPEG and PNG, greyscale, CMYK, 16 bits, palettes. Here is the rest. It takes a JPEG that
is cut off or damaged for whole, and makes the missing pixels up; it ignores EXIF rotation in WebP,
shows the colours that hide under transparent pixels, and knows no GIF.
"""

import io
import threading
import warnings
from contextlib import contextmanager

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

# PIL warns of broken EXIF data, which is of no matter or an error here.
warnings.filterwarnings("ignore", module="PIL")
# Its own limit is a warning and then another limit; the limits here are below.
Image.MAX_IMAGE_PIXELS = None

#: A larger image (0.8 GB in memory) is not decoded.
MAX_PIXELS = 1 << 28
#: MXNet's rotation and shear (OpenCV's remap) fail on images with a longer side.
MAX_SIDE = 32767
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
_JPEG = b"\xff\xd8"
_ORIENTATION = 0x0112
# What libjpeg says of a file whose pixels are whole.
_HARMLESS = ("unknown JFIF revision", "Invalid SOS parameters", "unknown Adobe color")
# Images of more pixels than this are decoded one at a time, whatever the number of threads.
_LARGE = 1 << 26
_one_large = threading.Lock()


class ImageError(Exception):
    """An image that can't be used; the reason, without the file's name."""


def check(content: bytes) -> np.ndarray:
    """Return the pixels of an image file as it is in a record. Raises ImageError where
    ImageRecordIter can't decode them, or makes up a part."""
    decode = _decode_jpeg if content.startswith(_JPEG) else _decode_with_opencv
    return decode(content)


def read(content: bytes, strict: bool = True) -> np.ndarray:
    """Return the pixels of an image file, (height, width, 3) uint8, channels blue, green, red.

    Upright, whatever its EXIF orientation; transparent pixels on white; of an animation, the first
    picture. Pixels of ordinary files are those that im2rec reads. Raises ImageError; without
    `strict`, all is left to OpenCV.
    """
    if not strict:
        return _decode_with_opencv(content)
    image = _open(content)
    width, height = image.size
    _check_size(width, height)
    if width * height <= _LARGE:
        return _read(content, image)
    with _one_large:
        return _read(content, image)


def _read(content, image):
    if image.format in ("JPEG", "MPO"):
        pixels = _decode_jpeg(content)
        # The same pixels either way; OpenCV turns them.
        if image.mode != "CMYK" and image.getexif().get(_ORIENTATION, 1) == 1:
            return pixels
        return _decode_with_opencv(content)
    transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    if not transparent and image.format not in ("GIF", "WEBP"):
        return _decode_with_opencv(content)
    with _errors_of_pil():
        image = ImageOps.exif_transpose(image)
        if transparent:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(image.convert("RGB"))[:, :, ::-1]


def _open(content):
    """Return PIL's image, whose pixels are not yet decoded."""
    if not content:
        raise ImageError("an empty file")
    with _errors_of_pil():
        return Image.open(io.BytesIO(content), formats=_FORMATS)


@contextmanager
def _errors_of_pil():
    try:
        yield
    except UnidentifiedImageError:
        raise ImageError("not an image") from None
    except Exception as error:  # PIL's readers raise many kinds where a file is damaged
        reason = str(error).replace("\n", " ")
        raise ImageError(f"damaged: {reason or type(error).__name__}") from None


def _check_size(width, height):
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels: more than {MAX_PIXELS >> 20} million")


def _decode_jpeg(content):
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(content)
        _check_size(width, height)
        return simplejpeg.decode_jpeg(content, "BGR")
    except ValueError as error:
        reason = str(error)
    if reason.startswith("tj"):
        # Rare subsampling, which TurboJPEG does not do and libjpeg does. PIL finds what is cut off.
        with _errors_of_pil():
            _open(content).load()
    elif not any(harmless in reason for harmless in _HARMLESS):
        raise ImageError(f"damaged: {reason}")
    return _decode_with_opencv(content)


def _decode_with_opencv(content):
    if not content:
        raise ImageError("an empty file")
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f"damaged: {error.err}") from None
    if pixels is None:
        raise ImageError("no image that OpenCV can decode")
    return pixels


def short_side(content: bytes) -> int:
    """Return the length of an image file's short side in pixels, without decoding it. Raises
    ImageError if it is not an image."""
    return min(_open(content).size)


def resized(pixels: np.ndarray, short_side: int, enlarge: bool = True) -> np.ndarray:
    """Return the image with a short side of so many pixels, as im2rec's ``--resize`` does it.

    enlarge : if not, a smaller image stays as it is. Raises ImageError where its long side would be
    more than MXNet can rotate.
    """
    height, width = pixels.shape[:2]
    if not enlarge:
        short_side = min(short_side, height, width)
    if max(height, width) * short_side // min(height, width) > MAX_SIDE:
        raise ImageError(
            f"{width}x{height} pixels: with a short side of {short_side}, "
            f"its long one is more than {MAX_SIDE}"
        )
    if height > width:
        size = (short_side, height * short_side // width)
    else:
        size = (width * short_side // height, short_side)
    return cv2.resize(pixels, size)
