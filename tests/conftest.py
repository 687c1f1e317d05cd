"""What several rooms' tests need: small real records, and the script as its user runs it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    """A copy of the project's modules, with `records` and a network trained on them for an epoch
    under the names that the README's commands have."""
    folder = tmp_path_factory.mktemp("workshop")
    for path in [*ROOT.glob("*.py"), *ROOT.glob("[dml]*/**/*.py")]:
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    for name in ("digits", "mine"):
        (folder / "data" / name).mkdir(exist_ok=True)
        for path in records.folder.iterdir():
            shutil.copy(path, folder / "data" / name)
    process = start(folder, *records.arguments, "--num-epochs=1", "--model-prefix=model/demo")
    assert process.returncode == 0, process.stderr
    for prefix, epoch in (("demo", 10), ("mine", 1), ("xception-imagenet-0-0", 125)):
        for ending in ("symbol.json", "0001.params", "0001.states", "0001.json"):
            copy = f"{prefix}-{ending.replace('0001', f'{epoch:04d}')}"
            if not (folder / "model" / copy).exists():
                shutil.copy(folder / "model" / f"demo-{ending}", folder / "model" / copy)
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
