"""The arguments of a run and what it ran on, as JSON: an entry for each time it was started."""

import json
import time
from pathlib import Path
from typing import Any, Dict, List

from log import LogError, schema
from log.files import PathLike, os_reason, read_json, write_whole
from log.machine import machine
from log.versions import versions


def write_start(path: PathLike, anew: bool, **values: Any) -> None:
    """Append an entry to the file `path`, {"starts": [...]}, or begin the file `anew`.

    values : about the run; what JSON holds. The entry has them, the time, and what `machine`
    and `versions` return. Raises LogError if the file can't be written, or has something else in
    it.
    """
    path = Path(path)
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **values,
        "versions": versions(),
        "machine": machine(),
    }
    starts = [] if anew or not path.exists() else _starts(path)
    try:
        write_whole(path, (json.dumps({"starts": [*starts, entry]}, indent=1) + "\n").encode())
    except OSError as error:
        raise LogError(os_reason(error)) from None


_FORM = schema.entries({"starts": schema.list_of(schema.anything)})


def _starts(path: Path) -> List[Dict[str, Any]]:
    starts: List[Dict[str, Any]] = read_json(path, LogError, _FORM, "move it away")["starts"]
    return starts
