"""log.command: one line and an exit code, whatever ends a command and wherever its output goes."""

import os
import re
import signal
import subprocess
import sys

import pytest

from log import NO_PACKAGES, UserError
from log.command import OneLineParser, command, one_line, whole
from tests.runs import ROOT

# A command that prints, to standard error too, and writes a file.
SCRIPT = """
import sys
from log import UserError
from log.command import OneLineParser, command
with command("it", writes_files=sys.argv[1] == "files") as outcome:
    parser = OneLineParser(prog="python -m it")
    parser.add_argument("how")
    how = parser.parse_args().how
    outcome.begun()
    print("name \\udcff \\u4e2d " * 20000)
    print("progress", file=sys.stderr)
    if how == "error":
        raise UserError("x\\ny: is wrong")
    open("written", "w").write("whole")
sys.exit(outcome.code)
"""


def run(folder, shell, environment=None):
    """Run `shell`, in which $it is the command, in a folder; return what came of it."""
    (folder / "it.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    words = f'it() {{ "{sys.executable}" it.py "$@"; }}; set -o pipefail; {shell}'
    return subprocess.run(["bash", "-c", words], cwd=folder, capture_output=True, env=environment)


FULL = b"it: error: standard output: No space left on device\n"


@pytest.mark.parametrize(
    ("shell", "code", "says", "written"),
    [
        ("it text >/dev/full", 1, FULL, False),
        ("it files >/dev/full", 1, b"progress\n" + FULL, True),
        ("PYTHONUNBUFFERED=1; export PYTHONUNBUFFERED; it files >/dev/full", 1,
         b"progress\n" + FULL, True),
        ("it files | head -c 9 >/dev/null", 1, b"progress\n", True),
        ("it --help >/dev/full", 1, FULL, False),
        # Nothing was to be printed.
        ("it text >&-", 0, b"progress\n", True),
        ("it text >/dev/null 2>&-", 0, b"", True),
        ("it text >/dev/null 2>/dev/full", 0, b"", True),
        ("it text <&- >&- 2>&-", 0, b"", True),
        ("it error >&-", 1, rb"progress" + b"\n" + rb"it: error: x\ny: is wrong" + b"\n", False),
        ("it error >&- 2>&-", 1, b"", False),
        ("it error >/dev/null 2>/dev/full", 1, b"", False),
        ("it a b >&-", 2, b"it: error: unrecognized arguments: b\n", False),
        ("it a b 2>&-", 2, b"", False),
        ("it a b 2>/dev/full", 2, b"", False),
    ],
)  # fmt: skip
def test_output_that_is_closed_or_full(tmp_path, shell, code, says, written):
    done = run(tmp_path, shell)
    assert (done.returncode, done.stderr) == (code, says)
    # Nothing that was to be printed is in it either, as if it had a standard file's number.
    assert not written or (tmp_path / "written").read_text() == "whole"
    assert written == (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [("utf-8", b"name \xff \xe4\xb8\xad "), ("ascii", b"name \xff \\u4e2d ")],
)
def test_names_that_the_encoding_lacks_are_printed(tmp_path, encoding, printed):
    done = run(tmp_path, "it text", {"PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stdout) == (0, printed * 20000 + b"\n")


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UserError("a\nb\r\x1b\u2028c: bad"), 2, r"it: error: a\nb\r\x1b\u2028c: bad"),
        (OSError(28, "No space left", "x"), 2, "it: error: x: No space left"),
        (OSError(28, "No space left"), 2, "it: error: No space left"),
        (MemoryError(), 2, "it: error: not enough memory"),
        (
            ModuleNotFoundError("No module named 'cv2'", name="cv2"),
            2,
            "it: error: No module named 'cv2': source .venv/bin/activate first; ./run.sh setup "
            "makes .venv",
        ),
        (KeyboardInterrupt(), 128 + signal.SIGINT, "it: stopped"),
    ],
)
def test_what_ends_a_command_is_one_line(capsys, error, code, says):
    for begun in (False, True):
        with command("it", "stopped") as outcome:
            if begun:
                outcome.begun()
            raise error
        assert outcome.code == (1 if begun and code == 2 else code)
        assert capsys.readouterr().err == f"{says}\n"


@pytest.mark.parametrize("error", [ZeroDivisionError(), ModuleNotFoundError(name="model.gone")])
def test_other_exceptions_keep_their_traceback(error):
    with pytest.raises(type(error)), command("it"):
        raise error
    assert type(sys.stdout).__module__ != "log.command"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("data.pack images OUT/records", 2),
        ("data.verify OUT/x.rec", 2),
        ("data.digits.prepare --out OUT", 2),
        ("data.cifar10.prepare OUT --out OUT", 2),
        ("data.imagenet.prepare --train OUT --val OUT --out OUT", 2),
        ("log.plot_curves log/cifar10-64-metrics.jsonl --out OUT/x.png", 1),
        ("model.predict OUT/x 1 x.jpg", 2),
    ],
)
def test_commands_without_packages_are_one_line(words, code, tmp_path):
    """As python3 -m in a terminal where .venv is not activated."""
    (tmp_path / "x.rec").write_bytes(b"x")
    words = words.replace("OUT", str(tmp_path))
    process = subprocess.run(
        [sys.executable, "-S", "-m", *words.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert (process.returncode, process.stdout) == (code, "")
    assert re.fullmatch(
        rf"{words.split()[0]}: error: .*No module named .*: {NO_PACKAGES}\n", process.stderr
    )


def test_tabs_stay_in_a_line():
    assert one_line("Batch [50]\tSpeed: 3") == "Batch [50]\tSpeed: 3"


@pytest.mark.parametrize("text", ["0", "-1", "2147483648", "9" * 5000, "x", "", "1.0", "\u0661"])
def test_whole_numbers_have_bounds(text, capsys):
    parser = OneLineParser(prog="python -m it")
    parser.add_argument("--n", type=whole(1))
    with pytest.raises(SystemExit) as stop:
        parser.parse_args([f"--n={text}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("it: error: argument --n: ") and error.count("\n") == 1
