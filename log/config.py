"""What a run was told and what it ran on, as JSON: one entry for each time it was started."""

import json
import os
import time
from pathlib import Path

from log import LogError
from log.machine import machine, versions


def write_start(path, anew: bool, **told):
    """Append an entry to the file `path`, {"starts": [...]}, or begin the file `anew`.

    told : what the run was told; plain values. The entry has it, the time, and what `machine` and
    `versions` say. Raises LogError where the file can't be written, or is none of these.
    """
    path = Path(path)
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **told,
        "versions": versions(),
        "machine": machine(),
    }
    starts = []
    part = path.with_name(f"{path.name}.part")
    try:
        if not anew and path.exists():
            starts = json.loads(path.read_text())["starts"]
        part.write_text(json.dumps({"starts": [*starts, entry]}, indent=1) + "\n")
        os.replace(part, path)
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise LogError(f"{path}: damaged: move it away") from None
