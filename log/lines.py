"""The text log of a run: the same lines in a file and on the terminal."""

import contextlib
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Iterator, List, TextIO

from log import LogError, UserError
from log.command import one_line, raising
from log.files import PathLike


def open_log(path: PathLike, anew: bool = False, quiet: bool = False) -> logging.Logger:
    """Send the root logger, which MXNet writes to as well, to standard output and to `path`.

    Lines are appended, as a resumed run continues its log, unless `anew`. quiet : nothing but
    warnings goes to the terminal, to standard error. Raises LogError.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        file = _File(path, anew)
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}") from None
    logger = logging.getLogger()
    logger.setLevel(logging.INFO)
    terminal: logging.Handler
    if quiet:
        terminal = logging.StreamHandler(sys.stderr)
        terminal.setLevel(logging.WARNING)
    else:
        output = raising(sys.stdout)
        terminal = _AboveBars(output) if output.isatty() else logging.StreamHandler(output)
    # Errors go to standard error, which is the script's.
    terminal.addFilter(lambda record: record.levelno < logging.ERROR)
    for handler in (terminal, file):
        _complain_once(handler)
        handler.setFormatter(_Lines("%(asctime)s %(message)s"))
        logger.addHandler(handler)
    return logger


@contextlib.contextmanager
def errors_in_log(logger: logging.Logger) -> Iterator[None]:
    """Write what ends the body, a `UserError`, to the log too."""
    try:
        yield
    except UserError as error:
        logger.error("error: %s", error)
        raise


def check_log(path: PathLike) -> None:
    """Raise LogError if `open_log` could not write `path`; write nothing."""
    path = Path(path)
    folder = path.parent
    try:
        if path.exists():
            os.close(_open_to_append(path))
            return
        while not folder.exists():
            folder = folder.parent
        tempfile.TemporaryFile(dir=folder).close()  # has no name
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}") from None


def _open_to_append(path: PathLike, more_flags: int = 0) -> int:
    # A FIFO that nobody reads is an error: else the run would wait for a reader.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags | more_flags, 0o666)
    os.set_blocking(descriptor, True)
    return descriptor


class _File(logging.FileHandler):
    """Writes UTF-8, whatever the locale; a name that is no text is written escaped."""

    def __init__(self, path: PathLike, anew: bool):
        self._flags = os.O_TRUNC if anew else 0
        super().__init__(path)

    def _open(self) -> TextIO:  # type: ignore[override]
        descriptor = _open_to_append(self.baseFilename, self._flags)
        return open(descriptor, "a", encoding="utf-8", errors="backslashreplace")


class _Lines(logging.Formatter):
    """Makes a message one line, whatever the names in it hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = one_line(record.message)
        return super().formatMessage(record)


class _AboveBars(logging.StreamHandler):
    """Writes lines to a terminal above the progress bar that is at its bottom."""

    def emit(self, record: logging.LogRecord) -> None:
        # Not at the top: a Python without packages says in one line what it lacks.
        from tqdm import tqdm

        try:
            # The bar is on sys.stdout: `self.stream` may be another object of the same terminal.
            with tqdm.external_write_mode(file=sys.stdout):
                self.stream.write(self.format(record) + self.terminator)
                self.flush()
        except Exception:
            self.handleError(record)


def _complain_once(handler: logging.Handler) -> None:
    """Have `handler`, once it can't write (a full disk, a closed pipe), print so in one line, and
    let the run continue."""
    printed: List[bool] = []

    def handle_error(record: logging.LogRecord) -> None:
        if not printed:
            printed.append(True)
            name = getattr(handler, "baseFilename", "standard output")
            print(f"{name}: {sys.exc_info()[1]}: lines are missing", file=sys.stderr)

    handler.handleError = handle_error  # type: ignore[method-assign]
