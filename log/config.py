"""What a run was told and what it ran on, as JSON: one entry for each time it was started."""

import json
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path

from log import LogError

#: The packages whose versions can change what a run computes or shows.
PACKAGES = (
    "mxnet", "mxnet-cu112", "numpy", "opencv-python-headless", "simplejpeg", "pillow", "scipy",
    "matplotlib", "tqdm", "tensorboardX",
)  # fmt: skip


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


def versions(root=Path(__file__).parent.parent) -> dict:
    """Return the versions of Python and of `PACKAGES`, where they are installed, and the git commit
    of this project, with "-dirty" behind it where files have been changed; None for no git."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "commit": _commit(root)}


def _commit(root):
    if not (root / ".git").exists():
        return None  # git would find that of a folder above
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def machine() -> dict:
    """Return the CPU, the cores that this process may use, MXNet's threads, and the system."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _cpu(cpuinfo="/proc/cpuinfo") -> str:
    for line in Path(cpuinfo).read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
