"""data.verify: what is wrong with a record file is found, and named by its place."""

import io
import json
import os
import struct
import subprocess
import sys

import cv2
import mxnet as mx
import numpy as np
import pytest
from PIL import Image

from data import DataError, inspect, verify
from data.checking import records as checking
from data.formats import classes, recordfile, recordset
from data.formats.classes import write_class_names
from data.formats.recordfile import packed
from data.packing.writer import encode_png, write_records
from tests.data.files import MAGIC, files_in, read_all, record, write
from tests.runs import ROOT

COUNT = 12


def jpeg(number) -> bytes:
    noise = np.random.RandomState(number).randint(0, 256, (4, 4, 3)).astype(np.uint8)
    image = cv2.resize(noise, (32, 32), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", image)[1].tobytes()


IMAGES = [(number % 5, jpeg(number)) for number in range(COUNT)]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """12 records of 5 classes, as this project writes them."""
    rec = tmp_path_factory.mktemp("good") / "good.rec"
    write_records(rec, IMAGES, COUNT)
    write_class_names(rec.parent, "abcde")
    return rec


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same as im2rec writes them, without checksums."""
    rec = tmp_path_factory.mktemp("plain") / "plain.rec"
    writer = mx.recordio.MXIndexedRecordIO(str(rec.with_suffix(".idx")), str(rec), "w")
    for number, (label, image) in enumerate(IMAGES):
        writer.write_idx(number, record(float(label), image, number))
    writer.close()
    return rec


def damaged_copy(rec, folder, content):
    copy = folder / "copy.rec"
    copy.write_bytes(content)
    copy.with_suffix(".idx").write_bytes(rec.with_suffix(".idx").read_bytes())
    return copy


def found_in(rec, capsys, num_classes=5) -> list:
    """Return the lines that name what is wrong, but for the summary."""
    wrong, _ = checking.verify(rec, num_classes, num_thread=2)
    lines = capsys.readouterr().out.splitlines()
    places = (": record ", ".idx: ", ": no records")
    lines = [line for line in lines if any(place in line for place in places)]
    assert wrong == len(lines)
    return lines


def corrupted(content: bytes, offsets, randomness) -> tuple:
    """Return (content with one thing wrong in it, the first byte that is wrong)."""
    kind = randomness.choice(["flip", "framing", "header", "image", "cut", "lose", "add", "zero"])
    start = int(randomness.choice(offsets))
    end = min([offset for offset in offsets if offset > start], default=len(content))
    if kind in ("flip", "framing", "header", "image"):
        ranges = {"flip": (0, len(content)), "framing": (start, start + 8),
                  "header": (start + 8, start + 32), "image": (start + 32, end)}  # fmt: skip
        place = randomness.randint(*ranges[kind])
        changed = bytearray(content)
        changed[place] ^= 1 << randomness.randint(8)
        return bytes(changed), place
    place = int(randomness.randint(len(content)))
    length = randomness.randint(1, 60)
    if kind == "cut":
        # At the end of a record too.
        place = randomness.choice([place, start])
        return content[:place], place
    if kind == "lose":
        return content[:place] + content[place + length :], place
    if kind == "add":
        return content[:place] + randomness.bytes(length) + content[place:], place
    zeros = bytes(length)[: len(content) - place]
    if content[place : place + length] == zeros:
        return corrupted(content, offsets, randomness)
    return content[:place] + zeros + content[place + length :], place


def test_every_one_of_1000_corruptions_is_found_where_it_is(good, tmp_path, capsys):
    content = good.read_bytes()
    offsets = recordset.scan(good).offsets.tolist()
    assert found_in(good, capsys) == []
    randomness = np.random.RandomState(0)
    for i in range(1000):
        changed, place = corrupted(content, offsets, randomness)
        lines = found_in(damaged_copy(good, tmp_path, changed), capsys)
        assert lines, (i, place)
        # The first that is wrong is the record with the first wrong byte (or, where its end is
        # hit, the one behind it): all before it are good.
        number = sum(offset <= place for offset in offsets) - 1
        last = lines[-1] if "record" not in lines[0] else lines[0]
        assert (
            f"record {number} at byte {offsets[number]}:" in lines[0]
            or (f"record {number + 1} at byte" in lines[0])
            or (f"byte {offsets[number]}" in last)
        ), (i, place, lines)


def test_without_checksums_it_says_what_it_cannot_see(plain, tmp_path, capsys):
    """Every flipped bit of a record: those that are not found change nothing but the pixels of an
    image that still decodes, or the label to another class, or count padding as the image's."""
    content = plain.read_bytes()
    first, second = recordset.scan(plain).offsets[:2].tolist()
    length = struct.unpack_from("<I", content, 4)[0]
    missed = {"label": 0, "image": 0}
    flips = [8 * i + bit for i in [*range(32), *range(32, second, 7)] for bit in range(8)]
    for flip in flips:
        changed = bytearray(content)
        changed[flip // 8] ^= 1 << flip % 8
        if found_in(damaged_copy(plain, tmp_path, bytes(changed)), capsys):
            continue
        if first + 16 <= flip // 8 < first + 32:
            continue  # the numbers, which MXNet does not use, and other writers set otherwise
        if first + 12 <= flip // 8 < first + 16:
            missed["label"] += 1
            label = struct.unpack_from("<f", changed, 12)[0]
            assert label in range(5)
        elif flip // 8 >= first + 32:
            missed["image"] += 1
            pixels = cv2.imdecode(np.frombuffer(changed[first + 32 : second], np.uint8), 1)
            assert pixels.ndim == 3
        else:
            assert flip // 8 in range(4, 8)
            assert length < struct.unpack_from("<I", changed, 4)[0] <= (length + 3) // 4 * 4
    assert missed["label"] < 5 and 0 < missed["image"] < 0.7 * len(flips)
    checking.verify(plain, None, 1)
    said = capsys.readouterr().out
    assert "12 records have no checksum" in said and "can't be noticed" in said


@pytest.mark.parametrize("bits", ["framing", "header", "images"])
def test_what_is_good_is_copied(good, tmp_path, capsys, bits):
    """Three records are damaged, the file ends in the middle of the last: the others come out."""
    content = bytearray(good.read_bytes())
    offsets = recordset.scan(good).offsets.tolist()
    where = {"framing": 5, "header": 12, "images": 300}[bits]
    for number in (0, 4, 5):
        content[offsets[number] + where] ^= 0x10
    copy = damaged_copy(good, tmp_path, content[:-20])
    (tmp_path / "classes.txt").write_bytes((good.parent / "classes.txt").read_bytes())
    out = tmp_path / "out"
    assert verify.main([str(copy), "--repair", str(out)]) == 1
    said = capsys.readouterr().out
    for number in (0, 4, 5, 11):
        assert f"{copy}: record {number} at byte {offsets[number]}: " in said
    assert "12 records, 4 wrong" in said and f"{out / 'copy.rec'}: 8 records" in said
    assert verify.main([str(out / "copy.rec")]) == 0
    kept = [number for number in range(COUNT) if number not in (0, 4, 5, 11)]
    assert [(number, label) for number, label, _ in read_all(out / "copy.rec")] == [
        (number, number % 5) for number in kept
    ]
    original = list(recordfile.walk(good))
    assert [found.record for found in recordfile.walk(out / "copy.rec")] == [
        original[number].record for number in kept
    ]
    assert classes.class_names(out / "copy.rec") == list("abcde")


def test_a_split_record_is_one(tmp_path, capsys):
    image = encode_png(np.zeros((8, 8, 3), np.uint8))
    image += b"\0" * (-len(image) % 4) + MAGIC + b"tail" + MAGIC
    rec = tmp_path / "split.rec"
    write_records(rec, [(0, image), (1, jpeg(1))], 2)
    assert rec.read_bytes().count(MAGIC) == 4
    assert found_in(rec, capsys) == []
    content = bytearray(rec.read_bytes())
    second_part = content.index(MAGIC, 4)
    content[second_part + 7] ^= 0x40  # the upper bits of its length: which part it is
    lines = found_in(damaged_copy(rec, tmp_path, bytes(content)), capsys)
    assert "record 0 at byte 0: a part of a split record is missing" in lines[0]


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (record(7.0, jpeg(0)), "its label is 7, not one from 0 to 4"),
        (record(-1.0, jpeg(0)), "its label is -1, not one from 0 to 4"),
        (record(0.5, jpeg(0)), "its label is 0.5, not a whole number"),
        (record(float("nan"), jpeg(0)), "its label is nan"),
        (record([1.0, 2.0], jpeg(0)), "2 labels, not one"),
        (record(1.0, b""), "an empty file"),
        (record(1.0, b"<html>404</html>"), "not an image that MXNet can decode"),
        (record(1.0, jpeg(0)[:-40]), "damaged: Premature end of JPEG file"),
        (packed(1, 9, jpeg(0)), "its number is 9, in the index 0"),
        (packed(1, 0, jpeg(0))[:24] + b"\1" + packed(1, 0, jpeg(0))[25:], "its checksum differs"),
        (b"12345678", "shorter than its header"),
    ],
)
def test_a_wrong_record_is_named(tmp_path, capsys, payload, says):
    rec = tmp_path / "wrong.rec"
    writer = mx.recordio.MXIndexedRecordIO(str(rec.with_suffix(".idx")), str(rec), "w")
    for number, each in enumerate((payload, record(1.0, jpeg(1), 1))):
        writer.write_idx(number, each)
    writer.close()
    (line,) = found_in(rec, capsys)
    assert line.startswith(f"{rec}: record 0 at byte 0: ") and says in line


@pytest.mark.parametrize(
    "number", [lambda i: 0, lambda i: (7 * i + 3) % COUNT], ids=["tutorial", "rec2idx"]
)
@pytest.mark.parametrize("second", [0, 5], ids=["", "second number"])
def test_records_of_other_writers_are_whole(tmp_path, capsys, number, second):
    """MXNet's tutorial has id 0 in all headers; rec2idx.py counts the records of im2rec."""
    rec = tmp_path / "other.rec"
    writer = mx.recordio.MXIndexedRecordIO(str(rec.with_suffix(".idx")), str(rec), "w")
    for i, (label, image) in enumerate(IMAGES):
        header = mx.recordio.IRHeader(0, float(label), number(i), second)
        writer.write_idx(i, mx.recordio.pack(header, image))
    writer.close()
    assert found_in(rec, capsys) == []
    assert checking.without_bad_records(rec, 2) == (str(rec), [])
    # One is damaged: the others come out, each with its number in the index.
    content = bytearray(rec.read_bytes())
    offsets = recordset.scan(rec).offsets.tolist()
    content[offsets[4] + 34] ^= 0xFF
    rec.write_bytes(content)
    clean, bad = checking.without_bad_records(rec, 2)
    assert len(bad) == 1 and bad[0].startswith(f"record 4 at byte {offsets[4]}: ")
    rows = [line.split() for line in (tmp_path / "other.clean.idx").read_text().splitlines()]
    assert [int(key) for key, _ in rows] == [i for i in range(COUNT) if i != 4]
    assert recordset.scan(clean).labels.tolist() == [i % 5 for i in range(COUNT) if i != 4]


@pytest.mark.parametrize("place", range(24, 32))
def test_a_checksum_that_is_gone_is_damage(good, tmp_path, capsys, place):
    """The second number of one record is another, or 0: the others' tell that it is not theirs."""
    content = good.read_bytes()
    offset = int(recordset.scan(good).offsets[3])
    for changed in (bytes(8), bytes(8 - (place - 24)), b"\1"):
        start = offset + 8 + place if len(changed) == 1 else offset + 8 + 32 - len(changed)
        damaged = content[:start] + changed + content[start + len(changed) :]
        if damaged != content:
            (line,) = found_in(damaged_copy(good, tmp_path, damaged), capsys)
            assert f"record 3 at byte {offset}: damaged (its checksum " in line


def test_pixels_that_a_person_does_not_see_are_said(tmp_path, capsys):
    """Of files that were packed as they are: what transparency hides, PNGs that EXIF turns."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGBA", (32, 32), (200, 10, 10, 0))
    kinds = [(picture, {}), (picture.convert("RGB"), {"exif": exif}), (picture.convert("RGB"), {})]
    contents = []
    for image, how in kinds:
        file = io.BytesIO()
        image.save(file, "PNG", **how)
        contents.append(file.getvalue())
    rec = write(tmp_path / "x.rec", *(record(0.0, content) for content in [*contents, jpeg(0)]))
    assert checking.verify(rec, None, 1)[0] == 0
    assert "2 records have transparency or an EXIF rotation" in capsys.readouterr().out


def test_an_index_that_does_not_fit(good, tmp_path, capsys):
    copy = damaged_copy(good, tmp_path, good.read_bytes())
    lines = copy.with_suffix(".idx").read_text().splitlines()
    offset = recordset.scan(good).offsets[2]
    copy.with_suffix(".idx").write_text("\n".join([*lines[:2], "2\t77", *lines[3:]]))
    assert found_in(copy, capsys) == [
        f"{copy}: record 2 at byte {offset}: not in the index",
        f"{copy.with_suffix('.idx')}: 2: no record begins at byte 77",
    ]
    copy.with_suffix(".idx").write_text("not an index")
    assert len(found_in(copy, capsys)) == 1


def test_the_command(good, plain, tmp_path, capsys):
    bad = write(tmp_path / "bad.rec", record(0.0, jpeg(0)), record(1.0, b"nothing"))
    words = [sys.executable, "-m", "data.verify", str(good), str(bad)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{good}: 12 records, nothing wrong" in done.stdout
    assert f"{bad}: record 1 at byte " in done.stdout
    assert verify.main([str(good), str(plain)]) == 0
    folder = good.parent
    for wrong in (["nowhere.rec"], [folder], [good, "--repair", folder], [good, "--show=0"]):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            verify.main(list(map(str, wrong)))
        assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_contact_sheets_show_what_is_there(tmp_path):
    """Two colours: in the samples, and, with a crop and a mirror, in what training sees."""
    colours = [(10, 200, 90), (220, 40, 160)]
    rec = tmp_path / "two.rec"
    items = [(i, encode_png(np.full((300, 340, 3), c, np.uint8))) for i, c in enumerate(colours)]
    write_records(rec, items * 3, 6)
    write_class_names(tmp_path, ["$ ü", "b"])
    arguments = [str(rec), "--show=4", "--aug-level=1", "--show-dir", str(tmp_path / "show")]
    assert verify.main(arguments) == 0
    pictures = files_in(tmp_path / "show")
    assert set(pictures) == {"two-samples.png", "two-augmented.png"}
    for content in pictures.values():
        drawn = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        shares = [np.mean((drawn == colour).all(axis=2)) for colour in colours]
        assert min(shares) > 0.1 and sum(shares) > 0.4


def test_shows_what_training_with_another_image_shape_sees(tmp_path):
    """The middle of an image of two colours, which alone fits into a small crop."""
    picture = np.full((200, 200, 3), (10, 200, 90), np.uint8)
    picture[50:150, 50:150] = 220, 40, 160
    rec = tmp_path / "one.rec"
    write_records(rec, [(0, encode_png(picture))], 1)
    shares = {}
    for shape in ("3,64,64", "3,200,200"):
        arguments = [str(rec), "--show=1", "--aug-level=1", "--random-crop=0"]
        assert verify.main([*arguments, "--image-shape", shape]) == 0
        drawn = cv2.imread(str(tmp_path / "one-augmented.png"))
        shares[shape] = np.mean((drawn == picture[0, 0]).all(axis=2))
    assert shares["3,64,64"] == 0 and shares["3,200,200"] > 0.4


# Without the bad records


def test_without_bad_records_remembers(good, tmp_path, monkeypatch):
    assert checking.without_bad_records(good, 2) == (str(good), [])
    content = bytearray(good.read_bytes())
    offsets = recordset.scan(good).offsets.tolist()
    content[offsets[3] + 100] ^= 1
    rec = tmp_path / "some.rec"
    rec.write_bytes(content)
    clean, bad = checking.without_bad_records(rec, 2)
    assert bad == [f"record 3 at byte {offsets[3]}: damaged (its checksum differs)"]
    assert len(read_all(tmp_path / "some.clean.rec")) == COUNT - 1
    assert clean == str(tmp_path / "some.clean.rec")
    with monkeypatch.context() as patch:
        patch.setattr(checking, "checked", None)
        assert checking.without_bad_records(rec, 2) == (clean, bad)
        assert checking.without_bad_records(good, 2) == (str(good), [])
    # Another file under the name is another check.
    rec.write_bytes(good.read_bytes())
    os.utime(rec, ns=(0, 0))
    assert checking.without_bad_records(rec, 2) == (str(rec), [])
    assert json.loads((tmp_path / "some.clean.json").read_text())["bad"] == []


# The check before training


@pytest.fixture
def pair(good, tmp_path):
    """Paths of a training file and a validation file that fit."""
    training = tmp_path / "train.rec"
    training.write_bytes(good.read_bytes())
    validation = tmp_path / "val.rec"
    write_records(validation, IMAGES[5:8], 3)
    return training, validation


def check_pair(training, validation):
    inspect.check_pair(recordset.scan(training), recordset.scan(validation))


def test_a_pair_that_fits(pair):
    check_pair(*pair)


def test_a_pair_of_one_file_is_refused(pair, tmp_path):
    training, validation = pair
    (tmp_path / "link.rec").symlink_to(training)
    validation.write_bytes(training.read_bytes())
    validation.with_suffix(".idx").unlink()
    for other in (training, tmp_path / "link.rec", validation):
        with pytest.raises(DataError, match="the same content as the training file"):
            check_pair(training, other)


def test_a_pair_of_other_classes_is_refused(pair, tmp_path):
    training, validation = pair
    validation.unlink()
    write_records(validation, [(7, jpeg(0)), (1, jpeg(1))], 2)
    with pytest.raises(DataError, match=r"has images of class 7, and .* has none"):
        check_pair(training, validation)
    other = tmp_path / "other" / "val.rec"
    write_records(other, IMAGES[:5], 5)
    write_class_names(tmp_path, "abcde")
    write_class_names(other.parent, "abdce")
    with pytest.raises(DataError, match=r"classes\.txt is not that of"):
        check_pair(training, other)


def test_an_index_of_another_file_is_refused(pair):
    training, validation = pair
    index = validation.with_suffix(".idx").read_bytes()
    training.with_suffix(".idx").write_bytes(index)
    with pytest.raises(
        DataError, match=r"train\.idx: not the index .* has 3 records, there are 12"
    ):
        recordset.scan(training)
    validation.with_suffix(".idx").write_bytes(index.replace(b"\t0\n", b"\t4\n"))
    with pytest.raises(DataError, match="has byte 4 for record 0, which is at 0"):
        recordset.scan(validation)


def test_a_sample_tells_the_short_side_that_all_images_have(tmp_path):
    def png(height, width):
        return cv2.imencode(".png", np.zeros((height, width, 3), np.uint8))[1].tobytes()

    images = [(0, png(20, 20 + number)) for number in range(40)]
    write_records(tmp_path / "same.rec", images, 40)
    assert inspect.check_sample(recordset.scan(tmp_path / "same.rec")) == (20, 20, 20)
    # Another one at the end, where the first ones don't tell.
    images[-1] = (0, png(50, 21))
    write_records(tmp_path / "other.rec", images, 40)
    assert inspect.check_sample(recordset.scan(tmp_path / "other.rec")) == (20, 20, 21)


def test_a_sample_that_does_not_decode_is_refused(pair):
    training, _ = pair
    inspect.check_sample(recordset.scan(training))
    content = bytearray(training.read_bytes())
    offset = recordset.scan(training).offsets[7]
    content[offset + 200] ^= 1
    training.write_bytes(content)
    with pytest.raises(DataError, match=rf"record 7 at byte {offset}: .*--skip-bad-records"):
        inspect.check_sample(recordset.scan(training))
