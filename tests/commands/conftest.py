"""What the tests of all commands share: small inputs for each, and a way to call them."""

import gc
import importlib
import logging
import os
import re
import resource
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from data.packing.writer import encode_png, write_records
from tests.networks import save_network
from tests.runs import start

THIN = (8, 8, 8, 8, 8, 8, 12)
SETTINGS = {"image_shape": [3, 32, 32], "short_side": 36, "classes": [f"c{i}" for i in range(10)]}
TRAIN = (
    "--data-type custom --data-dir rec --gpus= --cpus 1 --image-shape 3,32,32 --batch-size 4 "
    "--data-nthreads 1 --frequent 1 --model-prefix m --log-file m.log "
)


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """A folder: images of two classes, a list of them, records of them (rec/), a run of one epoch
    on these (m), another program's checkpoint (p), and packed records of the images (packed/)."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.RandomState(0)
    items, lines = [], []
    for i in range(8):
        image = rng.randint(0, 255, (36, 40, 3)).astype(np.uint8)
        name = f"images/{'ab'[i % 2]}/{i}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), image)
        items.append((i % 2, encode_png(image)))
        lines.append(f"{i}\t{i % 2}\t{name}\n")
    (folder / "list.lst").write_text("".join(lines))
    (folder / "rec").mkdir()
    write_records(folder / "rec" / "train.rec", items, 8)
    write_records(folder / "rec" / "val.rec", [(label, i) for label, i in reversed(items)], 8)
    (folder / "rec" / "classes.txt").write_text("a\nb\n")
    save_network(folder / "thin", THIN, SETTINGS)
    done = start(folder, *TRAIN.split(), "--pretrained=thin,0", "--num-epochs=1")
    assert done.returncode == 0, done.stderr
    for name in ("symbol.json", "0001.params"):
        shutil.copy(folder / f"m-{name}", folder / f"p-{name}")
    assert call(folder, "data.pack images packed --resize 36 --num-thread 1").code == 0
    return folder


@pytest.fixture
def place(inputs, tmp_path):
    """A copy of `inputs` of one's own."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True, symlinks=True)
    return tmp_path


def call(folder, words, stdout=None, seconds=30, capture=None) -> Done:
    """Call a command, "MODULE ARGUMENTS", in a folder. Return what came of it.

    It has `seconds`, and 4 GB of address space more than what there is: none of these reads a
    device to its end, or waits for a pipe.
    """
    name, *arguments = words.split()
    module = importlib.import_module(f"{name}.__main__" if name == "model.convert" else name)
    handlers = logging.getLogger().handlers[:]
    before = Path.cwd()
    os.chdir(folder)
    if capture:
        capture.readouterr()
    try:
        with _time_limit(seconds), _memory_limit(4 << 30):
            code = module.main(arguments)
    except SystemExit as stop:
        code = stop.code
    except OutOfTime:
        code = "it hangs"
    finally:
        os.chdir(before)
        logging.getLogger().handlers[:] = handlers
        gc.collect()  # the locks of checkpoints
    return Done(code, *capture.readouterr()) if capture else Done(code, "", "")


class OutOfTime(BaseException):
    """No command can take this for an error of its own."""


@contextmanager
def _time_limit(seconds):
    def out_of_time(*_):
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _memory_limit(more):
    size = int(re.search(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
