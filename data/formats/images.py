"""Image files to pixels, in the same way for packing, verification, prediction and contact sheets.

Strict: if a decoder would have to guess pixels, that is an error. OpenCV, which im2rec and
ImageRecordIter read images with, is right on almost everything: EXIF rotation of JPEG and PNG,
greyscale, CMYK, 16 bits, palettes. Here is the rest. It accepts a JPEG that is cut off or damaged,
and invents the missing pixels; it ignores EXIF rotation in WebP, shows the colours that are hidden
by transparency, reads values of 12 bits as nearly black, and cannot read GIF, HEIC and AVIF.

    file of a person:  read   -> pixels -> resized -> JPEG in a record, or prediction
    image in a record: check  -> pixels, if ImageRecordIter can decode them and all are there
                       decode -> pixels, as ImageRecordIter decodes them
"""

import io
import threading
import warnings
from contextlib import contextmanager
from typing import Iterator, Optional

import cv2
import mxnet as mx
import numpy as np
import simplejpeg
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

# PIL warns of broken EXIF data, which is of no matter or an error here.
warnings.filterwarnings("ignore", module="PIL")
# Its own limit is a warning and then another limit; the limits here are below.
Image.MAX_IMAGE_PIXELS = None

#: A larger image (0.8 GB in memory) is not decoded.
MAX_PIXELS = 1 << 28
#: MXNet's scaling, rotation and shear (OpenCV's remap) fail on images with a longer side.
MAX_SIDE = 32766
#: Endings of the names of image files.
ENDINGS = frozenset(
    (
        ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg",
        ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
    )
)  # fmt: skip
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112
# What libjpeg says of a file whose pixels are whole.
_HARMLESS = ("unknown JFIF revision", "Invalid SOS parameters", "unknown Adobe color")
# Images of more pixels than this are decoded one at a time, whatever the number of threads.
_LARGE = 1 << 26
_one_large = threading.Lock()


class ImageError(Exception):
    """An image that can't be used; the reason, without the file's name."""


class NotAnImage(ImageError):
    """A file of another kind."""


def check(content: bytes) -> np.ndarray:
    """Return the pixels of an image file as it is in a record, as `read` returns them.

    Raises ImageError if ImageRecordIter can't decode it, or invents a part, or can't scale it.
    """
    if not content:
        raise ImageError("an empty file")
    if content.startswith(_JPEG):
        pixels = _decode_jpeg(content)
    elif content.startswith(_PNG):
        pixels = _decode_with_opencv(content)
    else:
        pixels = _decode_with_mxnet(content)
    _check_sides(pixels)
    return pixels


def decode(content: bytes) -> np.ndarray:
    """Return the pixels that ImageRecordIter sees of an image file in a record, as `read` returns
    them. It invents what is missing of a damaged one. Raises ImageError where it fails."""
    if not content:
        raise ImageError("an empty file")
    try:
        pixels = mx.image.imdecode(content, to_rgb=False).asnumpy()
    except mx.base.MXNetError:
        raise ImageError(_why_mxnet_can_not(content)) from None
    _check_sides(pixels)
    return pixels


def is_seen_otherwise(content: bytes) -> bool:
    """True if ImageRecordIter shows other pixels of a whole image than `read` does: those under
    transparency, or not turned as EXIF says."""
    if content.startswith(_JPEG):
        return False
    try:
        image = _open(content)
    except ImageError:
        return True
    turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) != 1
    return _is_transparent(image) or turned


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def _check_sides(pixels: np.ndarray) -> None:
    height, width = pixels.shape[:2]
    if max(height, width) > MAX_SIDE:
        raise ImageError(f"{width}x{height} pixels: MXNet can't scale sides above {MAX_SIDE}")


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


def _read(content: bytes, image: ImageFile.ImageFile) -> np.ndarray:
    if image.format in ("JPEG", "MPO"):
        pixels = _decode_jpeg(content)
        # The same pixels either way; OpenCV turns them.
        if image.mode != "CMYK" and image.getexif().get(_ORIENTATION, 1) == 1:
            return pixels
        return _decode_with_opencv(content)
    if image.mode in ("F", "LAB") or (image.format == "TIFF" and image.mode == "I"):
        kind = {"F": "float", "I": "32-bit", "LAB": "LAB"}[image.mode]
        raise ImageError(f"{kind} pixels: convert it to 8-bit RGB or grey")
    transparent = _is_transparent(image)
    if image.mode.startswith("I"):
        return _read_grey_of_16_bits(content, image)
    if transparent or image.format in ("GIF", "WEBP", "HEIF", "AVIF") or _is_scaled(image):
        return _decode_with_pil(image, transparent)
    pixels = _decode_with_opencv(content)
    if _bits(content, image) == 16:
        _check_bits(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED))
    return pixels


def _decode_with_pil(image: Image.Image, transparent: bool) -> np.ndarray:
    with _errors_of_pil():
        upright = ImageOps.exif_transpose(image) or image
        if transparent:
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        return np.asarray(upright.convert("RGB"))[:, :, ::-1]


def _read_grey_of_16_bits(content: bytes, image: ImageFile.ImageFile) -> np.ndarray:
    scaled = _is_scaled(image)
    with _errors_of_pil():
        values = np.asarray(ImageOps.exif_transpose(image))
    if scaled:  # by PIL, to 16 bits
        pixels = np.dstack([(values >> 8).astype(np.uint8)] * 3)
    else:
        _check_bits(values)
        pixels = _decode_with_opencv(content)
    transparent = image.info.get("transparency")
    if transparent is not None:  # one of the values
        pixels = np.where((values == transparent)[:, :, None], np.uint8(255), pixels)
    return pixels


def _is_scaled(image: ImageFile.ImageFile) -> bool:
    """True for a PGM or PPM whose white is neither 255 nor 65535, which OpenCV does not scale."""
    if image.format != "PPM" or not image.tile:
        return False
    arguments = image.tile[0][3]
    return isinstance(arguments, tuple) and arguments[-1] not in (255, 65535)


def _bits(content: bytes, image: ImageFile.ImageFile) -> int:
    """Return the bits of a value in the file: 16 if there are more than 8."""
    if image.format == "PNG":
        return content[24]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return max((image.tag_v2 or {}).get(258, (8,)))
    if image.format == "PPM" and image.tile:
        return 16 if 65535 in image.tile[0][3] else 8
    return 8


def _check_bits(values: Optional[np.ndarray]) -> None:
    """Raise ImageError if values of 16 bits look like those of 12 or fewer, as X-ray, depth and
    microscope cameras have them: the picture would be nearly black."""
    highest = 0 if values is None else int(values.max())
    if 0 < highest < 4096:
        raise ImageError(
            f"16-bit values up to {highest} only, nearly black: if they have 12 bits or fewer, "
            "scale them to 8 or 16 bits"
        )


def _open(content: bytes) -> ImageFile.ImageFile:
    """Return PIL's image, whose pixels are not yet decoded."""
    if not content:
        raise ImageError("an empty file")
    kind = _kind_of_heif(content)
    if kind:
        return _open_heif(content, kind)
    with _errors_of_pil():
        return Image.open(io.BytesIO(content), formats=_FORMATS)


def _kind_of_heif(content: bytes) -> Optional[str]:
    """Return HEIC or AVIF for a file of that kind: a box "ftyp" with its brands comes first."""
    if content[4:8] != b"ftyp":
        return None
    brands = content[8 : min(int.from_bytes(content[:4], "big"), 64)]
    if any(brand in brands for brand in (b"avif", b"avis")):
        return "AVIF"
    heic = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
    return "HEIC" if any(brand in brands for brand in heic) else None


def _open_heif(content: bytes, kind: str) -> ImageFile.ImageFile:
    try:
        import pillow_heif
    except ImportError:
        raise ImageError(f"{kind}: needs pip install pillow-heif, or convert it") from None
    pillow_heif.register_heif_opener()
    pillow_heif.register_avif_opener()
    try:
        with _errors_of_pil():
            return Image.open(io.BytesIO(content), formats=("HEIF", "AVIF"))
    except NotAnImage:
        raise ImageError(f"damaged: a {kind} file that can't be read") from None


@contextmanager
def _errors_of_pil() -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError:
        raise NotAnImage("not an image") from None
    except Exception as error:  # PIL's readers raise many kinds where a file is damaged
        reason = str(error).replace("\n", " ")
        raise ImageError(f"damaged: {reason or type(error).__name__}") from None


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels: more than {MAX_PIXELS // 10**6} million")


def _decode_jpeg(content: bytes) -> np.ndarray:
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


def _decode_with_opencv(content: bytes) -> np.ndarray:
    if not content:
        raise ImageError("an empty file")
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f"damaged: {getattr(error, 'err', error)}") from None
    if pixels is None:
        raise ImageError("not an image that OpenCV can decode")
    return pixels


def _decode_with_mxnet(content: bytes) -> np.ndarray:
    """As ImageRecordIter does: with OpenCV 3.4, without WebP, JPEG 2000, PPM and some of TIFF."""
    try:
        _decode_with_opencv(content)  # refuses what 3.4 makes up
        return mx.image.imdecode(content, to_rgb=False).asnumpy()
    except (ImageError, mx.base.MXNetError):
        raise ImageError(_why_mxnet_can_not(content)) from None


def _why_mxnet_can_not(content: bytes) -> str:
    try:
        kind = _kind_of_heif(content) or _open(content).format
    except NotAnImage:
        return "not an image that MXNet can decode"
    except ImageError:
        return "damaged, or of a kind that MXNet can't decode"
    return f"{kind}: MXNet can't decode it"


def is_image(content: bytes) -> bool:
    """True for a file of a kind that `read` knows, whole or not."""
    try:
        _open(content)
    except NotAnImage:
        return False
    except ImageError:
        return bool(content)
    return True


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
