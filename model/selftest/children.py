"""Checks in processes of their own: what crashes or hangs there ends there."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, List, Mapping, NamedTuple, Optional

from model.selftest.checks import Check
from model.selftest.setup import Result, Setup, results_of

_ROOT = Path(__file__).parents[2]
_MODULE = ["-m", "model.selftest.child"]
# Seconds between two looks at a process.
_PAUSE = 0.2


class Answer(NamedTuple):
    """The answer of a process: its text, or the reason for its lack."""

    text: Optional[str]
    problem: str = ""


def ask(
    name: str,
    setup: Setup,
    process_name: str,
    environment: Mapping[str, str],
    limit: float,
    waiting: Callable[[], None],
) -> Answer:
    """Start `model.selftest.child` for a check, and return its answer.

    waiting : is called again and again until there is one. After `limit` seconds the process, and
    what it has started, is killed.
    """
    answer = setup.place("answers") / f"{process_name}.json"
    printed = answer.with_suffix(".txt")
    with printed.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *_MODULE, name, str(answer)],
            cwd=_ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    assert process.stdin
    hung = False
    try:
        process.stdin.write(setup.to_json())
        process.stdin.close()
        end = time.monotonic() + limit
        while not _has_ended(process) and not hung:
            waiting()
            time.sleep(_PAUSE)
            hung = time.monotonic() > end
    finally:
        _end(process)
    if hung:
        return Answer(None, f"no answer within {limit:g} s")
    if process.returncode == 0 and answer.exists():
        return Answer(answer.read_text())
    return Answer(None, _ended(process.returncode, printed))


def run_in_child(check: Check, setup: Setup, waiting: Callable[[], None]) -> List[Result]:
    """Return the results of a check, for each device or for all together. A process that gives none
    is a result too."""
    results: List[Result] = []
    for name, part in check.setups(setup):
        answer = ask(check.name, part, name, check.environment, check.limit, waiting)
        if answer.text is not None:
            results += results_of(answer.text)
        else:
            where = f"{part.names[0]} " if check.each else ""
            results.append(Result(f"{where}{check.title}", False, answer.problem))
    return results


def _has_ended(process: "subprocess.Popen[str]") -> bool:
    # It is not waited for yet: until then no other process gets its number.
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, options) is not None


def _end(process: "subprocess.Popen[str]") -> None:
    """Kill what is left of a process and of those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ended(code: int, printed: Path) -> str:
    lines = [line for line in printed.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "it printed nothing"
    if code < 0:
        return f"its process ended by {signal.Signals(-code).name}: {last}"
    return f"its process ended with {code}: {last}"
