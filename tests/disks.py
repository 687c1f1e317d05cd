"""File systems that are full, or read-only."""

import contextlib
import subprocess

import pytest


@contextlib.contextmanager
def tmpfs(folder, options):
    """Have a tmpfs of these mount options at `folder`; skip the test if it may not be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("may not mount a file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
