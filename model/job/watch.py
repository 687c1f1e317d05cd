"""Time limits for waiting: MXNet waits for a lost role forever, in C++."""

import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import Callable, NoReturn, Optional

from log.command import print_error


class Watch(threading.Thread):
    """Ends the process, with exit code 1 and one line, if what it waits for does not come.

    limit : seconds. gathered : set when all roles of the job have met.
    While MXNet waits in C++, Python handles no signal. This thread does, before a job has gathered
    (any signal ends the process) and if a second one comes.
    """

    def __init__(self, limit: float):
        super().__init__(daemon=True)
        self._limit = limit
        self._what = ""
        self._until = limit
        self._since: Optional[float] = None
        self._lost: Optional[Callable[[], Optional[str]]] = None
        self._looking = threading.Lock()
        self._signals = 0
        self.gathered = False
        self._wakeup, written = socket.socketpair()
        written.setblocking(False)
        # Kept: the file descriptor is its.
        self._written = written
        signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        self.start()

    def waits_for(self, what: str, limit: Optional[float] = None) -> None:
        """From now on, wait for `what`, for `limit` seconds at most."""
        self._what, self._until = what, limit or self._limit
        self._since = time.monotonic()

    def rests(self) -> None:
        """Wait for nothing: what follows has no time limit."""
        self._since = None

    def looks_for_lost(self, lost: Optional[Callable[[], Optional[str]]]) -> None:
        """Call `lost` regularly: it returns a line on the roles that are lost, None if there is
        none."""
        with self._looking:
            self._lost = lost

    def end(self, line: str) -> NoReturn:
        if logging.getLogger().handlers:
            logging.getLogger().error("error: %s", line)
        print_error("train_xception.py", line)
        leave(1)

    def run(self) -> None:
        times_lost = 0
        while True:
            if select.select([self._wakeup], [], [], 0.5)[0]:
                self._signals += 1
                number = self._wakeup.recv(1)[0]
                if not self.gathered or self._signals > 1:
                    os._exit(128 + number)
            with self._looking:
                lost = self._lost() if self._lost else None
            since = self._since
            # ps-lite's own clock starts a moment after it has gathered: once is not enough.
            times_lost = times_lost + 1 if lost else 0
            if lost and times_lost == 3:
                self.end(lost)
            if since is not None and time.monotonic() - since > self._until:
                self.end(f"waited {self._until:g} s for {self._what}")


def leave(code: int) -> NoReturn:
    """End the process without what Python does at its end: MXNet would wait for others there."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
