"""Processes of scripts that begin where MXNet has been imported.

Importing MXNet takes more time than most runs of the tests, and is the same for each. A `Warm` has
one process that has done it and nothing else (no thread, no operator), and forks for every call.
What is forked runs the script as `python -u SCRIPT` would, in a folder of its own and to the end:
arguments, signals, output, exit code and what happens at exit are those of a process of its own. It
becomes a child of the process that has the `Warm`, which waits for it as for any other.
"""

import array
import contextlib
import ctypes
import gc
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
from pathlib import Path

_SIZE = 32  # bytes of a number
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Warm:
    def __init__(self):
        self._socket, theirs = socket.socketpair()
        self._lock = threading.Lock()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-u", __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Pipes, as those that take their place: Python asks once what they can do.
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )

    def start(self, words, folder, **kwargs) -> subprocess.Popen:
        """Start `words`, a script of Python and its arguments, in `folder`.

        kwargs : env, stdout and stderr, as of subprocess.Popen. What is read from the environment
        when MXNet is imported, OMP_NUM_THREADS above all, is from the time the `Warm` was made.
        """
        return _Forked(self, words, cwd=folder, text=True, **kwargs)

    def run(self, words, folder, timeout, env=None) -> subprocess.CompletedProcess:
        """Run `words`, a script of Python and its arguments, in `folder`, and wait for its end.

        Raises subprocess.TimeoutExpired after `timeout` seconds.
        """
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.start(words, folder, env=env, **pipes) as process:
            try:
                out, error = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(words, process.returncode, out, error)

    def fork(self, words, folder, environment, out, error) -> int:
        """Return the process id of a new child of this process that runs `words`."""
        request = json.dumps([words, os.path.abspath(folder), environment]).encode()
        with self._lock:
            length = f"{len(request):<{_SIZE}}".encode()
            files = array.array("i", [out, error])
            with _adopting():
                self._socket.sendmsg([length], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
                self._socket.sendall(request)
                return int(_receive(self._socket, _SIZE))


class _Forked(subprocess.Popen):
    """A process that a `Warm` forks; its pipes, signals and end are those of any Popen."""

    def __init__(self, warm, words, **kwargs):
        self._warm = warm
        super().__init__(list(map(str, words)), **kwargs)

    # What Popen calls to start a process: these arguments are those of Python 3.8 to 3.11.
    def _execute_child(
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo,
        creationflags, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *_,
    ):  # fmt: skip
        out, error = (given if given >= 0 else own for given, own in ((c2pwrite, 1), (errwrite, 2)))
        environment = dict(os.environ if env is None else env)
        self.pid = self._warm.fork(args, cwd, environment, out, error)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


@contextlib.contextmanager
def _adopting():
    """Have processes whose parent ends become children of this one (man 2 prctl)."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _receive(connection, count) -> bytes:
    found = b""
    while len(found) < count:
        piece = connection.recv(count - len(found))
        if not piece:
            raise EOFError("the other side has ended")
        found += piece
    return found


def _serve(connection) -> list:
    """Answer requests until there are no more. In a forked process, return its words."""
    while True:
        size = array.array("i").itemsize
        length, ancillary, _, _ = connection.recvmsg(_SIZE, socket.CMSG_SPACE(2 * size))
        if not length:
            sys.exit()
        length += _receive(connection, _SIZE - len(length))
        out, error = array.array("i", ancillary[0][2])
        words, folder, environment = json.loads(_receive(connection, int(length)))
        pid = _fork_for_grandparent()
        if not pid:
            connection.close()
            os.dup2(out, 1)
            os.dup2(error, 2)
            os.close(out)
            os.close(error)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            return words
        os.close(out)
        os.close(error)
        connection.sendall(f"{pid:<{_SIZE}}".encode())


def _fork_for_grandparent() -> int:
    """As os.fork(), but the new process is a child of the process that adopts now."""
    read, write = os.pipe()
    between = os.fork()
    if not between:
        pid = os.fork()
        if pid:
            os.write(write, str(pid).encode())
            os._exit(0)
        os.close(read)
        os.close(write)
        return 0
    os.close(write)
    os.waitpid(between, 0)
    with open(read) as file:
        return int(file.read())


if __name__ == "__main__":
    import mxnet  # noqa: F401

    gc.freeze()  # no collection of a forked process goes through what is here
    sys.argv = _serve(socket.socket(fileno=int(sys.argv[1])))
    own = os.environ.get("PYTHONPATH")
    sys.path[:1] = [str(Path(sys.argv[0]).parent), *(own.split(os.pathsep) if own else [])]
    runpy.run_path(sys.argv[0], run_name="__main__")
