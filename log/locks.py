"""Files that one process at a time holds: until it ends, however it ends.

A lock is the kernel's (flock). Some network file systems have none: NFS without its lock daemon,
Lustre mounted without the option flock. There the file names the process that holds it, which keeps
off the processes of the same machine, and a warning says so.
"""

import errno
import fcntl
import os
from pathlib import Path
from typing import Optional

from log.files import PathLike

# What flock raises if the file system has no locks.
_WITHOUT = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class Lock:
    """The lock of the file `path`, which is made if it is not there.

    warning : whom the lock does not keep off, None if it keeps off everybody. Raises
    BlockingIOError if another process holds the lock, OSError if the file can't be written.
    """

    def __init__(self, path: PathLike):
        # Opened, and so locked, as long as this object lives.
        self._file = open(path, "r+b" if Path(path).exists() else "w+b")  # noqa: SIM115
        self.warning: Optional[str] = None
        if not _locked(self._file.fileno()):
            if _is_held(self._file.read(200).decode(errors="replace")):
                raise BlockingIOError(errno.EAGAIN, "held by a running process", os.fspath(path))
            self.warning = (
                f"{path}: this file system has no locks: processes on other machines are not "
                "detected"
            )
            self._file.seek(0)
            self._file.truncate()
            self._file.write(_name_of(os.getpid()).encode())
            self._file.flush()

    def close(self) -> None:
        """Let others have the lock."""
        if self.warning:
            self._file.truncate(0)
        self._file.close()


def check(path: PathLike) -> None:
    """Raise as `Lock` would; write nothing."""
    if not Path(path).exists():
        return
    with open(path, "r+b") as file:
        if not _locked(file.fileno()) and _is_held(file.read(200).decode(errors="replace")):
            raise BlockingIOError(errno.EAGAIN, "held by a running process", os.fspath(path))


def _locked(descriptor: int) -> bool:
    """Lock a file; return False if its file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _WITHOUT:
            return False
        raise
    return True


def _name_of(pid: int) -> str:
    """Return what tells a process from all others of this machine; raises OSError if it has
    ended."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    # After the command's name, which may hold anything: the time of the start, field 22 in all.
    started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{boot} {pid} {started}\n"


def _is_held(name: str) -> bool:
    """Return whether the process of a name is running."""
    try:
        return _name_of(int(name.split()[1])) == name
    except (OSError, ValueError, IndexError):
        return False
