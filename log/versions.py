"""The versions of what a command runs with."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Dict, Optional

#: The packages whose versions can change what a run computes or shows.
PACKAGES = (
    "mxnet", "mxnet-cu112", "numpy", "opencv-python-headless", "simplejpeg", "pillow", "scipy",
    "matplotlib", "tqdm", "tensorboardX",
)  # fmt: skip


def versions(root: Path = Path(__file__).parents[1]) -> Dict[str, Optional[str]]:
    """Return the versions of Python and of `PACKAGES`, if they are installed, and the git commit
    of this project, with "-dirty" after it if files were changed; None without git."""
    found: Dict[str, Optional[str]] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "commit": _commit(root)}


def _commit(root: Path) -> Optional[str]:
    if not (root / ".git").exists():
        return None  # git would find that of a folder above
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None
