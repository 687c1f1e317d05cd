"""data.pack: whatever a folder holds is in the records as it looks, or listed with the reason."""

import io
import json
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import DataError, iterators, pack
from data.formats import classes, recordfile
from data.formats.images import ImageError, check, read
from data.packing import job, writer
from tests.data.files import files_in, read_all
from tests.disks import tmpfs
from tests.runs import ROOT

# 60 wide, 40 high, a colour in each corner (red, green, blue, yellow from the upper left on), so
# that an image that is turned, mirrored or of other colours is another.
CORNERS = np.array([[[230, 20, 20], [20, 230, 20]], [[20, 20, 230], [230, 230, 20]]], np.uint8)
PICTURE = CORNERS.repeat(20, axis=0).repeat(30, axis=1)


def saved(image, **how) -> bytes:
    file = io.BytesIO()
    image.save(file, **how)
    return file.getvalue()


def oriented(picture, orientation, **how) -> bytes:
    """The picture as a camera stores it that was held in another way, and says so in EXIF."""
    turned = {3: np.rot90(picture, 2), 6: np.rot90(picture, 1), 8: np.rot90(picture, 3)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(turned[orientation].copy()), exif=exif.tobytes(), **how)


def transparent_palette() -> bytes:
    """A palette image, the lower half of which is transparent over the picture's colours."""
    palette = Image.fromarray(PICTURE).quantize(4)
    lower = {palette.getpixel((5, 35)), palette.getpixel((55, 35))}
    return saved(
        palette, format="PNG", transparency=bytes(0 if i in lower else 255 for i in range(4))
    )


RGB = Image.fromarray(PICTURE)
GREY = np.asarray(RGB.convert("L"))
JPEG = saved(RGB, format="JPEG", quality=95)
NOISE = saved(
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (40, 60, 3)).astype(np.uint8)),
    format="JPEG",
)
WHITE_BELOW = PICTURE.copy()
WHITE_BELOW[20:] = 255
WHITE_BELOW_GREY = GREY.copy()
WHITE_BELOW_GREY[20:] = 255
# The head of a file of an iPhone, and nothing in it.
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 500


def twelve_bits(ending) -> bytes:
    """Grey of 0 to 4095 in 16 bits, as X-ray, depth and microscope cameras have it."""
    return cv2.imencode(ending, (GREY.astype(np.uint16) * 4095 // 255))[1].tobytes()


def pgm(white, dtype) -> bytes:
    return b"P5\n60 40\n%d\n" % white + (GREY * (white / 255)).round().astype(dtype).tobytes()


def deep_with_a_transparent_value() -> bytes:
    """16-bit grey whose lower half has the value that is transparent."""
    values = GREY.astype(np.uint16) * 257
    values[20:] = 777
    png = cv2.imencode(".png", values)[1].tobytes()
    chunk = b"tRNS" + struct.pack(">H", 777)
    chunk = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:33] + chunk + png[33:]  # after the header


#: What a person's folder holds: name -> (file, how it looks).
GOOD = {
    "plain.jpg": (JPEG, PICTURE),
    "progressive.JPEG": (saved(RGB, format="JPEG", quality=95, progressive=True), PICTURE),
    "cmyk.jpg": (saved(RGB.convert("CMYK"), format="JPEG", quality=95), PICTURE),
    "grey.jpg": (saved(RGB.convert("L"), format="JPEG", quality=95), GREY),
    "deep.png": (cv2.imencode(".png", GREY.astype(np.uint16) * 257)[1].tobytes(), GREY),
    "deep colour.png": (
        cv2.imencode(".png", PICTURE[:, :, ::-1].astype(np.uint16) * 257)[1].tobytes(),
        PICTURE,
    ),
    "palette.png": (saved(RGB.quantize(4), format="PNG"), PICTURE),
    "transparent.png": (transparent_palette(), WHITE_BELOW),
    "turned 3.jpg": (oriented(PICTURE, 3, format="JPEG", quality=95), PICTURE),
    "turned 6.jpg": (oriented(PICTURE, 6, format="JPEG", quality=95), PICTURE),
    "turned 8.webp": (oriented(PICTURE, 8, format="WEBP", lossless=True), PICTURE),
    "turned 6.png": (oriented(PICTURE, 6, format="PNG"), PICTURE),
    "web.webp": (saved(RGB, format="WEBP", lossless=True), PICTURE),
    "moving.gif": (
        saved(RGB, format="GIF", save_all=True, append_images=[RGB.rotate(180)]),
        PICTURE,
    ),
    "white is 100.pgm": (pgm(100, np.uint8), GREY),
    "white is 1023.pgm": (pgm(1023, ">u2"), GREY),
    "white is 1023.ppm": (b"P6\n60 40\n1023\n" + (PICTURE * 4.01).astype(">u2").tobytes(), PICTURE),
    "deep transparent.png": (deep_with_a_transparent_value(), WHITE_BELOW_GREY),
    "dark.png": (cv2.imencode(".png", np.zeros((40, 60), np.uint16))[1].tobytes(), 0 * GREY),
    "print.tiff": (saved(RGB, format="TIFF"), PICTURE),
    "wrong ending.txt": (JPEG, PICTURE),
    "with spaces .jpg": (JPEG, PICTURE),
    "Größe 猫 🐈.jpg": (JPEG, PICTURE),
    "new\nline\ttab.jpg": (JPEG, PICTURE),
    os.fsdecode(b"latin-1 \xfc.jpg"): (JPEG, PICTURE),
    "below/deeper/plain.jpg": (JPEG, PICTURE),
}
#: name -> (file, the beginning of the reason that it is left out for).
BAD = {
    "empty.jpg": (b"", "an empty file"),
    "text.jpg": (b"<html>404</html>", "not an image"),
    "phone.HEIC": (HEIC, "HEIC: needs pip install pillow-heif"),
    "12 bits.png": (twelve_bits(".png"), "16-bit values up to"),
    "12 bits.tiff": (twelve_bits(".tiff"), "16-bit values up to"),
    "float.tiff": (saved(RGB.convert("F"), format="TIFF"), "float pixels"),
    "32 bits.tiff": (saved(RGB.convert("I"), format="TIFF"), "32-bit pixels"),
    "lab.tiff": (saved(Image.fromarray(PICTURE, "LAB"), format="TIFF"), "LAB pixels"),
    "cut.jpg": (JPEG[:900], "damaged: Premature end of JPEG file"),
    "last byte.jpg": (JPEG[:-1], "damaged: Premature end of JPEG file"),
    "torn.jpg": (NOISE[:1100] + NOISE[1300:], "damaged: Corrupt JPEG data"),
    "head.jpg": (JPEG[:100], "damaged"),
    "cut.png": (saved(RGB, format="PNG")[:-30], "not an image that OpenCV can decode"),
    "cut.webp": (saved(RGB, format="WEBP")[:-30], "damaged"),
    "cut.gif": (saved(RGB, format="GIF")[:-30], "damaged"),
    "huge.png": (saved(Image.new("1", (20000, 14000)), format="PNG"), "20000x14000 pixels"),
    "thin.png": (saved(Image.new("RGB", (2000, 2)), format="PNG"), "2000x2 pixels: with a short"),
    ".hidden.jpg": (JPEG, "hidden"),
}


def write_folder(folder, files):
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A folder with all of that, packed; (the folder, OUT, what the command said)."""
    root = tmp_path_factory.mktemp("person")
    folder, out = root / "images", root / "out"
    write_folder(folder / "zoo\n1", {name: file for name, (file, _) in {**GOOD, **BAD}.items()})
    write_folder(folder / "a class", {f"{i}.jpg": JPEG for i in range(4)})
    write_folder(folder / ".git", {"config": b""})
    (folder / "none").mkdir()
    (folder / "readme.txt").write_text("")
    here = folder / "zoo\n1"
    (here / "link.jpg").symlink_to(here / "plain.jpg")
    (here / "links").symlink_to(folder / "a class")
    (here / "nowhere.jpg").symlink_to(root / "nowhere")
    (here / "below" / "up").symlink_to(folder)
    os.mkfifo(here / "pipe.jpg")
    command = [sys.executable, "-c", "import sys; sys.modules['pillow_heif'] = None; "
               "from data import pack; sys.exit(pack.main())"]  # fmt: skip
    command += [folder, out, "--val-fraction=0", "--resize=40"]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, out, done.stdout


def test_all_that_can_be_read_is_there_as_it_looks(packed):
    _, out, _ = packed
    names = [line.split("\t") for line in (out / "train.lst").read_text("utf-8").splitlines()]
    assert classes.class_names(out / "train.rec") == ["a class", "zoo\\n1"]
    looks = {f"zoo\\n1/{classes.printable(name)}": look for name, (_, look) in GOOD.items()}
    looks["zoo\\n1/link.jpg"] = PICTURE
    for i in range(4):
        looks[f"zoo\\n1/links/{i}.jpg"] = looks[f"a class/{i}.jpg"] = PICTURE
    found = read_all(out / "train.rec")
    assert {names[number][2] for number, _, _ in found} == set(looks)
    for number, label, image in found:
        _, listed, name = names[number]
        look = looks[name]
        look = np.dstack([look] * 3) if look.ndim == 2 else look
        assert label == int(listed) == name.startswith("zoo")
        assert image.shape == look.shape
        difference = np.abs(image[:, :, ::-1].astype(int) - look)
        assert np.median(difference) <= 3 and difference.mean() < 8, name


def test_what_is_left_out_is_listed_with_its_reason(packed):
    _, out, said = packed
    reasons = {f"zoo\\n1/{name}": reason for name, (_, reason) in BAD.items()}
    reasons.update(
        {
            "zoo\\n1/nowhere.jpg": "a broken link",
            "zoo\\n1/pipe.jpg": "not a file",
            "zoo\\n1/below/up": "a link to a folder that it is in",
            ".git": "hidden",
            "none": "a class without a file",
            "readme.txt": "not in a folder of a class",
        }
    )
    listed = {}
    for name in ("skipped.txt", "train.skipped.txt"):
        for line in (out / name).read_text("utf-8").splitlines():
            path, reason = line.split("\t")
            listed[path] = reason
            assert f"left out: {path}: {reason}" in said
    assert listed.keys() == reasons.keys()
    for path, reason in reasons.items():
        assert listed[path].startswith(reason), path
    assert f"2 classes; {len(reasons)} files left out" in said
    assert "--data-type custom --data-dir" in said and "--data-val=" in said


def test_the_records_are_those_of_im2rec(tmp_path):
    """Bit for bit, but for the checksum, where both take the same files for images."""
    ours_alone = ("transparent.png", "turned 8.webp", "moving.gif", "deep transparent.png",
                  "white is 100.pgm", "white is 1023.pgm", "white is 1023.ppm")  # fmt: skip
    files = [file for name, (file, _) in GOOD.items() if name not in ours_alone]
    # Sizes that don't divide, either way.
    files += [saved(RGB.resize(size), format="JPEG") for size in ((61, 37), (37, 61))]
    write_folder(tmp_path, {str(i): file for i, file in enumerate(files)})
    numbers = sorted(int(path.name) for path in tmp_path.iterdir())
    (tmp_path / "x.lst").write_text("".join(f"{i}\t{i % 3}\t{i}\n" for i in numbers))
    script = Path(mx.__file__).with_name("tools") / "im2rec.py"
    for resize, quality in ((48, 90), (31, 75)):
        command = [sys.executable, script, tmp_path / "x", tmp_path, "--num-thread=2"]
        command += [f"--resize={resize}", f"--quality={quality}"]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
        ours = tmp_path / f"ours{resize}.rec"
        items = [(i % 3, f"{i}", (tmp_path / f"{i}").read_bytes) for i in numbers]
        assert writer.pack_files(ours, items, resize, quality, 2) == []
        theirs = {
            header.id: (header.label, image)
            for header, image in map(mx.recordio.unpack, raw_records(tmp_path / "x.rec"))
        }
        assert len(theirs) == len(numbers)
        for number, record in zip(numbers, raw_records(ours)):
            header, image = mx.recordio.unpack(record)
            assert recordfile.has_checksum(record)
            assert (header.label, image) == theirs[number]


def test_a_published_set_is_packed_as_everybody_has_it(tmp_path):
    """Not `strict`: im2rec takes a JPEG that is cut off."""
    items = [(0, "cut.jpg", lambda: JPEG[:900]), (1, "plain.jpg", lambda: JPEG)]
    strict = writer.pack_files(tmp_path / "strict.rec", items, 32, 90, 1)
    assert strict == [("cut.jpg", "damaged: Premature end of JPEG file")]
    assert writer.pack_files(tmp_path / "all.rec", items, 32, 90, 1, strict=False) == []
    assert len(read_all(tmp_path / "all.rec")) == 2


def raw_records(rec):
    reader = mx.recordio.MXRecordIO(str(rec), "r")
    return list(iter(reader.read, None))


def pack_command(*args):
    return [sys.executable, "-m", "data.pack", *map(str, args)]


@pytest.fixture
def folder(tmp_path):
    # Decoders don't read on after an image: these are all the same picture in other files.
    files = {f"{c}/{i}.jpg": JPEG + f"{c}{i}".encode() for c in "ab" for i in range(15)}
    write_folder(tmp_path / "images", files)
    return tmp_path / "images"


def test_killed_and_repeated_gives_the_same_bytes(folder, tmp_path):
    write_folder(folder, {f"a/{i}.png": b"no image" for i in range(3)})
    arguments = ["--resize=400", "--chunk=3", "--num-thread=1"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert pack.main([str(folder), str(whole), *arguments]) == 0
    command = pack_command(folder, broken, *arguments)
    progress = broken / "train.rec.progress"
    process = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (progress.exists() and json.loads(progress.read_text())["done"] >= 6):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (broken / "train.rec").exists()
    subprocess.run(command, cwd=ROOT, check=True)
    assert files_in(broken) == files_in(whole)
    assert sum(len(read_all(whole / f"{name}.rec")) for name in ("train", "val")) == 30
    # Once more: nothing is done, and the same is said to be left out.
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "3 files left out" in again.stdout and again.stdout.count("already there") == 2


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(folder, tmp_path, capsys):
    with tmpfs(tmp_path / "small", "size=100k") as small:
        arguments = [str(folder), str(small / "out"), "--resize=300", "--chunk=4"]
        assert pack.main(arguments) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("data.pack: error: ") and str(small) in error
        subprocess.run(["mount", "-o", "remount,size=30m", str(small)], check=True)
        assert pack.main(arguments) == 0
        assert pack.main([str(folder), str(tmp_path / "whole"), *arguments[2:]]) == 0
        assert files_in(small / "out") == files_in(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("nowhere OUT", "nowhere"),
        ("FLAT OUT", "flat: no folder of images in it: give a folder that holds one for"),
        ("LIST OUT", "list.lst: line 2"),
        ("IMAGES OUT --val FLAT", "flat: no folder of images in it"),
        ("IMAGES OUT --val OTHER", "'c' is not a class of"),
        ("IMAGES DONE --resize=32", "other images or settings"),
        ("IMAGES FOREIGN", "data.pack did not make"),
        ("IMAGES OUT --quality=101", "--quality"),
        ("IMAGES OUT --val-fraction=1", "--val-fraction"),
        ("IMAGES OUT --num-thread=0", "--num-thread"),
        ("IMAGES", "out"),
    ],
)
def test_what_cannot_be_packed_is_one_line(folder, tmp_path, capsys, arguments, says):
    write_folder(tmp_path, {"flat/1.jpg": JPEG, "other/c/1.jpg": JPEG, "foreign/x.rec": b""})
    (tmp_path / "list.lst").write_text("0\t1\ta/0.jpg\n1\t0.5\ta/1.jpg\n")
    places = {"IMAGES": folder, "OUT": tmp_path / "out", "FLAT": tmp_path / "flat",
              "LIST": tmp_path / "list.lst", "OTHER": tmp_path / "other",
              "DONE": tmp_path / "done", "FOREIGN": tmp_path / "foreign"}  # fmt: skip
    if "DONE" in arguments:
        assert pack.main([str(folder), str(tmp_path / "done"), "--resize=16"]) == 0
    capsys.readouterr()
    before = files_in(tmp_path / "done")
    try:
        code = pack.main([str(places.get(word, word)) for word in arguments.split()])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert says in error and error.count("\n") == 1
    assert not list(tmp_path.glob("out/*.rec")) and files_in(tmp_path / "done") == before


def small_images(folder, sides):
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i, side in enumerate(sides):
            image = Image.fromarray(np.random.randint(0, 256, (side, side + 8, 3), np.uint8))
            (folder / name / f"{i}.png").write_bytes(saved(image, format="PNG"))


def sizes_of(rec) -> list:
    return sorted(image.shape[:2] for _, _, image in read_all(rec))


def test_small_images_are_enlarged_with_a_word_or_not_at_all(tmp_path, capsys):
    small_images(tmp_path / "images", [32] * 9 + [160])
    common = [str(tmp_path / "images"), "--resize", "96", "--val-fraction", "0"]
    assert pack.main([*common, str(tmp_path / "enlarged")]) == 0
    said = capsys.readouterr().out
    assert "train: the median short side of a sample is 32 pixels" in said
    assert "stored 3 times as wide and high, 9 times the pixels" in said
    assert "--resize" in said
    assert "--no-enlarge" in said
    assert sizes_of(tmp_path / "enlarged/train.rec") == [(96, 100)] * 2 + [(96, 120)] * 18
    assert pack.main([*common, str(tmp_path / "as they are"), "--no-enlarge"]) == 0
    assert sizes_of(tmp_path / "as they are/train.rec") == [(32, 40)] * 18 + [(96, 100)] * 2
    assert "warning" not in capsys.readouterr().out
    # What --no-enlarge packs is another job.
    assert pack.main([*common, str(tmp_path / "as they are")]) == 2
    assert "other images or settings" in capsys.readouterr().err


@pytest.mark.parametrize(("side", "words"), [(48, 0), (47, 1)])
def test_up_to_twice_the_size_goes_without_a_word(tmp_path, capsys, side, words):
    small_images(tmp_path / "images", [side] * 3 + [4])
    arguments = ["--resize", "96", "--val-fraction", "0"]
    assert pack.main([str(tmp_path / "images"), str(tmp_path / "out"), *arguments]) == 0
    assert capsys.readouterr().out.count("warning") == words


def test_no_readable_image_is_an_error(tmp_path, capsys):
    write_folder(tmp_path / "images", {"a/1.jpg": b"no", "a/2.jpg": b"no!"})
    assert pack.main([str(tmp_path / "images"), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "none of its 1 images can be read" in error.splitlines()[-1]


def test_a_list_with_its_own_labels(folder, tmp_path):
    """As im2rec's --list writes it; a class without an image keeps its label."""
    lst = tmp_path / "my.lst"
    lst.write_text("7\t2.000000\timages/b/3.jpg\n1\t0\timages/a/1.jpg\n3\t0\timages/a/2.jpg\n")
    assert pack.main([str(lst), str(tmp_path / "out"), "--val", str(lst), "--resize=32"]) == 0
    for name in ("train", "val"):
        labels = [label for _, label, _ in read_all(tmp_path / "out" / f"{name}.rec")]
        assert sorted(labels) == [0, 0, 2]
    assert classes.class_names(tmp_path / "out" / "val.rec") == ["0", "1", "2"]
    lst.write_text("7\t1\tb/3.jpg\n1\t0\ta/1.jpg\n")
    arguments = ["--root", str(folder), "--val-fraction=0", "--resize=32"]
    assert pack.main([str(lst), str(tmp_path / "named"), *arguments]) == 0
    assert classes.class_names(tmp_path / "named" / "train.rec") == ["a", "b"]


@pytest.mark.parametrize("content", [b"a text\n", JPEG, b"0\ta.jpg\n"])
def test_what_is_no_list_is_one_line(tmp_path, capsys, content):
    (tmp_path / "my.jpg").write_bytes(content)
    assert pack.main([str(tmp_path / "my.jpg"), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "my.jpg: line 1: not a number, a label and a path" in error
    assert error.count("\n") == 1


def test_validation_images_of_their_own(folder, tmp_path):
    """With a class fewer, and so with other numbers of its own."""
    write_folder(tmp_path / "val", {"b/1.jpg": JPEG, "b/2.jpg": JPEG})
    out = tmp_path / "out"
    sizes = ["--resize=32", "--val-resize=256"]
    assert pack.main([str(folder), str(out), "--val", str(tmp_path / "val"), *sizes]) == 0
    assert [label for _, label, _ in read_all(out / "val.rec")] == [1, 1]
    assert len(read_all(out / "train.rec")) == 30
    assert {min(i.shape[:2]) for _, _, i in read_all(out / "val.rec")} == {256}


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=60), st.floats(0, 0.9), st.integers(0, 1000)
)
def test_split_has_every_image_once_and_every_class_in_its_share(labels, fraction, seed):
    items = [(label, f"{i}") for i, label in enumerate(labels)]
    training, validation = job.split(items, fraction, seed)
    assert sorted(training + validation) == sorted(items)
    assert (training, validation) == job.split(items, fraction, seed)
    for label in set(labels):
        count = labels.count(label)
        chosen = sum(item[0] == label for item in validation)
        if not fraction or count == 1:
            assert chosen == 0
        else:
            assert 1 <= chosen < count
            assert abs(chosen - fraction * count) <= 1


def test_training_images_are_shuffled_and_validation_images_are_not():
    """ImageRecordIter shuffles within some megabytes: in the order of the folders, a batch would
    have one class."""
    items = [(label, f"{label}/{i}") for label in range(4) for i in range(50)]
    training, validation = job.split(items, 0.2, seed=0)
    changes = sum(one[0] != other[0] for one, other in zip(training, training[1:]))
    assert changes > len(training) / 2
    assert [label for label, _ in validation] == sorted(label for label, _ in validation)
    assert training != job.split(items, 0.2, seed=1)[0]


# Any images and labels, and any bytes in them: the magic word too, which splits a record.
noise = st.tuples(
    st.integers(0, 2**24 - 1), st.integers(0, 2**32 - 1), st.sampled_from([b"", recordfile.MAGIC])
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(noise, min_size=1, max_size=25),
    st.integers(1, 4),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_what_is_packed_is_what_training_reads(
    tmp_path_factory, content, num_parts, batch_size, shuffle
):
    """Any images and labels, each once, whole, in as many parts as asked."""
    rec = tmp_path_factory.mktemp("any") / "any.rec"
    expected, items = [], []
    for label, seed, tail in content:
        pixels = np.random.RandomState(seed).randint(0, 256, (8, 8, 3)).astype(np.uint8)
        expected.append((label, pixels[:, :, ::-1].transpose(2, 0, 1).tobytes()))
        image = writer.encode_png(pixels)
        items.append((label, image + b"\0" * (-len(image) % 4) + tail * 3))
    writer.write_records(rec, items, len(items))
    args = {"path_imgrec": str(rec), "data_shape": (3, 8, 8), "batch_size": batch_size,
            "shuffle": shuffle, "num_parts": num_parts, "verbose": False}  # fmt: skip
    found = []
    for part in range(num_parts):
        try:
            images = iterators.EpochIter({**args, "part_index": part})
        except DataError as error:
            assert "no record begins in part" in str(error)
            continue
        for batch in images:
            for i in range(batch_size - batch.pad):
                pixels = batch.data[0][i].asnumpy().astype(np.uint8).tobytes()
                found.append((int(batch.label[0][i].asscalar()), pixels))
    assert sorted(found) == sorted(expected)


def test_an_image_is_decoded_or_refused_whatever_is_in_it():
    """Flips anywhere in any kind of file: pixels or ImageError and nothing else."""
    randomness = np.random.RandomState(0)
    for file, _ in {**GOOD, **{k: v for k, v in BAD.items() if k != "huge.png"}}.values():
        for _ in range(20 if file else 0):
            damaged = bytearray(file)
            for bit in randomness.randint(0, len(file) * 8, 3):
                damaged[bit // 8] ^= 1 << bit % 8
            for reader in (read, check):
                try:
                    pixels = reader(bytes(damaged))
                except ImageError as error:
                    assert re.fullmatch(r"[^\n]+", str(error))
                else:
                    assert pixels is None or (pixels.dtype == np.uint8 and pixels.shape[2] == 3)


def test_a_class_file_that_is_no_text(tmp_path):
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"classes\.txt"):
        classes.class_names(tmp_path / "x.rec")
