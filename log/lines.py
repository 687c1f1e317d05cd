"""The text log of a run: the same lines in a file and on the terminal."""

import logging
import sys
from pathlib import Path

from log import LogError


def open_log(path) -> logging.Logger:
    """Send the root logger, which MXNet writes to as well, to standard output and to `path`.

    Lines are appended: a resumed run continues its log. Raises LogError.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        file = _LogFile(path)
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}") from None
    logger = logging.getLogger()
    logger.setLevel(logging.INFO)
    terminal = logging.StreamHandler(sys.stdout)
    # Errors go to standard error, which is the script's.
    terminal.addFilter(lambda record: record.levelno < logging.ERROR)
    for handler in (terminal, file):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(handler)
    return logger


class _LogFile(logging.FileHandler):
    """Log file that, once it can't be written, says so in one line, and lets the run go on."""

    _failed = False

    def handleError(self, record):
        if not self._failed:
            self._failed = True
            print(f"{self.baseFilename}: {sys.exc_info()[1]}: lines are missing", file=sys.stderr)
