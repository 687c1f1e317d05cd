"""The errors that the pages explain are those that are printed."""

import ast
import contextlib
import errno
import io
import itertools
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import h5py
import mxnet as mx
import numpy as np
import pytest

import train_xception
from data import pack
from log import plot_curves
from log.locks import Lock
from model import predict
from model.checkpoint import Checkpoints
from model.convert import __main__ as convert
from tests.readme.pages import errors
from tests.runs import ROOT, start

QUOTED = errors()

TRAIN = [
    "--data-type=custom", "--data-dir=data/mine", "--image-shape=3,16,16", "--batch-size=8",
    "--gpus=", "--model-prefix=model/mine", "--log-file=log/mine.log",
]  # fmt: skip
JOB = {
    "DMLC_ROLE": "worker",
    "DMLC_NUM_WORKER": "2",
    "DMLC_NUM_SERVER": "1",
    "DMLC_PS_ROOT_URI": "127.0.0.1",
    "DMLC_PS_ROOT_PORT": "9091",
}

# Lines that take a job of several workers, of which one hangs, is killed or has other records, as
# in test_cluster.py. Here they are found in the source.
OF_JOBS = (
    "waited 600 s for progress after",
    "no heartbeat of the scheduler",
    "lost worker 1",
    "lr is 0.1 for worker 0",
    "worker 1: ",
)


def of_any_machine(line):
    """A line without the numbers that are another machine's, or another file's."""
    return re.sub(
        r"\d+(?= MB)|(?<=byte )\d+|(?<=file has )\d+$|(?<=:)\d{4,5}|(?<=waited )[.\d]+", "N", line
    )


# Provoked


@pytest.fixture(scope="module")
def place(workshop, tmp_path_factory):
    """Where the commands of the README have been: data/mine, and model/mine of one epoch."""
    folder = tmp_path_factory.mktemp("trouble")
    shutil.copytree(workshop / "data" / "mine", folder / "data" / "mine")
    (folder / "model").mkdir()
    # Not every checkpoint of mine: other tests train on from them.
    for name in (
        "mine-symbol.json",
        *(f"mine-0001.{kind}" for kind in ("params", "states", "json")),
    ):
        shutil.copy(workshop / "model" / name, folder / "model")
    return folder


class Provoked:
    """Commands that go wrong, and what each has printed."""

    def __init__(self, patch):
        self.patch = patch
        self.printed = []

    def run(self, main, *words):
        out = io.TextIOWrapper(io.BytesIO(), write_through=True)
        handlers = logging.getLogger().handlers[:]
        redirected = contextlib.redirect_stdout(out), contextlib.redirect_stderr(out)
        with redirected[0], redirected[1], contextlib.suppress(SystemExit):
            main(words)
        logging.getLogger().handlers[:] = handlers
        self.keep(out.buffer.getvalue().decode())

    def keep(self, text):
        # Behind the name of the program, or the time.
        lines = [re.sub(r"^.*?: error: |^[-\d]+ [:,\d]+ ", "", each) for each in text.splitlines()]
        self.printed.append([of_any_machine(line) for line in lines])

    def train(self, *words, **environment):
        words = [*TRAIN, *words]
        if any(word.startswith(("--gpus=0", "--cpus")) for word in words):
            words.remove("--gpus=")
        with self.patch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            self.run(train_xception.main, *words)

    def job(self, **environment):
        self.train("--kv-store=dist_sync", **{**JOB, **environment})

    def start(self, *words, **environment):
        self.keep(start(".", *words, **environment).stderr)

    @contextlib.contextmanager
    def changed(self, path, content):
        """`path` with another content, None for none, for as long as that."""
        path = Path(path)
        before = path.read_bytes()
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        yield
        path.write_bytes(before)

    @contextlib.contextmanager
    def without(self, name):
        """As if a package were not installed."""

        class Nowhere:
            def find_spec(self, wanted, *_):
                if wanted == name:
                    raise ModuleNotFoundError(f"No module named {name!r}")

        with self.patch.context() as patch:
            for module in [each for each in sys.modules if each.split(".")[0] == name]:
                patch.delitem(sys.modules, module)
            patch.setattr(sys, "meta_path", [Nowhere(), *sys.meta_path])
            yield


def prefixes(provoked, patch):
    """Before others leave theirs in model."""
    provoked.run(predict.main, "model/nime", "1", "notes.txt")


def machine(provoked, patch):
    script = str(ROOT / "train_xception.py")
    without_packages = [sys.executable, "-S", script, "--dry-run"]
    provoked.keep(subprocess.run(without_packages, capture_output=True, text=True).stderr)
    package = Path("another/mxnet/__init__.py")
    package.parent.mkdir(parents=True)
    for error in (
        # What numpy 1.24 to 1.26 say.
        "AttributeError(\"module 'numpy' has no attribute 'bool'.\\n`np.bool` was\")",
        "OSError('libcuda.so.1: cannot open shared object file: No such file or directory')",
        "OSError('libcudnn.so.8: cannot open shared object file: No such file or directory')",
    ):
        package.write_text(f"raise {error}")
        with patch.context() as within:
            within.syspath_prepend("another")
            within.delitem(sys.modules, "mxnet")
            provoked.train()
    without_cuda = SimpleNamespace(is_enabled=lambda name: False)
    for found in ([], [(9, 0)], [(8, 0)]):
        with patch.context() as within:
            within.setattr("model.devices.gpus", lambda found=found: found)
            within.setattr("mxnet.runtime.Features", lambda: without_cuda)
            provoked.train("--gpus=0")
    provoked.train("--cpus=3")
    provoked.train("--dtype=float16", "--model-prefix=model/half")


def records(provoked, patch):
    provoked.run(train_xception.main)
    provoked.train("--data-train=s3://bucket/train.rec")
    provoked.train("--num-classes=9")
    provoked.train("--num-examples=100")
    provoked.train("--data-val=data/mine/train.rec")
    provoked.train("--batch-size=256")
    rec, val, index = (f"data/mine/{name}" for name in ("train.rec", "val.rec", "train.idx"))
    content = Path(rec).read_bytes()
    with provoked.changed(rec, content[:-10]):
        provoked.train()
    with provoked.changed(rec, content.replace(b"\x89PNG", b"GONE", 1)):
        provoked.train("--model-prefix=model/bad")
    # Not one of those that are looked at before.
    images = content.split(b"\x89PNG")
    content = b"\x89PNG".join(images[:91]) + b"GONE" + b"\x89PNG".join(images[91:])
    with provoked.changed(rec, content):
        provoked.train("--model-prefix=model/bad-later")
    with patch.context() as within:
        states = itertools.chain([(148146, 0)], itertools.repeat((148136, 0)))
        within.setattr("data.iterators.state", lambda path: next(states))
        provoked.train("--model-prefix=model/changed")
    label = mx.recordio.IRHeader(0, 10.0, 0, 0)
    image = mx.recordio.pack_img(label, np.zeros((32, 32, 3), np.uint8), img_fmt=".png")
    with provoked.changed(val, None), provoked.changed("data/mine/val.idx", None):
        writer = mx.recordio.MXRecordIO(val, "w")
        writer.write(image)
        writer.close()
        provoked.train("--num-classes=11")
    with provoked.changed(index, b"0\t0\n1\t8\n"):
        provoked.train()
    Path("images/cat").mkdir(parents=True)
    cv2.imwrite("images/cat/1.png", np.zeros((9, 9, 3), np.uint8))
    provoked.run(pack.main, "images/cat", "data/new")
    Path("data/mine/pack.json").write_text("{}")
    provoked.run(pack.main, "images", "data/mine")
    with contextlib.closing(Lock("data/mine/pack.lock")):
        provoked.run(pack.main, "images", "data/mine")


def checkpoints(provoked, patch):
    provoked.train()
    provoked.train("--retrain", "--model-prefix=model/new")
    provoked.train("--retrain", "--model-load-epoch=50")
    provoked.train("--retrain", "--num-classes=12")
    provoked.train("--retrain", "--optimizer=adam")
    other = Checkpoints("model/mine")
    other.lock()
    provoked.train("--retrain")
    del other
    with provoked.changed("model/mine-0001.params", b"shorter"):
        provoked.train("--retrain")
    with provoked.changed("model/mine-0001.json", None):
        provoked.train("--retrain", "--model-load-epoch=1")
        with provoked.changed("model/mine-0001.states", None):
            provoked.train("--retrain", "--model-load-epoch=1")
    with patch.context() as within:
        disk = shutil.disk_usage(".")._replace(free=12 << 20)
        within.setattr(shutil, "disk_usage", lambda folder: disk)
        provoked.train("--model-prefix=model/small")

    def full(descriptor, fsync=os.fsync):
        if "full-0001" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with patch.context() as within:
        within.setattr("log.files.os.fsync", full)
        provoked.train("--num-epochs=1", "--model-prefix=model/full")
    Path("log/empty.log").touch()
    provoked.run(plot_curves.main, "log/empty.log")
    with provoked.without("tensorboardX"):
        provoked.train("--tensorboard")


def training(provoked, patch):
    provoked.train("--lr=1e20", "--model-prefix=model/nan")
    for total in (20 << 20, 1 << 50):
        with patch.context() as within:
            within.setattr(
                "model.training.memory.host_memory", lambda total=total: (total, 20 << 20)
            )
            provoked.train("--dry-run", f"--model-prefix=model/{total}")


def jobs(provoked, patch):
    provoked.train("--kv-store=dist_sync")
    provoked.train(**JOB)
    provoked.job(DMLC_INTERFACE="eth7")
    provoked.job(DMLC_NODE_HOST="192.0.2.1")
    of_jobs = ("--kv-store=dist_sync", "--stall-timeout=0.1")
    provoked.start(*of_jobs, **{**JOB, "DMLC_PS_ROOT_URI": "node1.invalid"})
    provoked.start(*of_jobs, **JOB)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        provoked.start(
            *of_jobs, **{**JOB, "DMLC_ROLE": "scheduler", "DMLC_PS_ROOT_PORT": port}
        )  # fmt: skip


def conversions(provoked, patch):
    with h5py.File("other.h5", "w") as file:
        file.create_group("dense").attrs["weight_names"] = [b"kernel:0"]
        file["dense/kernel:0"] = np.zeros(3)
    Path("damaged.h5").write_bytes(b"<html>")
    provoked.run(convert.main, "keras", "other.h5", "model/keras")
    provoked.run(convert.main, "keras", "damaged.h5", "model/keras")
    provoked.run(convert.main, "keras", "other.h5", "model/mine")
    Path("detector.pth").write_bytes(b"ctorch.nn.modules.linear\nLinear\n.")  # pickled
    provoked.run(convert.main, "torch", "detector.pth", "model/torch")
    provoked.run(convert.main, "sliced", "model/mine", "1", "model/new")
    provoked.run(convert.main, "to-keras", "model/mine", "1", "out.h5")
    kernel = mx.nd.zeros((1, 1, 3, 3))
    mx.nd.save("model/old-0050.params", {"arg:x_depthwise_kernel_0_weight": kernel})
    provoked.train("--retrain", "--model-prefix=model/old")
    with provoked.without("onnx"):
        provoked.run(convert.main, "onnx", "model/mine", "1", "out.onnx")
    Path("notes.txt").write_text("no image")
    provoked.run(predict.main, "model/mine", "1", "notes.txt")
    provoked.run(predict.main, "model/mine", "50", "notes.txt")


@pytest.fixture(scope="module")
def printed(place):
    """Of each command that went wrong, its lines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name in JOB:
            patch.delenv(name, raising=False)
        provoked = Provoked(patch)
        for provoke in (prefixes, machine, records, checkpoints, training, jobs, conversions):
            provoke(provoked, patch)
    return provoked.printed


def test_every_line_is_one_that_is_printed(printed):
    told = {of_any_machine(line) for line in QUOTED if not line.startswith(OF_JOBS)}
    assert len(told) > 50
    missing = told.difference(*printed)
    assert not missing, "\n".join(
        ["never printed:", *missing, "", "printed:", *set().union(*printed)]
    )
    for lines in printed:
        assert told.intersection(lines), f"provoked, but on no page: {lines}"


# In the source


def literals(path) -> list:
    """The strings in a module as regular expressions, in which anything stands for what is filled
    in."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = (
                re.escape(part.value) if isinstance(part, ast.Constant) else ".+"
                for part in node.values
            )
            found.append("".join(parts))
    return found


@pytest.mark.parametrize("beginning", OF_JOBS)
def test_every_line_of_a_job_is_in_the_source(beginning):
    (line,) = [line for line in QUOTED if line.startswith(beginning)]
    sources = [ROOT / "train_xception.py", *(ROOT / "model").rglob("*.py")]
    messages = [message for path in sources for message in literals(path)]
    rest = line
    if "waited" in line:
        rest = line.split(" for ", 1)[1]
        assert any(re.fullmatch(each, line) for each in messages if each.startswith("waited"))
    assert any(re.fullmatch(each, rest) and len(each) > 10 for each in messages), rest
