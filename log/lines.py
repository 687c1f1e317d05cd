"""The text log of a run: the same lines in a file and on the terminal."""

import logging
import sys
from pathlib import Path


def open_log(path) -> logging.Logger:
    """Send the root logger, which MXNet writes to as well, to standard output and to `path`.

    Lines are appended: a resumed run continues its log.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger()
    logger.setLevel(logging.INFO)
    for handler in (logging.StreamHandler(sys.stdout), logging.FileHandler(path)):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(handler)
    return logger
