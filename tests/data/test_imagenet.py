"""data.imagenet.prepare: ILSVRC2012's archives or folders, in small."""

import gzip
import io
import itertools
import json
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.io

from data.imagenet import prepare as imagenet
from data.imagenet import source
from tests.data.files import BLUE, GREEN, RED, cut_off, files_in, jpeg, read_all, refused, tar_of
from tests.runs import ROOT

# Class name: its ILSVRC2012_ID, which is not in the order of the names. A colour each (BGR).
CLASSES = {"n01440764": 3, "n01614925": 1, "n02123045": 2}
COLOURS = {"n01440764": BLUE, "n01614925": GREEN, "n02123045": RED}
NAMES = sorted(CLASSES)
#: Class of each validation image.
VALIDATION = [NAMES[i] for i in (2, 0, 1, 1)]


@pytest.fixture(scope="module")
def ilsvrc(tmp_path_factory):
    """The published archives, small, and the same images as folders."""
    root = tmp_path_factory.mktemp("ilsvrc")
    train = {name: {f"{name}_{i}.JPEG": jpeg(COLOURS[name], i) for i in range(3)} for name in NAMES}
    val = {
        f"ILSVRC2012_val_{i:08}.JPEG": jpeg(COLOURS[name], 10 + i)
        for i, name in enumerate(VALIDATION, 1)
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
    names = {f"{name}.{end}" for name in imagenet.record_files(480, 256) for end in ("rec", "idx")}
    assert set(files_in(imagenet_records)) == names | {"classes.txt"}


def test_imagenet_record_names_follow_the_sizes(ilsvrc, tmp_path, capsys):
    sizes = ["--resize", "64", "--val-resize", "34"]
    args = imagenet_args(ilsvrc, tmp_path, val="val_sorted") + sizes
    with pytest.raises(SystemExit) as stop:
        imagenet.main([*args, "--records", "train_480_q90"])
    assert stop.value.code == 2
    names = "train_64_q90, train_34_q90, val_34_q90"
    assert f"--records: train_480_q90 is not one of {names}" in capsys.readouterr().err
    assert imagenet.main([*args, "--records", "train_64_q90,val_34_q90"]) == 0
    written = ("train_64_q90.rec", "train_64_q90.idx", "val_34_q90.rec", "val_34_q90.idx")
    assert set(files_in(tmp_path)) == {*written, "classes.txt"}
    assert imagenet.main(args) == 0
    for name, side in (("train_64_q90", 64), ("train_34_q90", 34), ("val_34_q90", 34)):
        images = read_all(tmp_path / f"{name}.rec")
        assert {min(image.shape[:2]) for _, _, image in images} == {side}


def contents(images):
    return [(name, file, read()) for name, file, read in images]


def test_imagenet_folders_are_read_as_the_archives(ilsvrc):
    def train(name):
        return sorted(contents(source.training_images(ilsvrc / name)))

    def val(name, devkit):
        images = source.validation_images(ilsvrc / name, devkit and ilsvrc / devkit)
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
