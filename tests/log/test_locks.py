"""log.locks: one process at a time, on file systems with and without locks."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from log import locks
from tests.conftest import ROOT

# Holds the lock until its standard input ends. Arguments: the file, what flock raises or 0.
HOLDER = """
import fcntl, sys
from log.locks import Lock
path, number = sys.argv[1], int(sys.argv[2])
def without(*_):
    raise OSError(number, "no locks here")
if number:
    fcntl.flock = without
lock = Lock(path)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=[0, errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def number(request, monkeypatch):
    """What flock raises here, 0 for nothing."""

    def without(*_):
        raise OSError(request.param, "no locks here")

    if request.param:
        monkeypatch.setattr(fcntl, "flock", without)
    return request.param


@pytest.fixture
def hold(tmp_path, number):
    """Start a process that holds the lock of the file x."""
    started = []

    def start():
        words = [sys.executable, "-c", HOLDER, str(tmp_path / "x"), str(number)]
        process = subprocess.Popen(
            words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_another_process_is_kept_off_until_the_first_has_ended(tmp_path, number, hold):
    path = tmp_path / "x"
    locks.check(path)
    assert not path.exists()
    process = hold()
    for take in (locks.Lock, locks.check):
        with pytest.raises(BlockingIOError):
            take(path)
    process.kill()  # its lock file stays as it is
    process.wait()
    locks.check(path)
    lock = locks.Lock(path)
    assert (lock.warning is None) == (number == 0)
    assert lock.warning is None or (str(path) in lock.warning and "no locks" in lock.warning)
    lock.close()
    locks.Lock(path).close()


def test_what_a_lock_file_has_in_it_does_not_matter(tmp_path, number):
    path = tmp_path / "x"
    boot, pid, started = locks._name_of(os.getpid()).split()
    for content in ("", "x", f"{boot} {pid} 1\n", f"other {pid} {started}\n", "a b c", "\0" * 300):
        path.write_text(content)
        locks.Lock(path).close()


def test_a_lock_that_cannot_be_had(tmp_path, number):
    with pytest.raises(FileNotFoundError):
        locks.Lock(tmp_path / "none" / "x")
    with pytest.raises(IsADirectoryError):
        locks.Lock(tmp_path)
