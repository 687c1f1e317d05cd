"""Output that is full, closed or a pipe that nobody reads: every command's files are there, and its
exit code says what is lost."""

import os
import subprocess
import sys

import pytest

from tests.commands.conftest import TRAIN, call
from tests.conftest import ROOT

RETRAIN = f"train_xception {TRAIN} --retrain --num-epochs 2"
#: Each command, and a file that it writes last.
WRITES = {
    "model.evaluate m 1 --data-val rec/val.rec --per-class --report out/r": "out/r-confusion.png",
    "model.predict m 1 images": None,
    "model.predict m 1 images --json": None,
    "model.quantize m 1 q --calibrate rec/train.rec --images 8": "q-0001.json",
    "model.convert onnx m 1 m.onnx": "m.onnx",
    "data.pack images out --resize 36": "out/train.rec",
    "data.verify rec/val.rec --repair out": "out/val.rec",
    "log.plot_curves m --out out.png": "out.png",
    RETRAIN: "m-0002.json",
    f"{RETRAIN} --dry-run": None,
    f"train_xception {TRAIN} --summary": None,
}


@pytest.mark.parametrize("command", WRITES)
def test_standard_output_is_full(place, capsys, monkeypatch, command):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, _, error = call(place, command, capture=capsys)
        monkeypatch.undo()
    assert WRITES[command] is None or (place / WRITES[command]).exists()
    lines = error.splitlines()
    if command == RETRAIN:  # the log has all of it
        assert (code, lines) == (0, ["standard output: No space left on device: lines are missing"])
        assert "trained: m-0002.params" in (place / "m.log").read_text()
    else:
        assert code == 1
        assert [line for line in lines if ": error: " in line] == lines[-1:]
        assert lines[-1].endswith(": error: standard output: No space left on device")


@pytest.mark.parametrize("command", WRITES)
def test_standard_files_are_closed(place, monkeypatch, command):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    code = call(place, command).code
    monkeypatch.undo()
    assert code == 0
    assert WRITES[command] is None or (place / WRITES[command]).exists()


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("python -m model.predict m 1 {images} --csv --batch-size 1 | head -n 1", 1),
        ("python -u -m model.evaluate m 1 --data-val rec/val.rec <&- >&- 2>&-", 0),
        ("python -u train_xception.py --help >/dev/full", 1),
    ],
)
def test_in_a_shell(place, shell, code):
    images = " ".join(["images"] * 600)  # more than a pipe holds
    shell = shell.format(images=images).replace("train_xception.py", f"{ROOT}/train_xception.py")
    python = f'python() {{ "{sys.executable}" "$@"; }}; set -o pipefail; '
    done = subprocess.run(
        ["bash", "-c", python + shell],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 1
