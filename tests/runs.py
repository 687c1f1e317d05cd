"""Runs of train_xception.py: started as its user does, and what they leave."""

import hashlib
import json
import os
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from model.checkpoint import ndarray_file
from tests.warm import Warm

ROOT = Path(__file__).parent.parent
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def command(*args):
    return [sys.executable, "-u", str(ROOT / "train_xception.py"), *map(str, args)]


def start(folder, *args, **environment):
    """Run the script in `folder`, with `environment` beside this process' variables."""
    changed = [name for name, value in environment.items() if os.environ.get(name) != value]
    if all(name.startswith(("DMLC_", "PS_")) for name in changed):
        return warm().run(command(*args)[2:], folder, 300, {**os.environ, **environment})
    # What is read when Python begins, or when MXNet is imported.
    return subprocess.run(
        command(*args),
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@lru_cache(maxsize=None)
def warm():
    return Warm()


def begin(folder, *args, **kwargs) -> subprocess.Popen:
    """Start the script in `folder`; kwargs : as of Warm.start."""
    return warm().start(command(*args)[2:], folder, **kwargs)


def start_until(moment, folder, *args) -> subprocess.Popen:
    """Start the script in `folder`; return its process when it has stopped itself (SIGSTOP) at
    `moment`, as tests/moments.py has it: "rename x-0001.json.part", or, the second time, "... 2".
    SIGCONT has it go on."""
    what, name = moment.split(" ", 1)
    name, number = name.rsplit(" ", 1) if name[-2:] == " 2" else (name, "1")
    moments = [ROOT / "tests" / "moments.py", what, name, number]
    process = warm().start([*moments, *command(*args)[2:]], folder, **PIPES)
    # Up to there, what it says fits into the pipes.
    state = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    if state.si_code != os.CLD_STOPPED:
        out, error = process.communicate()
        raise AssertionError(f"it did not come to {moment!r}: {process.returncode}\n{out}{error}")
    return process


def refused(process, code=2) -> str:
    """Return the only line on standard error of a finished process that ended with `code`."""
    assert process.returncode == code, process.stderr
    assert process.stderr.count("\n") == 1, process.stderr
    return process.stderr


# What runs leave


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
