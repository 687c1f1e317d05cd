"""The peers' environments, in .venv-peers/: made once, again when their requirements change."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
#: Environment of the processes that are measured, without what importing mxnet sets.
INHERITED = dict(os.environ)


class PeerError(Exception):
    """An environment that can't be made, or a worker that failed. One line."""


def python_of(name: str) -> str:
    """Return the Python of environment `name`, whose requirements are `name`.txt beside this file.

    Raises PeerError where it can't be installed.
    """
    folder = ROOT / ".venv-peers" / name
    requirements = Path(__file__).with_name(f"{name}.txt")
    stamp = folder / "installed"
    python = str(folder / "bin" / "python")
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        print(f"installing {requirements.relative_to(ROOT)}", file=sys.stderr)
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [*pip, "-r", str(requirements)],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise PeerError(f"{requirements.name}: not installed: {last_line(done)}")
        stamp.write_text(requirements.read_text())
    return python


def last_line(done: subprocess.CompletedProcess) -> str:
    lines = (done.stderr or done.stdout or "").strip().splitlines()
    return lines[-1].strip() if lines else f"exit code {done.returncode}"
