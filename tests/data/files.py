"""Record files, archives and folders: what several tests of data/ make and read."""

import io
import struct
import tarfile

import cv2
import mxnet as mx
import numpy as np

from data.formats import recordset
from data.packing.writer import encode_png

MAGIC = struct.pack("<I", 0xCED7230A)

PNG = encode_png(np.full((32, 32, 3), 7, np.uint8))


def record(label, image=PNG, number=0) -> bytes:
    return mx.recordio.pack(mx.recordio.IRHeader(0, label, number, 0), image)


def write(path, *payloads):
    writer = mx.recordio.MXRecordIO(str(path), "w")
    for payload in payloads:
        writer.write(payload)
    writer.close()
    return path


def read_all(rec) -> list:
    """Return [(number, label, BGR image)]; the index must lead to the same records, in order."""
    indexed = mx.recordio.MXIndexedRecordIO(str(rec.with_suffix(".idx")), str(rec), "r")
    plain = mx.recordio.MXRecordIO(str(rec), "r")
    images = []
    for number in indexed.keys:
        record = plain.read()
        assert indexed.read_idx(number) == record
        header, image = mx.recordio.unpack_img(record)
        assert header.id == number
        images.append((number, header.label, image))
    assert plain.read() is None
    assert recordset.scan(rec).num_images == len(images)
    return images


def files_in(folder) -> dict:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def tar_of(files, mode="w") -> bytes:
    """A tar archive of {name: bytes}, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def refused(capsys, code) -> str:
    """Return the only line on stderr of a command that has failed with exit code 1."""
    error = capsys.readouterr().err
    assert code == 1
    assert error.count("\n") == 1
    return error


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


#: BGR.
BLUE, GREEN, RED = (250, 0, 0), (0, 250, 0), (0, 0, 250)


def jpeg(colour, number) -> bytes:
    """An image in a colour (BGR), no two the same: wide or high, brighter or darker."""
    shape = (30, 40 + number, 3) if number % 2 else (40 + number, 30, 3)
    image = np.full(shape, colour, np.uint8) // (1 + number % 3)
    return cv2.imencode(".jpg", image)[1].tobytes()
