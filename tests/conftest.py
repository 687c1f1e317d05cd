"""What several rooms' tests need: small real records, and the script as its user runs it."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.datasets import DATASETS
from model.devices import prepare_environment

ROOT = Path(__file__).parent.parent

prepare_environment()


class Records:
    """The first 96 and 40 of the digits, in `folder`, and the arguments that train on them.

    12 batches an epoch of 16x16 crops: an epoch takes about a second.
    """

    def __init__(self, folder):
        self.folder = folder
        self.train = folder / "train.rec"
        self.val = folder / "val.rec"
        self.arguments = (
            f"--data-type digits --data-dir {folder} --gpus= --batch-size 8 --image-shape 3,16,16 "
            "--frequent 5 --mom 0.5"
        ).split()


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Folder with the records of the digits."""
    folder = tmp_path_factory.mktemp("digits")
    subprocess.run(
        [sys.executable, "-m", "data.digits.prepare", "--out", str(folder)], cwd=ROOT, check=True
    )
    return folder


@pytest.fixture(scope="session")
def records(digits, tmp_path_factory):
    import mxnet as mx

    folder = tmp_path_factory.mktemp("records")
    for name, count in (("train", 96), ("val", 40)):
        source = mx.recordio.MXRecordIO(str(digits / f"{name}.rec"), "r")
        target = mx.recordio.MXIndexedRecordIO(
            str(folder / f"{name}.idx"), str(folder / f"{name}.rec"), "w"
        )
        for i in range(count):
            target.write_idx(i, source.read())
        target.close()
    return Records(folder)


@pytest.fixture(scope="session")
def workshop(records, tmp_path_factory):
    """A folder with what the README's commands find: `records` under the names of each data set,
    and a network trained on them for an epoch, as the checkpoints that are named."""
    folder = tmp_path_factory.mktemp("workshop")
    for name in DATASETS:
        data = DATASETS[name]
        place = folder / "data" / ("mine" if name == "custom" else name)
        place.mkdir(parents=True)
        names = ((records.train, data.train_records[2]), (records.val, data.val_records))
        for ending, (source, copy) in itertools.product((".rec", ".idx"), names):
            shutil.copy(source.with_suffix(ending), (place / copy).with_suffix(ending))
    process = start(folder, *records.arguments, "--num-epochs=1", "--model-prefix=model/x")
    assert process.returncode == 0, process.stderr
    default = "xception-imagenet-0-0"
    named = (("demo", 10), ("mine", 1), (default, 50), (default, 125))
    for prefix, epoch in named:
        for path in (folder / "model").glob("x-*[!k]"):  # all but the lock
            name = path.name.replace("x-", f"{prefix}-").replace("0001", f"{epoch:04d}")
            shutil.copy(path, folder / "model" / name)
    return folder


@pytest.fixture
def run(tmp_path):
    """Call the script in `tmp_path`/ with arguments; return the finished process."""
    return lambda *args, **kwargs: start(tmp_path, *args, **kwargs)


def command(*args):
    return [sys.executable, "-u", str(ROOT / "train_xception.py"), *map(str, args)]


def start(folder, *args, **environment):
    return subprocess.run(
        command(*args),
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def mounted_tmpfs(folder, options):
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True
    )
    return done.returncode == 0
