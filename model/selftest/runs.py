"""Runs of train_xception.py, as its user starts it."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import List, Mapping, Optional, Sequence

from data.digits import prepare
from data.formats.recordfile import unpacked, walk
from data.packing.writer import write_records
from model.selftest.setup import RunFailed, Setup

_BATCH_SIZE = 32
# Training images of a small self-test.
_FEW = 320
_ROOT = Path(__file__).parents[2]


def run(
    arguments: Sequence[str],
    environment: Optional[Mapping[str, str]] = None,
    stop_after: Optional[str] = None,
) -> str:
    """Return what train_xception.py prints. Raises RunFailed.

    environment : variables in addition to this process's. stop_after : a text; after the first line
    with it the run gets SIGTERM, and must stop by it.
    """
    process = subprocess.Popen(
        [sys.executable, "-u", str(_ROOT / "train_xception.py"), *arguments],
        cwd=_ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout
    lines: List[str] = []
    for line in process.stdout:
        lines.append(line)
        if stop_after and stop_after in line:
            process.terminate()
            stop_after = None
    code = process.wait()
    if code not in (0, 143) or stop_after:
        last = lines[-1].strip() if lines else ""
        if not last.startswith("train_xception.py: error: "):
            last = f"train_xception.py ended with {code}: {last}"
        raise RunFailed(last)
    return "".join(lines)


def train_on_digits(
    setup: Setup,
    name: str,
    arguments: Sequence[str],
    environment: Optional[Mapping[str, str]] = None,
    stop_after: Optional[str] = None,
) -> str:
    """Train on the digits on all devices; the checkpoints are `prefix_of(setup, name)`. Return what
    is printed. arguments : more flags. environment, stop_after : as for `run`."""
    records = digits(setup)
    devices = len(setup.ids)
    batch_size = -(-_BATCH_SIZE // devices) * devices
    prefix = prefix_of(setup, name)
    starts_from = [] if "--retrain" in arguments else _start(setup)
    flags = [
        "--data-type=digits", f"--data-dir={records}", f"--batch-size={batch_size}",
        f"--model-prefix={prefix}", f"--log-file={prefix}.log", "--frequent=2", "--keep=1",
        *setup.flags(), *starts_from,
    ]  # fmt: skip
    return run([*flags, *arguments], environment, stop_after)


def prefix_of(setup: Setup, name: str) -> str:
    return str(setup.place("runs") / name)


def digits(setup: Setup) -> Path:
    """Return the folder of the digits' records; in a small self-test, of some of them."""
    folder, few = setup.place("digits"), setup.place("few-digits")
    if not (folder / "val.rec").exists():
        prepare.main(["--out", str(folder)])
    if not setup.small:
        return folder
    for name, count in (("train", _FEW), ("val", _FEW // 4)):
        if not (few / f"{name}.rec").exists():
            found = (unpacked(each.content) for each in walk(folder / f"{name}.rec"))
            items = ((label, image) for label, _, image in itertools.islice(found, count))
            write_records(few / f"{name}.rec", items, count)
    return few


def _start(setup: Setup) -> List[str]:
    """Return the flags to train a network of few filters, if the self-test is a small one."""
    if not setup.small:
        return []
    from model.selftest.networks import save_few_filters

    return [f"--pretrained={save_few_filters(setup.place('start') / 'few')},0"]
