"""data.cifar10.prepare: records of the archive, or of image files, to the pixel."""

import os
import pickle
import tarfile
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import pytest

from data.cifar10 import source
from data.cifar10.prepare import main
from data.formats import classes
from data.packing import writer
from tests.data.files import cut_off, files_in, read_all, refused, tar_of

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
    assert main([str(archive), "--out", str(tmp_path / "out")]) == 0
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
    assert main([str(archive), "--out", str(out)]) == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert main([str(archive), "--out", str(out)]) == 0
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
    error = refused(capsys, main([str(archive), "--out", str(tmp_path / "out")]))
    assert str(archive) in error
    assert "posix.system" in error
    assert not (tmp_path / "was_run").exists()
    assert not files_in(tmp_path / "out")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


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
    error = refused(capsys, main([str(archive), "--out", str(tmp_path / "out")]))
    assert str(archive) in error
    assert not kind.startswith("no ") or kind.split()[1] in error
    assert not files_in(tmp_path / "out")


def cifar10_images(root, top="", suffixes=(".png", ".jpg"), number=(3, 2)) -> dict:
    """Write train/CLASS/* and test/CLASS/*, `number` images a class; return {path: RGB pixels}."""
    rng = np.random.RandomState(0)
    pixels = {}
    for part, count in zip(("train", "test"), number):
        for name in source.CLASSES:
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
    assert main([str(tmp_path / "images"), "--out", str(out)]) == 0
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
            (source.CLASSES.index(path.parts[-2]), image.astype(np.float32).tobytes())
            for path, image in pixels.items()
            if path.parts[-3] == part
        )
        # Training images are not in the order of their classes.
        assert (labels == sorted(labels)) == (part == "test")
    assert classes.class_names(out / "val.rec") == list(source.CLASSES)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_cifar10_tar_of_image_files_is_as_its_folder(tmp_path, mode):
    cifar10_images(tmp_path / "images", top="CIFAR-10-master")
    archive = tmp_path / "images.tar"
    with tarfile.open(archive, mode) as tar:
        # The order in an archive is no order.
        for path in sorted((tmp_path / "images").rglob("*.*"), key=lambda path: path.name):
            tar.add(path, str(path.relative_to(tmp_path / "images")))
    for found in (archive, tmp_path / "images", tmp_path / "images/CIFAR-10-master"):
        assert main([str(found), "--out", str(tmp_path / f"{found.name}-out")]) == 0
    expected = files_in(tmp_path / "images-out")
    assert set(expected) == {"train.rec", "train.idx", "val.rec", "val.idx", "classes.txt"}
    assert files_in(tmp_path / "images.tar-out") == expected
    assert files_in(tmp_path / "CIFAR-10-master-out") == expected


def test_cifar10_classes_in_the_order_of_the_published_labels(tmp_path, capsys):
    cifar10_images(tmp_path, number=(1, 1))
    for part in ("train", "test"):  # in the order of the bytes, Truck is the first
        (tmp_path / part / "truck").rename(tmp_path / part / "Truck")
    found = source.read_source(tmp_path)
    assert found.classes == [*source.CLASSES[:-1], "Truck"]
    assert found.test.labels == [9, *range(9)]  # the files are in the order of their paths
    assert not any("names" in line for line in source.differences(found))
    for part in ("train", "test"):
        (tmp_path / part / "airplane").rename(tmp_path / part / "plane")
    found = source.read_source(tmp_path)
    assert found.classes == sorted(found.classes)
    assert source.differences(found)[-1].startswith("classes have other names than CIFAR-10's")


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
    error = refused(capsys, main([str(tmp_path / "images"), "--out", str(tmp_path / "out")]))
    assert str(tmp_path / "images") in error
    assert words in error
    assert not files_in(tmp_path / "out")


def test_cifar10_records_of_another_source_are_not_taken_for_these(tmp_path, capsys):
    archive = cifar10_archive(tmp_path / "cifar-10-python.tar.gz")
    assert main([str(archive), "--out", str(tmp_path / "out")]) == 0
    before = files_in(tmp_path / "out")
    cifar10_images(tmp_path / "images", number=(2, 2))  # 20 images, as in the archive
    capsys.readouterr()
    error = refused(capsys, main([str(tmp_path / "images"), "--out", str(tmp_path / "out")]))
    assert "holds other images" in error
    assert files_in(tmp_path / "out") == before
