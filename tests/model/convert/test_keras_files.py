"""Weights files of Keras in which something differs from those that it writes today."""

import os
import shutil
import zipfile
from pathlib import Path

import h5py
import mxnet as mx
import numpy as np
import pytest

from model.convert.__main__ import main
from tests.model.convert.networks import assert_loads, edited, entries

pytestmark = pytest.mark.usefixtures("thin")


@pytest.fixture(scope="module")
def legacy(base, tmp_path_factory):
    """A weights file as Keras 2 writes it, without the top."""
    path = tmp_path_factory.mktemp("legacy") / "legacy.h5"
    base.save_weights(path)
    return path


@pytest.fixture
def path(legacy, tmp_path):
    """That file, in a folder of its own."""
    return Path(shutil.copy(legacy, tmp_path))


def shortcuts(file, kind):
    """The names of their layers in the file, in order; the first may have no number."""
    names = [name for name in file if name.startswith(kind)]
    assert len(names) == 4
    return sorted(names, key=lambda name: int(name[len(kind) + 1 :] or 0))


@pytest.mark.parametrize(
    "names",
    [("convolution2d_{}", "batchnormalization_{}", 1), ("conv2d_{}", "batch_normalization_{}", 98)],
)
def test_shortcuts_of_any_numbers(path, tmp_path, names):
    """As Keras 1 named them, and as Keras does for a later model of a session: 98, 99, 100, 101."""
    assert main(["keras", str(path), str(tmp_path / "x")]) == 0
    *names, first = names
    with h5py.File(path, "r+") as file:
        for old, new in zip(("conv2d", "batch_normalization"), names):
            for i, name in enumerate(shortcuts(file, old)):
                file.move(name, new.format(first + i))
    assert main(["keras", str(path), str(tmp_path / "y")]) == 0
    found = entries(tmp_path / "y")
    assert all(np.array_equal(found[entry], a) for entry, a in entries(tmp_path / "x").items())


def test_without_the_top_and_back(base, path, tmp_path, capsys):
    """As the notop file that Keras publishes."""
    assert main(["keras", str(path), str(tmp_path / "x")]) == 0
    assert mx.sym.load(str(tmp_path / "x-symbol.json")).list_outputs() == ["features_output"]
    assert main(["to-keras", str(tmp_path / "x"), "0", str(tmp_path / "back.h5")]) == 0
    expected = 'back.h5: for Xception(weights=None, include_top=False, pooling="avg"); mean 127.5'
    assert expected in capsys.readouterr().out
    assert_loads(base, tmp_path / "back.h5")


def reshape(name, shape):
    def edit(file):
        del file[name]
        file[name] = np.zeros(shape, np.float32)

    return edit


def add_dense(file, name="predictions"):
    group = file.create_group(name)
    group.attrs["weight_names"] = [f"{name}/kernel:0".encode()]
    group[f"{name}/kernel:0"] = np.zeros((), np.float32)


def link_to_another_file(file):
    del file["block1_conv1"]
    file["block1_conv1"] = h5py.ExternalLink("other.h5", "block1_conv1")


def values_in_another_file(file):
    name = "block1_conv1/block1_conv1/kernel:0"
    shape = file[name].shape
    del file[name]
    external = [("/etc/passwd", 0, 4 * int(np.prod(shape)))]
    file.create_dataset(name, shape, np.float32, external=external)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda file: file.pop("block4_sepconv2"), "layer block4_sepconv2 is missing"),
        (
            reshape("block3_sepconv1/block3_sepconv1/pointwise_kernel:0", (1, 1, 8, 7)),
            "layer block3_sepconv1: pointwise_kernel has the shape (1, 1, 8, 7), "
            "Xception's has (1, 1, 8, 8)",
        ),
        (lambda file: file.copy("block14_sepconv2", "dense_7"), "layer dense_7 is not in"),
        (lambda file: file.copy("block1_conv1", "conv2d_99"), "layer conv2d_99 is not in"),
        (link_to_another_file, "/block1_conv1 is a link"),
        (values_in_another_file, "not stored as Keras stores"),
        (
            lambda file: file["block1_conv1/block1_conv1/kernel:0"].write_direct(
                np.full((3, 3, 3, 4), np.nan, np.float32)
            ),
            "/block1_conv1/block1_conv1/kernel:0 has NaN or infinite values",
        ),
        (add_dense, "layer predictions: kernel has the"),
    ],
)
def test_a_file_that_is_not_xceptions(path, tmp_path, capsys, edit, says):
    assert main(["keras", str(edited(path, edit)), str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert says in error and str(path) in error and error.count("\n") == 1
    assert os.listdir(tmp_path) == ["legacy.h5"]


def test_a_file_that_is_damaged(base, path, tmp_path, capsys):
    base.save(tmp_path / "new.keras")
    content = (tmp_path / "new.keras").read_bytes()
    with zipfile.ZipFile(tmp_path / "new.keras") as archive:
        weights = archive.getinfo("model.weights.h5")
    place = weights.header_offset + weights.compress_size // 2
    (tmp_path / "cut.keras").write_bytes(content[: len(content) // 2])
    (tmp_path / "flipped.keras").write_bytes(
        content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    )
    content = path.read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.h5").write_text("hello")
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    for whole in ("new.keras", "legacy.h5"):
        (tmp_path / whole).unlink()
    names = sorted(os.listdir(tmp_path))
    for name in [*names, "none.h5"]:
        assert main(["keras", str(tmp_path / name), str(tmp_path / "new")]) == 2, name
        error = capsys.readouterr().err
        assert name in error and error.count("\n") == 1, error
    assert sorted(os.listdir(tmp_path)) == names
