"""The memory that a training run will need, told before it is used up."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import mxnet as mx

from model import ModelError, mxnet_reason
from model.network.loading import parameter_shapes
from model.network.running import RunningNetwork

# Images that the plan is made for; the memory between the layers grows with their number.
_PLANNED = 4
_FLOAT = 4
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Need:
    """Bytes. certain : what MXNet has planned and will write to: less can't be. peak : with what
    comes beside it, as measured. on_device : of one GPU, certain; 0 on CPUs."""

    certain: int
    peak: int
    on_device: int = 0


def needed(
    symbol: mx.sym.Symbol,
    contexts: list,
    data_shape: tuple,
    dtype: str,
    arrays: int = 2,
    memonger: bool = False,
    validates: bool = True,
) -> Need:
    """Return what training `symbol`, the network as it is saved, will need.

    data_shape : (N, 3, H, W), over all contexts. dtype, memonger : as for `RunningNetwork`.
    arrays : of each parameter's size that a checkpoint has: itself, the optimizer's, averages.
    validates : a network for inference is there beside it after each epoch.
    """
    device_type = contexts[0].device_type
    activations = _planned(symbol, data_shape, device_type, dtype, memonger, True)
    params = _FLOAT * sum(map(math.prod, parameter_shapes(symbol).values()))
    # With the gradients, of every device.
    state = (1 + arrays) * params
    batch = _FLOAT * math.prod(data_shape)
    beside = resident() + _BESIDE + _COPIES * params + _BATCHES * batch
    if device_type == "gpu":
        share = len(contexts)
        return Need(0, beside, (activations + batch) // share + 2 * params)
    certain = activations + len(contexts) * 2 * params
    # For inference in float32, whatever training runs in.
    scoring = _planned(symbol, data_shape, "cpu", "float32", False, False) if validates else 0
    again = int(_AGAIN * activations) if memonger else 0
    return Need(certain, activations + len(contexts) * state + again + scoring + beside)


# Beside what is planned, as measured: what decoding, oneDNN and the threads take, bytes; copies of
# the parameters, for the host and while a checkpoint is written and scored, and what the allocator
# keeps of them; batches of images that are there at a time; and a share of the plan with memonger,
# which does not have all that is computed again.
_BESIDE = 400 << 20
_COPIES = 9
_BATCHES = 1
_AGAIN = 0.2


def _planned(symbol, data_shape, device_type, dtype, memonger, for_training) -> int:
    """Bytes that MXNet plans for what is between the layers.

    Bound to the CPU, whatever runs it: nothing is written to, so no page of it is taken.
    """
    network = RunningNetwork(symbol, device_type, dtype, for_training, memonger).symbol
    images = min(_PLANNED, data_shape[0])
    inputs = {"data": (images, *data_shape[1:]), "softmax_label": (images,)}
    gradients = {
        name: "write" if for_training and name not in inputs else "null"
        for name in network.list_arguments()
    }
    try:
        executor = network.simple_bind(mx.cpu(), grad_req=gradients, **inputs)
    except mx.base.MXNetError as error:
        raise ModelError(f"{images} images of {data_shape[1:]}: {mxnet_reason(error)}") from None
    planned = int(re.search(r"Total (\d+) MB allocated", executor.debug_str())[1]) << 20
    return planned * data_shape[0] // images


def resident() -> int:
    """Bytes of this process that are in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def host_memory(proc="/proc", cgroup="/sys/fs/cgroup") -> tuple:
    """Return (bytes that this process can ever have, bytes that are free now): of the machine with
    its swap, or of its control group and those around it, whichever is less."""
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
    return total, free


def _groups(proc, cgroup):
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


def _number(path) -> Optional[int]:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None  # "max"


def _text(path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def check(need: Need, total: int, free: int, on_device: Optional[int] = None) -> Optional[str]:
    """Return a line that warns, None where there is nothing to warn of.

    total, free : of `host_memory`. on_device : the smallest free memory of the GPUs.
    Raises ModelError where the run would be ended by the system for certain: where not even what is
    planned fits into all the memory that there is. The peak is an estimate, and other processes
    come and go: a run is not refused for these.
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
