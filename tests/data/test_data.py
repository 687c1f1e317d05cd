"""data/: records hold the images they were made from, and an epoch holds the records."""

import gzip
import io
import itertools
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import pytest
import scipy.io
from sklearn.datasets import load_digits

from data import DataError, inspect, iterators, pack, verify
from data.cifar10 import prepare as cifar10
from data.digits import prepare as digits_prepare
from data.formats import classes, recordfile
from data.imagenet import prepare as imagenet
from data.packing import writer
from log.machine import usable_cores
from model import devices
from tests.conftest import ROOT

MAGIC = struct.pack("<I", 0xCED7230A)


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
    assert recordfile.scan(rec).num_images == len(images)
    return images


def files_in(folder) -> dict:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def refused(capsys, code) -> str:
    """Return the only line on stderr of a command that has failed with exit code 1."""
    error = capsys.readouterr().err
    assert code == 1
    assert error.count("\n") == 1
    return error


def tar_of(files, mode="w") -> bytes:
    """A tar archive of {name: bytes}, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


# data.arguments


@pytest.mark.parametrize(
    "files, cores",
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "250000\n"}, 8),
    ],
)
def test_usable_cores(files, cores, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores


def test_usable_cores_of_this_machine():
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


def test_a_limit_of_the_container_holds_for_threads_of_all_commands(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    (tmp_path / "cpu.max").write_text("300000 100000\n")
    monkeypatch.setattr(usable_cores, "__defaults__", (tmp_path,))
    assert pack.parse_arguments(["images", "out"]).num_thread == 3
    assert verify.parse_arguments([str(tmp_path / "cpu.max")]).num_thread == 3
    monkeypatch.setattr(os, "environ", {})
    devices.prepare_environment()
    assert os.environ["OMP_NUM_THREADS"] == "3"


# data.digits.prepare


def test_digits_records_are_the_images_of_scikit_learn(digits):
    train, val = (read_all(digits / f"{name}.rec") for name in ("train", "val"))
    assert (len(train), len(val)) == (1437, 360)
    pixels, labels = load_digits(return_X_y=True)
    expected = Counter()
    for image, label in zip(pixels, labels):
        grey = (image.reshape(8, 8) * (255 / 16)).round().astype(np.uint8)
        expected[(label, np.dstack([cv2.resize(grey, (32, 32))] * 3).tobytes())] += 1
    assert Counter((label, image.tobytes()) for _, label, image in train + val) == expected
    assert {image.shape for _, _, image in train + val} == {(32, 32, 3)}


def test_digits_split_is_stratified(digits):
    counts = Counter(label for _, label, _ in read_all(digits / "val.rec"))
    for label, count in Counter(load_digits().target).items():
        assert abs(counts[label] - count * 360 / 1797) < 1


def test_digits_records_are_always_the_same(digits, tmp_path):
    digits_prepare.main(["--out", str(tmp_path / "again")])
    names = {"train.rec", "train.idx", "val.rec", "val.idx", "classes.txt"}
    assert set(files_in(digits)) == names
    assert classes.class_names(digits / "train.rec") == list("0123456789")
    assert files_in(tmp_path / "again") == files_in(digits)


# data.cifar10.prepare

BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6)) + ("test_batch",)


def cifar10_batch(number) -> dict:
    rng = np.random.RandomState(number)
    pixels = rng.randint(0, 256, (4, 3072)).astype(np.uint8)
    return {b"data": pixels, b"labels": [int(each) for each in rng.randint(0, 10, 4)]}


def cifar10_archive(path, **batches):
    """Write an archive of the published layout; `batches` replaces or, with None, leaves out."""
    content = {name: cifar10_batch(i) for i, name in enumerate(BATCHES)}
    content.update(batches)
    folder = "cifar-10-batches-py/"
    names = [b"airplane", b"automobile", b"bird"]
    files = {folder + "batches.meta": pickle.dumps({b"label_names": names}, 2)}
    for name, batch in content.items():
        if batch is not None:
            files[folder + name] = pickle.dumps(batch, 2)
    path.write_bytes(tar_of(files, "w:gz"))
    return path


def test_cifar10_records_hold_exactly_the_pixels(tmp_path):
    archive = cifar10_archive(tmp_path / "cifar-10-python.tar.gz")
    assert cifar10.main([str(archive), "--out", str(tmp_path / "out")]) == 0
    for name, numbers in (("train", range(5)), ("val", [5])):
        batches = [cifar10_batch(i) for i in numbers]
        rec = tmp_path / "out" / f"{name}.rec"
        assert len(read_all(rec)) == 4 * len(batches)
        # As training reads them: red, green, blue.
        for batch, read in zip(
            batches,
            mx.io.ImageRecordIter(path_imgrec=str(rec), data_shape=(3, 32, 32), batch_size=4),
        ):
            np.testing.assert_array_equal(
                read.data[0].asnumpy(), batch[b"data"].reshape(4, 3, 32, 32)
            )
            assert read.label[0].asnumpy().tolist() == batch[b"labels"]


def test_cifar10_again_changes_nothing(tmp_path):
    out = tmp_path / "out"
    archive = cifar10_archive(tmp_path / "cifar-10-python.tar.gz")
    assert cifar10.main([str(archive), "--out", str(out)]) == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert cifar10.main([str(archive), "--out", str(out)]) == 0
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert {**before, "classes.txt": 0} == {**after, "classes.txt": 0}
    assert set(before) == {"train.rec", "train.idx", "val.rec", "val.idx", "classes.txt"}
    assert classes.class_names(out / "val.rec") == ["airplane", "automobile", "bird"]


class Call:
    """Pickled as a call of os.system."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch"])
def test_cifar10_pickle_runs_nothing(tmp_path, capsys, name):
    batch = {**cifar10_batch(1), b"batch_label": Call(f"touch {tmp_path / 'was_run'}")}
    archive = cifar10_archive(tmp_path / "cifar-10-python.tar.gz", **{name: batch})
    error = refused(capsys, cifar10.main([str(archive), "--out", str(tmp_path / "out")]))
    assert str(archive) in error
    assert "posix.system" in error
    assert not (tmp_path / "was_run").exists()
    assert not files_in(tmp_path / "out")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD_ARCHIVES = {
    "missing": lambda path: None,
    "a folder": Path.mkdir,
    "text": lambda path: path.write_text("<html>404</html>"),
    "cut off": lambda path: cut_off(cifar10_archive(path)),
    "a bit flipped": lambda path: flip_a_bit(cifar10_archive(path)),
    "no data_batch_3": lambda path: cifar10_archive(path, data_batch_3=None),
    "no test_batch": lambda path: cifar10_archive(path, test_batch=None),
    "a list": lambda path: cifar10_archive(path, data_batch_3=[1, 2]),
    "no labels": lambda path: cifar10_archive(path, data_batch_3={b"data": np.zeros((1, 3072))}),
    "data a list": lambda path: cifar10_archive(path, test_batch={b"data": [], b"labels": []}),
    "too few labels": lambda path: cifar10_archive(
        path, data_batch_3={**cifar10_batch(3), b"labels": [1]}
    ),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_cifar10_bad_archive_is_one_line(tmp_path, capsys, kind):
    archive = tmp_path / "cifar-10-python.tar.gz"
    BAD_ARCHIVES[kind](archive)
    error = refused(capsys, cifar10.main([str(archive), "--out", str(tmp_path / "out")]))
    assert str(archive) in error
    assert not kind.startswith("no ") or kind.split()[1] in error
    assert not files_in(tmp_path / "out")


def cifar10_images(root, top="", suffixes=(".png", ".jpg"), number=(3, 2)) -> dict:
    """Write train/CLASS/* and test/CLASS/*, `number` images a class; return {path: RGB pixels}."""
    rng = np.random.RandomState(0)
    pixels = {}
    for part, count in zip(("train", "test"), number):
        for name in cifar10.CLASSES:
            for i in range(count):
                path = root / top / part / name / f"{i:04}{suffixes[i % len(suffixes)]}"
                path.parent.mkdir(parents=True, exist_ok=True)
                # Coarse, as JPEG keeps it; another one each.
                image = np.kron(rng.randint(0, 256, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
                cv2.imwrite(str(path), image)
                pixels[path] = cv2.imread(str(path))[:, :, ::-1]
    return pixels


def test_cifar10_image_files_keep_their_pixels_and_labels(tmp_path, capsys):
    pixels = cifar10_images(tmp_path / "images")
    (tmp_path / "images/train/cat/._0000.jpg").write_bytes(b"what macOS leaves")
    (tmp_path / "images/train/notes.txt").write_text("no image")
    out = tmp_path / "out"
    assert cifar10.main([str(tmp_path / "images"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "30 train images; CIFAR-10 has 50000" in said
    assert "20 test images; CIFAR-10 has 10000" in said
    assert "classes" not in said
    for name, part, count in (("train", "train", 30), ("val", "test", 20)):
        batches = mx.io.ImageRecordIter(
            path_imgrec=str(out / f"{name}.rec"), data_shape=(3, 32, 32), batch_size=count
        )
        batch = next(batches)
        labels = batch.label[0].asnumpy().astype(int).tolist()
        images = batch.data[0].asnumpy().transpose(0, 2, 3, 1)
        read = sorted((label, image.tobytes()) for label, image in zip(labels, images))
        assert read == sorted(
            (cifar10.CLASSES.index(path.parts[-2]), image.astype(np.float32).tobytes())
            for path, image in pixels.items()
            if path.parts[-3] == part
        )
        # Training images are not in the order of their classes.
        assert (labels == sorted(labels)) == (part == "test")
    assert classes.class_names(out / "val.rec") == list(cifar10.CLASSES)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_cifar10_tar_of_image_files_is_as_its_folder(tmp_path, mode):
    cifar10_images(tmp_path / "images", top="CIFAR-10-master")
    archive = tmp_path / "images.tar"
    with tarfile.open(archive, mode) as tar:
        # The order in an archive is no order.
        for path in sorted((tmp_path / "images").rglob("*.*"), key=lambda path: path.name):
            tar.add(path, str(path.relative_to(tmp_path / "images")))
    for source in (archive, tmp_path / "images", tmp_path / "images/CIFAR-10-master"):
        assert cifar10.main([str(source), "--out", str(tmp_path / f"{source.name}-out")]) == 0
    expected = files_in(tmp_path / "images-out")
    assert set(expected) == {"train.rec", "train.idx", "val.rec", "val.idx", "classes.txt"}
    assert files_in(tmp_path / "images.tar-out") == expected
    assert files_in(tmp_path / "CIFAR-10-master-out") == expected


def test_cifar10_classes_in_the_order_of_the_published_labels(tmp_path, capsys):
    cifar10_images(tmp_path, number=(1, 1))
    for part in ("train", "test"):  # in the order of the bytes, Truck is the first
        (tmp_path / part / "truck").rename(tmp_path / part / "Truck")
    found = cifar10.read_source(tmp_path)
    assert found.classes == [*cifar10.CLASSES[:-1], "Truck"]
    assert found.test.labels == [9, *range(9)]  # the files are in the order of their paths
    assert not any("names" in line for line in cifar10.differences(found))
    for part in ("train", "test"):
        (tmp_path / part / "airplane").rename(tmp_path / part / "plane")
    found = cifar10.read_source(tmp_path)
    assert found.classes == sorted(found.classes)
    assert cifar10.differences(found)[-1].startswith("classes have other names than CIFAR-10's")


def cifar10_image(root, path, image):
    cifar10_images(root, number=(1, 1))
    target = root / path
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(image)


BAD_IMAGE_FILES = {
    "no test": (lambda root: cifar10_images(root, number=(1, 0)), "test/CLASS/"),
    "a class of test alone": (
        lambda root: cifar10_image(
            root, "test/cow/1.png", writer.encode_png(np.zeros((32, 32, 3)))
        ),
        "test/cow",
    ),
    "64 pixels": (
        lambda root: cifar10_image(
            root, "train/cat/1.png", writer.encode_png(np.zeros((64, 64, 3)))
        ),
        "train/cat/1.png: 64x64 pixels",
    ),
    "no image": (lambda root: cifar10_image(root, "train/cat/1.jpg", b"text"), "train/cat/1.jpg"),
}


@pytest.mark.parametrize("kind", BAD_IMAGE_FILES)
def test_cifar10_bad_image_files_are_one_line(tmp_path, capsys, kind):
    write, words = BAD_IMAGE_FILES[kind]
    write(tmp_path / "images")
    error = refused(
        capsys, cifar10.main([str(tmp_path / "images"), "--out", str(tmp_path / "out")])
    )
    assert str(tmp_path / "images") in error
    assert words in error
    assert not files_in(tmp_path / "out")


def test_cifar10_records_of_another_source_are_not_taken_for_these(tmp_path, capsys):
    archive = cifar10_archive(tmp_path / "cifar-10-python.tar.gz")
    assert cifar10.main([str(archive), "--out", str(tmp_path / "out")]) == 0
    before = files_in(tmp_path / "out")
    cifar10_images(tmp_path / "images", number=(2, 2))  # 20 images, as in the archive
    capsys.readouterr()
    error = refused(
        capsys, cifar10.main([str(tmp_path / "images"), "--out", str(tmp_path / "out")])
    )
    assert "of other images" in error
    assert files_in(tmp_path / "out") == before


# data.imagenet.prepare

# Class name: its ILSVRC2012_ID, which is not in the order of the names. A colour each (BGR).
CLASSES = {"n01440764": 3, "n01614925": 1, "n02123045": 2}
COLOURS = {"n01440764": (250, 0, 0), "n01614925": (0, 250, 0), "n02123045": (0, 0, 250)}
NAMES = sorted(CLASSES)
#: Class of each validation image.
VALIDATION = [NAMES[i] for i in (2, 0, 1, 1)]


def jpeg(name, number) -> bytes:
    """An image in the colour of its class, no two the same: wide or high, brighter or darker."""
    shape = (30, 40 + number, 3) if number % 2 else (40 + number, 30, 3)
    image = np.full(shape, COLOURS[name], np.uint8) // (1 + number % 3)
    return cv2.imencode(".jpg", image)[1].tobytes()


@pytest.fixture(scope="module")
def ilsvrc(tmp_path_factory):
    """The published archives, small, and the same images as folders."""
    root = tmp_path_factory.mktemp("ilsvrc")
    train = {name: {f"{name}_{i}.JPEG": jpeg(name, i) for i in range(3)} for name in NAMES}
    val = {
        f"ILSVRC2012_val_{i:08}.JPEG": jpeg(name, 10 + i) for i, name in enumerate(VALIDATION, 1)
    }
    outer = {f"{name}.tar": tar_of(train[name]) for name in reversed(NAMES)}
    (root / "ILSVRC2012_img_train.tar").write_bytes(tar_of(outer))
    # Neither archive need be in order.
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar_of(dict(sorted(val.items(), reverse=True))))
    # As in the published file, an inner node of the hierarchy behind the classes.
    synsets = np.array(
        [(number, name) for name, number in CLASSES.items()] + [(4, "n00001740")],
        dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")],
    )
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets.reshape(-1, 1)})
    truth = "".join(f"{CLASSES[name]}\n" for name in VALIDATION)
    devkit = {
        "data/meta.mat": meta.getvalue(),
        "data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }
    top = "ILSVRC2012_devkit_t12/"
    (root / "devkit.tar.gz").write_bytes(
        tar_of({top + name: content for name, content in devkit.items()}, "w:gz")
    )
    folders = {f"devkit/{name}": content for name, content in devkit.items()}
    for name in NAMES:
        folders.update({f"train/{name}/{file}": content for file, content in train[name].items()})
    for name, (file, content) in zip(VALIDATION, val.items()):
        folders[f"val_flat/{file}"] = folders[f"val_sorted/{name}/{file}"] = content
    for name, content in folders.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def imagenet_args(ilsvrc, out, train="ILSVRC2012_img_train.tar", val="ILSVRC2012_img_val.tar"):
    words = ["--train", ilsvrc / train, "--val", ilsvrc / val, "--out", out, "--num-thread", 2]
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def imagenet_records(ilsvrc, tmp_path_factory):
    out = tmp_path_factory.mktemp("imagenet")
    args = imagenet_args(ilsvrc, out) + ["--devkit", str(ilsvrc / "devkit.tar.gz")]
    assert imagenet.main(args) == 0
    return out


def test_imagenet_labels_follow_the_alphabet(imagenet_records):
    """What is in an image, its colour, agrees with its label, and that with classes.txt."""
    assert (imagenet_records / "classes.txt").read_text().split() == NAMES
    for rec, short_side, count in (
        ("train_480_q90", 480, 9),
        ("train_256_q90", 256, 9),
        ("val_256_q90", 256, 4),
    ):
        images = read_all(imagenet_records / f"{rec}.rec")
        assert [number for number, _, _ in images] == list(range(count))
        for _, label, image in images:
            assert np.argmax(image.mean(axis=(0, 1))) == np.argmax(COLOURS[NAMES[int(label)]])
            assert min(image.shape[:2]) == short_side
    assert [NAMES[int(label)] for _, label, _ in images] == VALIDATION


def test_imagenet_training_images_are_shuffled_and_the_rest_is_cleaned_up(imagenet_records):
    both = [
        [label for _, label, _ in read_all(imagenet_records / f"train_{size}_q90.rec")]
        for size in (256, 480)
    ]
    assert both[0] == both[1]
    assert sum(left != right for left, right in zip(both[0], both[0][1:])) > len(NAMES) - 1
    names = {f"{name}.{end}" for name in imagenet.RECORDS for end in ("rec", "idx")}
    assert set(files_in(imagenet_records)) == names | {"classes.txt"}


def contents(images):
    return [(name, file, read()) for name, file, read in images]


def test_imagenet_folders_are_read_as_the_archives(ilsvrc):
    def train(name):
        return sorted(contents(imagenet.training_images(ilsvrc / name)))

    def val(name, devkit):
        images = imagenet.validation_images(ilsvrc / name, devkit and ilsvrc / devkit)
        return sorted(contents(images), key=lambda image: image[1])

    assert len(train("train")) == 9
    assert train("train") == train("ILSVRC2012_img_train.tar")
    expected = val("ILSVRC2012_img_val.tar", "devkit.tar.gz")
    assert [name for name, _, _ in expected] == VALIDATION
    for layout in (("val_flat", "devkit"), ("val_sorted", None), ("val_sorted", "devkit")):
        assert val(*layout) == expected


@pytest.mark.parametrize("val", ["val_flat", "ILSVRC2012_img_val.tar"])
def test_imagenet_flat_validation_images_need_the_devkit(ilsvrc, tmp_path, capsys, val):
    error = refused(capsys, imagenet.main(imagenet_args(ilsvrc, tmp_path / "out", val=val)))
    assert "--devkit" in error
    assert str(ilsvrc / val) in error
    assert not files_in(tmp_path / "out")


@pytest.mark.parametrize(
    ("which", "kind"),
    [
        *itertools.product(
            ["train", "val", "devkit"], ["missing", "text", "cut off", "empty folder"]
        ),
        ("train", "compressed"),
        ("val", "compressed"),
    ],
)
def test_imagenet_bad_source_is_one_line(ilsvrc, tmp_path, capsys, which, kind):
    good = {
        "train": ilsvrc / "ILSVRC2012_img_train.tar",
        "val": ilsvrc / "ILSVRC2012_img_val.tar",
        "devkit": ilsvrc / "devkit.tar.gz",
    }
    bad = tmp_path / good[which].name
    if kind == "text":
        bad.write_text("<html>404</html>" * 100)
    elif kind == "cut off":
        bad.write_bytes(good[which].read_bytes())
        cut_off(bad)
    elif kind == "empty folder":
        bad.mkdir()
    elif kind == "compressed":  # its images are no ranges of its bytes
        bad.write_bytes(gzip.compress(good[which].read_bytes()))
    args = ["--out", str(tmp_path / "out")]
    for option, path in {**good, which: bad}.items():
        args += [f"--{option}", str(path)]
    assert str(bad) in refused(capsys, imagenet.main(args))
    assert not files_in(tmp_path / "out")


@pytest.mark.parametrize(
    "bad", [("--chunk", "0"), ("--num-thread", "0"), ("--num-thread", "x"), ("--records", "test")]
)
def test_imagenet_bad_argument_is_exit_code_2(ilsvrc, tmp_path, capsys, bad):
    args = imagenet_args(ilsvrc, tmp_path / "out", val="val_sorted")
    with pytest.raises(SystemExit) as stop:
        imagenet.main([*args, *bad])
    assert stop.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert bad[0] in line and (bad[0] == "--records" or "must be a whole number >= 1" in line)


def test_imagenet_killed_and_repeated_gives_the_same_bytes(ilsvrc, imagenet_records, tmp_path):
    """`imagenet_records` were packed without a break, and in one chunk."""
    command = [sys.executable, "-m", "data.imagenet.prepare"]
    command += imagenet_args(ilsvrc, tmp_path, train="ILSVRC2012_img_train.tar", val="val_sorted")
    command += ["--records", "train_256_q90", "--chunk", "3"]
    progress = tmp_path / "train_256_q90.rec.progress"
    # Three chunks are soon written: where the process was faster, once more.
    for _ in range(10):
        process = subprocess.Popen(command, cwd=str(ROOT))
        while process.poll() is None:
            if progress.exists() and json.loads(progress.read_text())["done"]:
                break
            time.sleep(0.001)
        process.kill()
        process.wait()
        if progress.exists():
            break
        for path in tmp_path.iterdir():
            path.unlink()
    assert not (tmp_path / "train_256_q90.rec").exists()
    assert 0 < json.loads(progress.read_text())["done"] < 9
    subprocess.run(command, cwd=str(ROOT), check=True)
    names = ("train_256_q90.rec", "train_256_q90.idx", "classes.txt")
    whole = files_in(imagenet_records)
    assert files_in(tmp_path) == {name: whole[name] for name in names}


# data.packing.writer


def pack_items(*contents):
    return [
        (i, f"{i}.JPEG", (lambda content=content: content)) for i, content in enumerate(contents)
    ]


@pytest.mark.parametrize("num_thread", [1, 2])
def test_unreadable_image_is_named_and_left_out(tmp_path, capsys, num_thread):
    rec = tmp_path / "images.rec"
    items = pack_items(jpeg(NAMES[0], 0), b"no image", jpeg(NAMES[2], 0))
    writer.pack_files(rec, items, resize=32, quality=90, num_thread=num_thread)
    assert [(number, label) for number, label, _ in read_all(rec)] == [(0, 0), (2, 2)]
    printed = capsys.readouterr().out
    assert "1.JPEG: not an image" in printed
    assert "2 images, 1 left out" in printed


def test_interrupted_between_its_two_files_and_repeated(tmp_path, monkeypatch):
    """The index has its name, the records not yet: nothing is lost, nothing is zeroed."""
    items = pack_items(jpeg(NAMES[0], 0), jpeg(NAMES[1], 1))
    whole, rec = tmp_path / "whole" / "images.rec", tmp_path / "broken" / "images.rec"
    writer.pack_files(whole, items, 32, 90, 2)
    replace = os.replace

    def interrupted(source, target):
        if Path(target) == rec:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", interrupted)
        writer.pack_files(rec, items, 32, 90, 2)
    assert not rec.exists()
    writer.pack_files(rec, items, 32, 90, 2)
    assert files_in(rec.parent) == files_in(whole.parent)


@pytest.fixture
def half_packed(tmp_path):
    """An interrupted `pack_files`: its items, and its .rec file's path."""
    rec = tmp_path / "images.rec"
    items = pack_items(jpeg(NAMES[0], 0), jpeg(NAMES[1], 1))

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.pack_files(rec, [items[0], (1, "1.JPEG", stop)], 32, 90, 2, chunk=1)
    return items, rec


def test_progress_of_another_list_is_refused(half_packed):
    items, rec = half_packed
    with pytest.raises(DataError, match=r"images\.rec\.progress"):
        writer.pack_files(rec, items, 48, 90, 2, chunk=1)
    with pytest.raises(DataError, match=r"images\.rec\.progress"):
        writer.pack_files(rec, list(reversed(items)), 32, 90, 2, chunk=1)


def test_progress_without_its_records_is_refused(half_packed):
    """Somebody has deleted the part: going on behind it would leave a hole of zeros."""
    items, rec = half_packed
    (rec.parent / "images.rec.part").unlink()
    with pytest.raises(DataError, match=r"images\.rec\.progress"):
        writer.pack_files(rec, items, 32, 90, 2, chunk=1)


# data.formats.recordfile: scan; data.inspect: the checks before training

PNG = writer.encode_png(np.full((32, 32, 3), 7, np.uint8))


def write(path, *payloads):
    writer = mx.recordio.MXRecordIO(str(path), "w")
    for payload in payloads:
        writer.write(payload)
    writer.close()
    return path


def record(label, image=PNG, number=0) -> bytes:
    return mx.recordio.pack(mx.recordio.IRHeader(0, label, number, 0), image)


def test_scan_counts_and_finds_the_labels(tmp_path):
    path = write(tmp_path / "some.rec", record(4.0), record(2.0), record(7.0, b"123"))
    assert recordfile.scan(path).labels.tolist() == [4, 2, 7]


def test_scan_reads_a_label_that_is_an_array_of_one(tmp_path):
    """im2rec's other way to store it: behind the header, whose own label is then 0."""
    path = write(tmp_path / "array.rec", record([5.0]), record([3.0]))
    assert recordfile.scan(path).labels.tolist() == [5, 3]


@pytest.mark.parametrize(
    "image",
    [b"abcd" + MAGIC + b"efgh", MAGIC, MAGIC * 3 + b"a", PNG + b"\0" * (-len(PNG) % 4) + MAGIC],
    ids=["within", "all", "three", "at the end"],
)
def test_scan_counts_a_split_record_once(tmp_path, image):
    """RecordIO splits a record at each aligned magic word; the last part may be empty."""
    split = record(1.0, image)
    path = write(tmp_path / "split.rec", record(0.0), split, record(3.0), split)
    assert path.read_bytes().count(MAGIC) > 4
    assert recordfile.scan(path).labels.tolist() == [0, 1, 3, 1]
    assert [found.record for found in recordfile.walk(path)] == [
        record(0.0),
        split,
        record(3.0),
        split,
    ]


def bad_record_file(path, kind):
    if kind == "directory":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "short text":
        path.write_bytes(b"hello")
    elif kind == "text":
        path.write_bytes(b"not a record file\n" * 10)
    elif kind == "two labels":
        write(path, record(1.0), record([1.0, 2.0]))
    elif kind in ("0.5", "nan", "inf"):
        write(path, record(1.0), record(float(kind)), record(2.0))
    elif kind != "missing":
        whole = write(path, record(1.0), record(2.0)).read_bytes()
        path.write_bytes(whole[: int(kind)] if int(kind) < 0 else whole + b"\0" * int(kind))


@pytest.mark.parametrize(
    "kind",
    ["missing", "directory", "empty", "short text", "text", "two labels", "0.5", "nan", "inf"]
    + ["-1", "-4", f"-{len(record(2.0))}", f"-{len(record(2.0)) + 4}", "4", "64"],
)
def test_scan_refuses(tmp_path, kind):
    """A number: so many bytes are missing from the end, or are too many there."""
    path = tmp_path / "bad.rec"
    bad_record_file(path, kind)
    with pytest.raises(DataError) as error:
        recordfile.scan(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def scanned(*labels, path="a.rec"):
    return recordfile.Records(path, np.zeros(len(labels)), np.array(labels, "f4"))


@pytest.mark.parametrize(("labels", "wrong"), [((3, -1), "label -1"), ((0, 5, 2), "label 5")])
def test_check_labels_refuses(labels, wrong):
    with pytest.raises(DataError, match=rf"a\.rec: record 1: {wrong} .* from 0 to 4$"):
        inspect.check_labels(scanned(*labels), num_classes=5)


def test_check_labels_accepts_the_first_and_the_last_class():
    inspect.check_labels(scanned(0, 4), num_classes=5)


# data.iterators: EpochIter

IMAGES = 22
BATCH = 4


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Arguments for 22 images of noise, the label of each its number; shuffled, cropped."""
    path = tmp_path_factory.mktemp("numbered") / "numbered.rec"
    rng = np.random.RandomState(0)
    noise = rng.randint(0, 256, (IMAGES, 32, 32, 3)).astype(np.uint8)
    write(path, *[record(float(i), writer.encode_png(image), i) for i, image in enumerate(noise)])
    args = {"path_imgrec": str(path), "data_shape": (3, 28, 28), "batch_size": BATCH}
    return iterators.training_args(args, {"rand_crop": True, "rand_mirror": True})


def rest_of_epoch(iterator) -> list:
    """Return all that is to know of each batch up to the end of the epoch."""
    return [
        {
            "place": (batch.epoch, batch.number),
            "seed": batch.seed,
            "labels": batch.label[0].asnumpy().tolist(),
            "pixels": batch.data[0].asnumpy().tobytes(),
            "pad": batch.pad,
        }
        for batch in iterator
    ]


def seen(batches) -> list:
    return [label for batch in batches for label in batch["labels"][: BATCH - batch["pad"]]]


def test_every_epoch_has_every_image_once(numbered):
    iterator = iterators.EpochIter(numbered, seed=5)
    orders = []
    for epoch in range(3):
        batches = rest_of_epoch(iterator)
        assert [batch["place"] for batch in batches] == [(epoch, i) for i in range(6)]
        assert [batch["pad"] for batch in batches] == [0] * 5 + [2]
        assert all(len(batch["labels"]) == BATCH for batch in batches)
        orders.append(seen(batches))
        assert sorted(orders[-1]) == list(range(IMAGES))
        iterator.reset()
    assert len({tuple(order) for order in orders}) == 3


def test_an_epoch_can_be_had_without_those_before_it(numbered):
    iterator = iterators.EpochIter(numbered, seed=5)
    for epoch in range(3):
        reached = rest_of_epoch(iterator)
        assert rest_of_epoch(iterators.EpochIter(numbered, seed=5, epoch=epoch)) == reached
        iterator.reset()


def test_reset_within_an_epoch_goes_to_the_next(numbered):
    iterator = iterators.EpochIter(numbered, seed=5)
    iterator.next()
    iterator.reset()
    assert rest_of_epoch(iterator) == rest_of_epoch(iterators.EpochIter(numbered, seed=5, epoch=1))


@pytest.mark.parametrize("number", [1, 4, 6])
def test_an_epoch_can_be_entered_at_a_batch(numbered, number):
    """And what follows that epoch is the same too. 6 is the end of the epoch: nothing is left."""
    whole = iterators.EpochIter(numbered, seed=5, epoch=1)
    entered = iterators.EpochIter(numbered, seed=5, epoch=1, number=number)
    assert rest_of_epoch(entered) == rest_of_epoch(whole)[number:]
    for iterator in (whole, entered):
        iterator.reset()
    assert rest_of_epoch(entered) == rest_of_epoch(whole)


def test_another_seed_is_another_order(numbered):
    runs = [rest_of_epoch(iterators.EpochIter(numbered, seed=seed)) for seed in (0, 1, 2**40)]
    for key in ("labels", "pixels", "seed"):
        assert len({str([batch[key] for batch in run]) for run in runs}) == 3


def test_augmentation_follows_from_seed_and_epoch(numbered):
    """The images in order, so that crops and mirrors alone differ; not by the number of threads."""

    def pixels(seed, epoch, threads):
        args = {**numbered, "shuffle": False, "preprocess_threads": threads}
        batches = rest_of_epoch(iterators.EpochIter(args, seed=seed, epoch=epoch))
        assert seen(batches) == list(range(IMAGES))
        return b"".join(batch["pixels"] for batch in batches)

    places = [(0, 0), (0, 1), (1, 0)]
    assert len({pixels(*place, threads=1) for place in places}) == 3
    for place in places:
        assert pixels(*place, threads=1) == pixels(*place, threads=2)


def test_seeds_of_batches_differ(numbered):
    seeds = [
        batch["seed"]
        for epoch in range(3)
        for part in range(2)
        for batch in rest_of_epoch(
            iterators.EpochIter({**numbered, "num_parts": 2, "part_index": part}, epoch=epoch)
        )
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_what_is_read_ahead_is_told_when_it_is_asked_for(numbered, tmp_path):
    """MXNet itself raises while it is set up where what it has read ahead is no image."""
    path = tmp_path / "bad.rec"
    write(path, *[record(float(i), b"no image", i) for i in range(IMAGES)])
    args = {**numbered, "path_imgrec": str(path)}
    for _ in range(5):
        iterator = iterators.EpochIter(args)
        with pytest.raises(DataError, match="epoch 0, batch 1: a record can't be read: record"):
            iterator.next()
    with pytest.raises(mx.base.MXNetError):
        mx.io.ImageRecordIter(**args)


@pytest.mark.parametrize("epoch", [0, 1])
def test_parts_together_have_every_image_once(numbered, epoch):
    parts = [
        seen(
            rest_of_epoch(
                iterators.EpochIter({**numbered, "num_parts": 3, "part_index": part}, epoch=epoch)
            )
        )
        for part in range(3)
    ]
    assert all(parts)
    assert sorted(label for part in parts for label in part) == list(range(IMAGES))


def test_what_a_checkpoint_says_of_its_images(tmp_path):
    rec = tmp_path / "val.rec"
    writer = mx.recordio.MXRecordIO(str(rec), "w")
    for height, width in [(20, 30), (25, 20), (20, 20), (21, 40)]:
        image = np.zeros((height, width, 3), np.uint8)
        writer.write(
            mx.recordio.pack_img(mx.recordio.IRHeader(0, 0.0, 0, 0), image, img_fmt=".png")
        )
    writer.close()
    assert inspect.short_side(rec, sample=3) == 20
    assert inspect.short_side(rec) is None
    assert classes.class_names(rec) is None
    (tmp_path / "classes.txt").write_bytes("été\nhiver\n".encode())
    assert classes.class_names(rec) == ["été", "hiver"]
    (tmp_path / "classes.txt").write_bytes("été".encode("latin-1"))
    with pytest.raises(DataError, match=r"classes.txt: not UTF-8"):
        classes.class_names(rec)


def test_epochs_leave_no_memory_behind(digits):
    """A process of its own, 20 epochs: not one batch an epoch more than after the first 5."""
    script = """
from data.iterators import EpochIter
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
images = EpochIter({"path_imgrec": REC, "data_shape": (3, 256, 256), "batch_size": 90})
sizes = []
for _ in range(20):
    for batch in images:
        batch.data[0].wait_to_read()
    images.reset()
    sizes.append(resident())
print((sizes[-1] - sizes[4]) / (90 * 3 * 256 * 256 * 4))
"""
    process = subprocess.run(
        [sys.executable, "-c", script.replace("REC", repr(str(digits / "val.rec")))],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(process.stdout.split()[-1]) < 10  # three an epoch were 45
