"""What several rooms' tests need: small real records, and the script as its user runs it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model.devices import prepare_environment

ROOT = Path(__file__).parent.parent

# One thread for each process: the networks here are too small for two, and pytest-xdist runs two
# tests at a time, whose threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
prepare_environment()

# A shell that starts something in the background, as scripts do, has it ignore Ctrl-C, and whatever
# that starts as well.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
