"""The text log of a run: the same lines in a file and on the terminal."""

import logging
import sys
import tempfile
from pathlib import Path

from log import LogError


def open_log(path, anew: bool = False, quiet: bool = False) -> logging.Logger:
    """Send the root logger, which MXNet writes to as well, to standard output and to `path`.

    Lines are appended, as a resumed run continues its log, unless `anew`. `quiet`: nothing but
    warnings leaves the file, to standard error. Raises LogError.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(path, mode="w" if anew else "a")
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}") from None
    logger = logging.getLogger()
    logger.setLevel(logging.INFO)
    if quiet:
        terminal = logging.StreamHandler(sys.stderr)
        terminal.setLevel(logging.WARNING)
    else:
        terminal = (
            _AboveBars(sys.stdout) if sys.stdout.isatty() else logging.StreamHandler(sys.stdout)
        )
    # Errors go to standard error, which is the script's.
    terminal.addFilter(lambda record: record.levelno < logging.ERROR)
    for handler in (terminal, file):
        _say_once(handler)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(handler)
    return logger


def check_log(path):
    """Raise LogError where `open_log` could not write `path`; write nothing."""
    path = Path(path)
    folder = path.parent
    try:
        if path.exists():
            open(path, "a").close()
            return
        while not folder.exists():
            folder = folder.parent
        tempfile.TemporaryFile(dir=folder).close()  # has no name
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}") from None


class _AboveBars(logging.StreamHandler):
    """Writes lines to a terminal above the progress bar that is at its bottom."""

    def emit(self, record):
        # Not at the top: a Python without packages says in one line what it lacks.
        from tqdm import tqdm

        try:
            tqdm.write(self.format(record), file=self.stream)
        except Exception:
            self.handleError(record)


def _say_once(handler):
    """Have `handler`, once it can't write (a full disk, a closed pipe), say so in one line, and
    let the run go on."""
    said = []

    def handle_error(_record):
        if not said:
            said.append(True)
            name = getattr(handler, "baseFilename", "standard output")
            print(f"{name}: {sys.exc_info()[1]}: lines are missing", file=sys.stderr)

    handler.handleError = handle_error
