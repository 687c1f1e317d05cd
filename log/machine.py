"""The machine a command runs on: its cores, its CPU, its memory."""

import math
import os
import platform
from pathlib import Path
from typing import Dict


def usable_cores(cgroup: str = "/sys/fs/cgroup") -> int:
    """Return the cores that this process may use: its affinity, and its container's CPU limit
    rounded up, whichever is less."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path(cgroup, "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = Path(cgroup, "cpu/cpu.cfs_quota_us").read_text().strip()
            period = Path(cgroup, "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return cores
    if quota in ("max", "-1"):
        return cores
    return max(1, min(cores, math.ceil(int(quota) / int(period))))


def machine() -> Dict[str, object]:
    """Return the CPU, the cores that this process may use, MXNet's threads, memory and system."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def cpu_name(cpuinfo: str = "/proc/cpuinfo") -> str:
    """Return the model name of the CPU."""
    for line in Path(cpuinfo).read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
