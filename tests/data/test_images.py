"""data.formats.images: images are held to what MXNet decodes; other kinds have their names."""

import cv2
import numpy as np
import pytest
from PIL import Image

from data import DataError
from data.formats import images
from data.iterators import EpochIter
from tests.data.files import record, write
from tests.data.test_pack import HEIC, JPEG, PICTURE, RGB, oriented, saved

KINDS = {
    "jpeg": (JPEG, True),
    "progressive jpeg": (saved(RGB, format="JPEG", progressive=True), True),
    "cmyk jpeg": (saved(RGB.convert("CMYK"), format="JPEG"), True),
    "turned jpeg": (oriented(PICTURE, 6, format="JPEG"), True),
    "png": (saved(RGB, format="PNG"), True),
    "palette png": (saved(RGB.quantize(4), format="PNG"), True),
    "deep png": (cv2.imencode(".png", PICTURE.astype(np.uint16) * 257)[1].tobytes(), True),
    "bmp": (saved(RGB, format="BMP"), True),
    "tiff": (saved(RGB, format="TIFF"), True),
    "tiff lzw": (saved(RGB, format="TIFF", compression="tiff_lzw"), True),
    "tiff deflate": (saved(RGB, format="TIFF", compression="tiff_adobe_deflate"), False),
    "tiff jpeg": (saved(RGB, format="TIFF", compression="jpeg"), False),
    "webp": (saved(RGB, format="WEBP"), False),
    "jpeg 2000": (saved(RGB, format="JPEG2000"), False),
    "ppm": (saved(RGB, format="PPM"), False),
    "pgm": (saved(RGB.convert("L"), format="PPM"), False),
    "gif": (saved(RGB, format="GIF"), False),
    "heic": (HEIC, False),
    "text": (b"<html>404</html>", False),
    "empty": (b"", False),
    "as wide as can be": (saved(Image.new("L", (32766, 1)), format="JPEG"), True),
    "wider": (saved(Image.new("L", (32767, 1)), format="JPEG"), False),
    "high": (saved(Image.new("L", (1, 65000)), format="JPEG"), False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_verified_is_what_training_decodes(tmp_path, kind):
    """With the augmentation of level 2 and 3, which scales and turns."""
    content, expected = KINDS[kind]
    try:
        pixels = images.check(content)
    except images.ImageError as error:
        assert "\n" not in str(error)
        pixels = None
    # Twice: where the only image of a part can't be decoded, nothing is said.
    rec = write(tmp_path / "x.rec", record(0.0, content), record(0.0, content))
    args = {"path_imgrec": str(rec), "data_shape": (3, 16, 16), "batch_size": 2}
    args.update(max_random_scale=1.0, min_random_scale=0.5, max_rotate_angle=10)
    try:
        EpochIter(args).next().data[0].wait_to_read()
        trains = True
    except DataError as error:
        assert "record 0 at byte 0" in str(error)
        trains = False
    assert trains == (pixels is not None) == expected


def test_heic_is_read_with_its_package():
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    for content in (
        saved(RGB, format="HEIF", quality=95),
        saved(RGB.rotate(90, expand=True), format="HEIF", quality=95, exif=exif.tobytes()),
    ):
        difference = np.abs(images.read(content)[:, :, ::-1].astype(int) - PICTURE)
        assert np.median(difference) <= 3 and difference.mean() < 8
    with pytest.raises(images.ImageError, match="damaged: a HEIC file"):
        images.read(HEIC)
