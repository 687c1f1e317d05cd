"""Devices, workers and types of numbers: what a run computes with."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys

from model.checkpoint import ndarray_file
from model.devices import has_bfloat16
from tests.runs import begin, digest
from tests.script.conftest import EPOCHS, LOGS, arguments


def test_several_devices_and_memonger(run, records, tmp_path):
    """Two CPU contexts train over the kvstore; memonger changes no bit of it."""
    given = [a for a in records.thin if a != "--gpus="]
    for name, more in (("plain", ["--cpus=2"]), ("less", ["--cpus=2", "--memonger"]), ("one", [])):
        process = run(*given, *more, f"--model-prefix={name}", "--num-epochs=1")
        assert process.returncode == 0, process.stderr
        assert ("cpu(0), cpu(1);" in process.stdout) == bool(more)
    assert digest(tmp_path, "plain", 1) == digest(tmp_path, "less", 1)
    assert digest(tmp_path, "plain", 1) != digest(tmp_path, "one", 1)
    # A checkpoint of 2 devices goes on with 1.
    process = run(*given, "--model-prefix=plain", "--num-epochs=2", "--retrain")
    assert process.returncode == 0 and "devices 2 -> 1" in process.stdout


def test_several_workers_write_one_checkpoint(records, tmp_path):
    """A scheduler, a server and two workers on loopback: rank 0 alone writes and validates, and
    both make the same number of updates, though their parts of the records need not be equal."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ,
        "DMLC_NUM_WORKER": "2",
        "DMLC_NUM_SERVER": "1",
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_PS_ROOT_PORT": str(port),
        "DMLC_NODE_HOST": "127.0.0.1",
        "DMLC_INTERFACE": "lo",
        "OMP_NUM_THREADS": "1",
    }
    given = [*arguments(records), "--num-epochs=1", "--model-prefix=x", "--log-file=x.log"]
    others = [
        subprocess.Popen(
            [sys.executable, "-c", "import mxnet"], cwd=tmp_path, env={**shared, "DMLC_ROLE": role}
        )
        for role in ("scheduler", "server")
    ]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    worker = {**shared, "DMLC_ROLE": "worker"}
    workers = [
        begin(tmp_path, *given, "--kv-store=dist_sync", env=worker, **output) for _ in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in workers]
    finally:
        for process in (*others, *workers):
            process.kill()
            process.wait()
    assert [process.returncode for process in workers] == [0, 0], outputs
    assert sorted("Saved checkpoint" in text for text in outputs) == [False, True]
    assert sorted("Validation-accuracy" in text for text in outputs) == [False, True]
    # The second worker has a log file, and says nothing else.
    assert sorted("6 batches an epoch" in text for text in outputs) == [False, True]
    assert "6 batches an epoch" in (tmp_path / "x-1.log").read_text()
    names = {"x-symbol.json", "x-0001.params", "x-0001.states", "x-0001.json"}
    assert set(os.listdir(tmp_path)) == names | {"x-best.params", "x-lock"} | LOGS | {"x-1.log"}


def test_float32_goes_on_in_bfloat16_and_back(run, records, through, tmp_path):
    """Checkpoints are float32, whatever the run computes in, and each way is exact again."""
    if not has_bfloat16():
        process = run(*records.arguments, "--dtype=bfloat16", "--num-epochs=1")
        assert "this CPU has no instructions for it: float32" in process.stdout
        return
    shutil.copytree(through, tmp_path, dirs_exist_ok=True)
    given = [*arguments(records), "--retrain", "--dtype=bfloat16"]
    for name in ("b", "c"):
        for path in through.glob("x-[0s]*"):
            shutil.copy(path, tmp_path / path.name.replace("x-", f"{name}-"))
    # b in one go; c with a stop between, once in float32 to show that it would make a difference.
    for name, *more in (
        ["b", "--model-load-epoch=1"],
        ["c", "--model-load-epoch=1", "--num-epochs=2"],
        ["c"],
    ):
        text = run(*given, f"--model-prefix={name}", *more)
        assert text.returncode == 0, text.stderr
    assert digest(tmp_path, "b", EPOCHS) == digest(tmp_path, "c", EPOCHS)
    assert digest(tmp_path, "b", EPOCHS) != digest(through, "x", EPOCHS)
    content = ndarray_file.parse((tmp_path / "b-0004.params").read_bytes())
    assert {str(array.dtype) for array in content.values()} == {"float32"}
    back = run(*given, "--model-prefix=b", "--model-load-epoch=3", "--dtype=float32")
    assert back.returncode == 0 and "dtype bfloat16 -> float32" in back.stdout


def test_auto_takes_what_is_faster_and_keeps_to_it(run, records, tmp_path):
    given = [*records.thin, "--dtype=auto", "--model-prefix=x", "--log-file=x.log"]
    first = run(*given, "--num-epochs=1")
    assert first.returncode == 0, first.stderr
    if not has_bfloat16():
        assert "--dtype auto: float32: no bfloat16 on this CPU" in first.stdout
        return
    pattern = r"--dtype auto: (\S+): float32 ([\d.]+) images/s, bfloat16 ([\d.]+) images/s"
    taken, *speeds = re.search(pattern, first.stdout).groups()
    assert taken == ("float32" if float(speeds[0]) >= float(speeds[1]) else "bfloat16")
    assert json.loads((tmp_path / "x-0001.json").read_text())["run"]["settings"]["dtype"] == taken
    again = run(*given, "--num-epochs=2", "--retrain")
    assert again.returncode == 0 and f"--dtype auto: {taken}, as in the checkpoint" in again.stdout
