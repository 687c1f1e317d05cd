"""What the tests of the script share: runs of a thin network, and what they leave."""

import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from model.checkpoint import ndarray_file
from tests.conftest import command


def figures(log) -> list:
    """The lines of a log that have figures, without times and speeds, each once."""
    lines = [line.split(" ", 2)[2].strip() for line in Path(log).read_text().splitlines()]
    lines = [re.sub(r"Speed: \S+ samples/sec\s+", "", line) for line in lines]
    lines = [line for line in lines if line.startswith("Epoch") and "Time cost" not in line]
    return list(dict.fromkeys(lines))


def metrics(folder, name="x") -> list:
    """The lines of the figures of a run, without what is of the machine and the moment."""
    lines = (folder / f"{name}-metrics.jsonl").read_text().splitlines()
    ours = ("images_s", "seconds", "memory_mb")
    return [{k: v for k, v in json.loads(line).items() if k not in ours} for line in lines]


def digest(folder, name, epoch) -> list:
    return [
        hashlib.sha256((folder / f"{name}-{epoch:04d}.{kind}").read_bytes()).hexdigest()
        for kind in ("params", "states")
    ]


def entries(folder, name, epoch) -> dict:
    return ndarray_file.parse((folder / f"{name}-{epoch:04d}.params").read_bytes())


EPOCHS = 4
LOGS = {"x.log", "x-metrics.jsonl", "x-config.json"}


@pytest.fixture(scope="session")
def through(records, tmp_path_factory):
    """A run of 4 epochs that nothing interrupts, of the thin network; its folder."""
    folder = tmp_path_factory.mktemp("through")
    done = subprocess.run(
        command(*arguments(records), "--model-prefix=x", "--log-file=x.log"), cwd=folder
    )
    assert done.returncode == 0
    return folder


def arguments(records):
    # A step of the learning rate within; --frequent 5 in an epoch of 12 batches.
    return [*records.thin, f"--num-epochs={EPOCHS}", "--lr-steps=2"]
