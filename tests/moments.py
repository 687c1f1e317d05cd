"""Run a script of this folder, and have it stop itself at a moment that is told.

    python tests/moments.py WHAT NAME NUMBER train_xception.py ...

stops (SIGSTOP) when, for the NUMBER-th time,

    line     a line with NAME in it has been logged,
    open     the file NAME is about to be opened for writing,
    write    NAME has been written to half,
    rename   NAME is about to get another name,
    remove   NAME, which is there, is about to be removed,
    symlink  the link NAME is about to be made.

Whoever waits for that has all the time to kill it, to send it a signal, or to change its files.
"""

import logging
import os
import runpy
import signal
import sys
from pathlib import Path

# Audit events of Python, and which of their arguments has the name.
_EVENTS = {
    "open": ("open", 0),
    "os.rename": ("rename", 0),
    "os.remove": ("remove", 0),
    "os.symlink": ("symlink", 1),
}


class Moment:
    def __init__(self, what, name, number):
        self.what, self.name, self.left = what, name, number
        self.opened = None

    def comes(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGSTOP)

    def on_event(self, event, arguments):
        if event not in _EVENTS:
            return
        what, place = _EVENTS[event]
        path = arguments[place]
        if not isinstance(path, (str, os.PathLike)):
            return
        if what == "open":
            if not (isinstance(arguments[1], str) and arguments[1].startswith("w")):
                return
            self.opened = path
        if (what, os.path.basename(path)) == (self.what, self.name) and (
            what != "remove" or os.path.lexists(path)
        ):
            self.comes()

    def watch_lines(self):
        handle = logging.Logger.handle

        def handle_and_look(logger, record):
            handle(logger, record)
            if self.name in record.getMessage():
                self.comes()

        logging.Logger.handle = handle_and_look

    def watch_writing(self):
        """Of files of arrays, which are written in two pieces for each array."""
        from model.checkpoint import ndarray_file

        dump = ndarray_file.dump

        def dump_and_look(arrays, write):
            pieces = 0

            def write_and_look(piece):
                nonlocal pieces
                write(piece)
                pieces += 1
                if pieces == len(arrays) and os.path.basename(self.opened) == self.name:
                    self.comes()

            dump(arrays, write_and_look)

        ndarray_file.dump = dump_and_look


def main(what, name, number, script, *arguments):
    sys.path[0] = str(Path(script).parent)
    sys.argv = [script, *arguments]
    moment = Moment(what, name, int(number))
    if what == "line":
        moment.watch_lines()
    elif what == "write":
        moment.watch_writing()
    sys.addaudithook(moment.on_event)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
