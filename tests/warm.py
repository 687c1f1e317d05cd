"""Processes of scripts that begin where MXNet has been imported.

Importing MXNet takes more time than most runs of the tests, and is the same for each. A `Warm` has
one process that has done it and nothing else (no thread, no operator), and forks for every call.
What is forked runs the script as `python -u SCRIPT` would, in a folder of its own and to the end:
arguments, signals, output, exit code and what happens at exit are those of a process of its own.
"""

import array
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
from pathlib import Path

_STATUS = 32  # bytes of a line with a number


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

    def run(self, words, folder, timeout) -> subprocess.CompletedProcess:
        """Run `words`, a script of Python and its arguments, in `folder`, and wait for its end.

        Raises subprocess.TimeoutExpired after `timeout` seconds.
        """
        pipes = [os.pipe(), os.pipe()]
        request = json.dumps([words, str(folder), dict(os.environ)]).encode()
        with self._lock:
            length = f"{len(request):<{_STATUS}}".encode()
            files = array.array("i", [write for _, write in pipes])
            self._socket.sendmsg([length], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
            self._socket.sendall(request)
            pid = self._number()
            for _, write in pipes:
                os.close(write)
            found = [b"", b""]
            readers = [
                threading.Thread(target=_read_all, args=(read, found, i))
                for i, (read, _) in enumerate(pipes)
            ]
            late = threading.Timer(timeout, os.kill, (pid, 9))
            for each in (*readers, late):
                each.start()
            status = self._number()
            expired = not late.is_alive()
            late.cancel()
            for each in readers:
                each.join()
        if expired:
            raise subprocess.TimeoutExpired(words, timeout, *found)
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        return subprocess.CompletedProcess(words, code, *(each.decode() for each in found))

    def _number(self) -> int:
        return int(_receive(self._socket, _STATUS))


def _read_all(descriptor, found, i):
    with open(descriptor, "rb") as file:
        found[i] = file.read()


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
        length, ancillary, _, _ = connection.recvmsg(_STATUS, socket.CMSG_SPACE(2 * size))
        if not length:
            sys.exit()
        length += _receive(connection, _STATUS - len(length))
        out, error = array.array("i", ancillary[0][2])
        words, folder, environment = json.loads(_receive(connection, int(length)))
        child = os.fork()
        if not child:
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
        connection.sendall(f"{child:<{_STATUS}}".encode())
        connection.sendall(f"{os.waitpid(child, 0)[1]:<{_STATUS}}".encode())


if __name__ == "__main__":
    import mxnet  # noqa: F401

    sys.argv = _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
