"""The environment of all tests; small records; a run of the script."""

import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import sys

import pytest

from data.datasets import DATASETS
from model.devices import prepare_environment
from tests.runs import ROOT, start

# One thread for each process: the networks here are too small for two, and pytest-xdist runs three
# tests at a time, whose threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
prepare_environment()

# A shell that starts something in the background, as scripts do, has it ignore Ctrl-C, and whatever
# that starts as well.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# First, by one process of pytest-xdist, while the others do the rest: at the end they would have
# nothing to do but wait for them. They wait themselves, for other processes or a heartbeat.
_LONG = (
    "test_a_stopped_and_a_killed_job_go_on_exactly_from_one_disk",
    "test_killed_at_any_moment_it_ends_in_the_same_bits",
    "test_the_loss_of_any_role_ends_the_job",
    "test_a_shell_restarts_a_job_until_it_is_done",
    "test_a_cut_link_ends_the_job",
    "test_local_job_ends_as_its_workers_do",
    "test_cuda_build_is_usable_from_any_script",
    "test_compressed_and_asynchronous_jobs_train",
    "test_workers_are_one_with_as_many_devices",
    "test_a_server_runs_no_code_that_is_sent_to_it",
)


def pytest_collection_modifyitems(items):
    def place(item):
        name = item.originalname
        return _LONG.index(name) if name in _LONG else len(_LONG)

    items.sort(key=place)


class Records:
    """The first 96 and 40 of the digits, in `folder`, and the arguments that train on them: 12
    batches an epoch of 16x16 crops.

    arguments : the network of the script's defaults. An epoch takes about two seconds.
    thin : one of few filters, with weights that are in `folder`. An epoch takes half a second.
    """

    def __init__(self, folder):
        self.folder = folder
        self.train = folder / "train.rec"
        self.val = folder / "val.rec"
        self.arguments = (
            f"--data-type digits --data-dir {folder} --gpus= --batch-size 8 --image-shape 3,16,16 "
            "--frequent 5 --mom 0.5"
        ).split()
        self.thin = [*self.arguments, f"--pretrained={folder / 'thin'},0"]


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Return (name, make) -> folder, which make(folder) fills, once for all workers of xdist."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def folder_of(name, make):
        folder, unfinished = shared / name, shared / f"{name}-unfinished"
        with open(shared / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                make(unfinished)
                unfinished.rename(folder)
        return folder

    return folder_of


@pytest.fixture(scope="session")
def digits(once):
    """Folder with the records of the digits."""

    def make(folder):
        words = [sys.executable, "-m", "data.digits.prepare", "--out", str(folder)]
        subprocess.run(words, cwd=ROOT, check=True)

    return once("digits", make)


@pytest.fixture(scope="session")
def records(digits, once):
    # Loaded in the environment that is prepared above.
    import mxnet as mx

    from tests.networks import THIN, save_network

    def make(folder):
        for name, count in (("train", 96), ("val", 40)):
            source = mx.recordio.MXRecordIO(str(digits / f"{name}.rec"), "r")
            target = mx.recordio.MXIndexedRecordIO(
                str(folder / f"{name}.idx"), str(folder / f"{name}.rec"), "w"
            )
            for i in range(count):
                target.write_idx(i, source.read())
            target.close()
        save_network(folder / "thin", THIN)

    return Records(once("records", make))


@pytest.fixture(scope="session")
def workshop(records, tmp_path_factory):
    """A folder with what the commands of the documentation need: `records` under the names of each
    data set, and a network trained on them for an epoch, under the names of each checkpoint."""
    folder = tmp_path_factory.mktemp("workshop")
    custom = DATASETS["custom"]
    for name, data in {**DATASETS, "mine": custom, "photos": custom}.items():
        place = folder / "data" / name
        place.mkdir(parents=True)
        names = ((records.train, data.train_records[2]), (records.val, data.val_records))
        if name == "imagenet":  # of 299x299
            names += ((records.train, "train_640_q90.rec"), (records.val, "val_342_q90.rec"))
        for ending, (source, copy) in itertools.product((".rec", ".idx"), names):
            shutil.copy(source.with_suffix(ending), (place / copy).with_suffix(ending))
    process = start(folder, *records.arguments, "--num-epochs=1", "--model-prefix=model/x")
    assert process.returncode == 0, process.stderr
    default = "xception-imagenet-0-0"
    named = (
        *(("demo", 10), ("mine", 1), ("mine", 30), ("mine", 125), ("keras", 0), ("torch", 0)),
        *(("photos", 10), (default, 50), (default, 125)),
    )
    for prefix, epoch in named:
        for path in (folder / "model").glob("x-*[!k]"):  # all but the lock
            name = path.name.replace("x-", f"{prefix}-").replace("0001", f"{epoch:04d}")
            shutil.copy(path, folder / "model" / name)
    return folder


@pytest.fixture
def run(tmp_path):
    """Call the script in `tmp_path`/ with arguments; return the finished process."""
    return lambda *args, **kwargs: start(tmp_path, *args, **kwargs)
