"""The memory that a training run needs, estimated before it starts, and the memory there is."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Tuple

import mxnet as mx

from log.files import PathLike
from model import ModelError
from model.network.params import parameter_shapes
from model.network.running import planned_bytes

_FLOAT = 4
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Need:
    """Bytes that training needs.

    certain : what MXNet has planned and will write to: it can't be less. peak : an estimate of all
    of it. on_device : of one GPU, certain; 0 on CPUs.
    """

    certain: int
    peak: int
    on_device: int = 0


def needed(
    symbol: mx.sym.Symbol,
    contexts: List[mx.Context],
    data_shape: Tuple[int, ...],
    dtype: str,
    arrays: int = 2,
    memonger: bool = False,
    validates: bool = True,
    decoded: int = 0,
) -> Need:
    """Return what training `symbol`, the network as it is saved, will need.

    data_shape : (N, 3, H, W), over all contexts. dtype, memonger : as for `RunningNetwork`.
    arrays : arrays in a checkpoint for each parameter: itself, the optimizer's states, averages.
    validates : after each epoch there is a network for inference, too. decoded : bytes of the
    images that the readers hold.
    """
    device_type = contexts[0].device_type
    activations = planned_bytes(symbol, data_shape, device_type, dtype, memonger)
    params = _FLOAT * sum(map(math.prod, parameter_shapes(symbol).values()))
    batch = _FLOAT * math.prod(data_shape)
    unplanned = resident() + _LIBRARIES + _COPIES * params + batch + decoded
    if device_type == "gpu":
        return Need(0, unplanned, (activations + batch) // len(contexts) + 2 * params)
    # Every device has the parameters and their gradients.
    fixed = len(contexts) * 2 * params
    states = len(contexts) * (arrays - 1) * params
    # For inference in float32, whatever training runs in.
    scoring = 0
    if validates:
        scoring = planned_bytes(symbol, data_shape, "cpu", "float32", for_training=False)
    again = int(_COMPUTED_AGAIN * activations) if memonger else 0
    peak = activations + fixed + states + again + scoring + unplanned
    return Need(int(_WRITTEN * activations) + fixed, peak)


# Not planned by MXNet, as measured. Bytes that oneDNN and threads take:
_LIBRARIES = 400 << 20
# Copies of the parameters: on the host, while a checkpoint is written and scored, and what the
# allocator keeps of these.
_COPIES = 9
# The share of the plan that is written to, at least.
_WRITTEN = 0.7
# With memonger, the share of the plan that is computed again and not in it.
_COMPUTED_AGAIN = 0.2


def resident() -> int:
    """Return the bytes of this process that are in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


class HostMemory(NamedTuple):
    """Bytes that this process can ever have, and those that are free now."""

    total: int
    free: int


def host_memory(proc: PathLike = "/proc", cgroup: PathLike = "/sys/fs/cgroup") -> HostMemory:
    """Return the memory of the machine with its swap, or that of the process's control group and
    those around it, whichever is less."""
    fields = dict(
        line.split(":") for line in Path(proc, "meminfo").read_text().splitlines() if ":" in line
    )
    kilobytes = {name: int(value.split()[0]) for name, value in fields.items()}
    swap = (kilobytes.get("SwapTotal", 0), kilobytes.get("SwapFree", 0))
    total = (kilobytes["MemTotal"] + swap[0]) << 10
    free = (kilobytes["MemAvailable"] + swap[1]) << 10
    for folder, limit_file, used_file in _groups(proc, cgroup):
        limit, used = _number(folder / limit_file), _number(folder / used_file)
        if limit is not None:
            total = min(total, limit)
            # Cached files are counted as used, and given up when memory is needed.
            cached = re.search(
                r"^(?:total_)?inactive_file (\d+)", _text(folder / "memory.stat"), re.M
            )
            free = min(free, limit - (used or 0) + (int(cached[1]) if cached else 0))
    return HostMemory(total, free)


def _groups(proc: PathLike, cgroup: PathLike) -> Iterator[Tuple[Path, str, str]]:
    """Yield (folder, name of the file with the limit, with the use) of each control group."""
    for line in _text(Path(proc, "self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = Path(cgroup), ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root = Path(cgroup, "memory")
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        # In a container the path is the host's; its own group is then at the root.
        folder = root / path.lstrip("/")
        for each in [folder, *folder.parents]:
            yield (each, *names)
            if each == root:
                break


def _number(path: Path) -> Optional[int]:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None  # "max"


def _text(path: Path) -> str:
    """Return the text of a file, nothing if it can't be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def check(need: Need, total: int, free: int, on_device: Optional[int] = None) -> Optional[str]:
    """Return a line that warns, None if there is nothing to warn of.

    total, free : of `host_memory`. on_device : the smallest free memory of the GPUs.
    Raises ModelError if the system would certainly end the run: if not even what is planned fits
    into all the memory that there is. For the peak no run is refused: it is an estimate, and what
    other processes take comes and goes.
    """
    way_out = "a smaller --batch-size, or --memonger, needs less"
    if need.certain > total:
        raise ModelError(
            f"training needs more than {need.certain >> 20} MB of memory, and there are "
            f"{total >> 20} MB: {way_out}"
        )
    if on_device is not None and need.on_device > on_device:
        raise ModelError(
            f"training needs more than {need.on_device >> 20} MB of memory of each GPU, and "
            f"{on_device >> 20} MB are free: {way_out}"
        )
    if need.peak > free:
        return (
            f"training may run out of memory: it needs about {need.peak >> 20} MB, and "
            f"{free >> 20} MB are free: {way_out}"
        )
    return None
