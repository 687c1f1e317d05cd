"""What a machine is, and what MXNet has loaded there. No paths: a report is made to be shown."""

import ctypes
import os
import re
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Tuple

import mxnet as mx

from log.machine import machine
from log.versions import versions
from model.devices import cuda_of_driver, gpus

#: Variables that change what is computed, how fast, or what is seen of a machine.
_VARIABLES = re.compile(
    r"(MXNET|CUDA|NVIDIA|NCCL|CUDNN|OMP|KMP|MKL|DNNL|ONEDNN|OPENBLAS|DMLC|PS)_\w+|LD_LIBRARY_PATH"
)
#: Whose values are paths, or secrets in other people's set-ups: said to be set, and no more.
_HIDDEN = re.compile(r".*(PATH|HOME|DIR|FILE|KEY|TOKEN|URI|ROOT).*")
#: A library's name -> the function that gives its version, and how that is written.
_LIBRARIES: Tuple[Tuple[str, str, str], ...] = (
    ("libcudart", "cudaRuntimeGetVersion", "cuda"),
    ("libcudnn.so", "cudnnGetVersion", "cudnn"),
    ("libnccl", "ncclGetVersion", "nccl"),
    ("libcublas.so", "cublasGetProperty", "properties"),
    ("libnvrtc.so", "nvrtcVersion", "pair"),
)


def describe(environment: Mapping[str, str]) -> List[Tuple[str, str]]:
    """Return (name, text) of each line about the machine. environment : what the user has set."""
    here, installed = machine(), versions()
    added = {name: value for name, value in os.environ.items() if name not in environment}
    software = ", ".join(
        f"{name} {version}" for name, version in installed.items() if name != "commit"
    )
    lines = [
        (
            "machine",
            f"{here['cpu']}, cores: {here['cores']}, {here['memory_mb']} MB, {here['system']}",
        )
    ]
    lines += gpu_lines()
    driver = driver_version()
    if driver:
        lines.append(("driver", driver))
    lines += [
        ("software", software),
        ("mxnet has", ", ".join(features())),
        ("loaded", ", ".join(loaded()) or "no CUDA library"),
        ("variables", ", ".join(variables(environment)) or "none that matter"),
        ("set here", ", ".join(variables(added)) or "none"),
    ]
    return lines


def features() -> List[str]:
    """Return the features of this build of MXNet that matter here."""
    wanted = ("CUDA", "CUDNN", "NCCL", "TENSORRT", "MKLDNN", "OPENMP", "OPENCV", "DIST_KVSTORE")
    found = mx.runtime.Features()
    return [name for name in wanted if name in found and found.is_enabled(name)]


def gpu_lines() -> List[Tuple[str, str]]:
    """Return a line for each GPU that the driver shows: name, compute capability, memory."""
    lines = []
    driver = _library("libcuda.so.1")
    for number, (major, minor) in enumerate(gpus()):
        text = f"compute capability {major}.{minor}"
        if driver:
            name, total, device = ctypes.create_string_buffer(100), ctypes.c_size_t(), _int()
            driver.cuDeviceGet(ctypes.byref(device), number)
            if not driver.cuDeviceGetName(name, len(name), device):
                text = f"{name.value.decode(errors='replace')}, {text}"
            if not driver.cuDeviceTotalMem_v2(ctypes.byref(total), device):
                text += f", {total.value >> 20} MB"
        lines.append((f"gpu({number})", text))
    return lines


def driver_version(proc: str = "/proc/driver/nvidia/version") -> Optional[str]:
    """Return the driver's version and the newest CUDA that it runs; None without a driver."""
    if _library("libcuda.so.1") is None:
        return None
    texts = []
    try:
        own = re.search(r"Module[^\d]*(\d+\.[\d.]+)", Path(proc).read_text())
        texts += [own[1]] if own else []
    except OSError:
        pass
    if cuda_of_driver():
        texts.append(f"for CUDA {_of_thousands(cuda_of_driver())}")
    return ", ".join(texts) or "of unknown version"


def loaded(maps: str = "/proc/self/maps") -> List[str]:
    """Return the CUDA libraries that this process has loaded, with their versions."""
    paths = re.findall(r"(/\S+/lib(?:cu|nv|nccl)[\w-]*\.so[.\d]*)\n", Path(maps).read_text())
    found = []
    for path in sorted(dict.fromkeys(paths)):
        name = Path(path).name
        version = _version(path, name)
        found.append(f"{name} {version}" if version else name)
    return found


def variables(environment: Mapping[str, str]) -> List[str]:
    """Return NAME=value of what is set of the variables that matter."""
    return [
        f"{name}=(set)" if _HIDDEN.fullmatch(name) else f"{name}={value}"
        for name, value in sorted(environment.items())
        if _VARIABLES.fullmatch(name)
    ]


def _version(path: str, name: str) -> Optional[str]:
    for start, function, form in _LIBRARIES:
        if name.startswith(start):
            try:
                return _FORMS[form](getattr(ctypes.CDLL(path), function))
            except (OSError, AttributeError):
                return None
    return None


def _cuda_form(function: Callable[..., int]) -> Optional[str]:
    value = _int()
    return None if function(ctypes.byref(value)) else _of_thousands(value.value)


def _cudnn_form(function: Callable[..., int]) -> Optional[str]:
    value = function()
    return f"{value // 1000}.{value % 1000 // 100}.{value % 100}"


def _nccl_form(function: Callable[..., int]) -> Optional[str]:
    value = _int()
    if function(ctypes.byref(value)):
        return None
    number = value.value  # 2.9 and later have two digits for the second
    major, rest = divmod(number, 10_000) if number >= 20_000 else divmod(number, 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


def _properties_form(function: Callable[..., int]) -> Optional[str]:
    numbers = []
    for which in range(3):  # MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL
        value = _int()
        if function(which, ctypes.byref(value)):
            return None
        numbers.append(str(value.value))
    return ".".join(numbers)


def _pair_form(function: Callable[..., int]) -> Optional[str]:
    major, minor = _int(), _int()
    if function(ctypes.byref(major), ctypes.byref(minor)):
        return None
    return f"{major.value}.{minor.value}"


_FORMS: Dict[str, Callable[[Callable[..., int]], Optional[str]]] = {
    "cuda": _cuda_form,
    "cudnn": _cudnn_form,
    "nccl": _nccl_form,
    "properties": _properties_form,
    "pair": _pair_form,
}


def _of_thousands(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _int() -> ctypes.c_int:
    return ctypes.c_int()


def _library(name: str) -> Optional[ctypes.CDLL]:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None
