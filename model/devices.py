"""What a network runs on: CPU threads and GPUs, looked at before MXNet is loaded.

    python -m model.devices

makes the libraries that MXNet needs and that come in other wheels (CUDA's) known to it.
"""

import ctypes
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any, List, Sequence, Tuple

from log import NO_PACKAGES
from log.command import command
from log.machine import usable_cores
from model import ModelError

#: Compute capabilities that the mxnet-cu112 wheels hold machine code for run on every GPU of the
#: same generation and a later step of it: 5.0, 6.0, 7.0, 8.0 and 8.6, and so up to 8.9.
SUPPORTED_GENERATIONS = (5, 6, 7, 8)

# The CUDA release of NVRTC in requirements.txt, as the driver writes it.
_CUDA_OF_NVRTC = 11080

# Libraries that MXNet's wheel takes from the system, a stock Debian does not have, and other wheels
# bring for themselves.
_OF_OTHER_WHEELS = {
    "libgomp.so.1": "scikit_learn.libs/libgomp*",
    "libquadmath.so.0": "numpy.libs/libquadmath*",
}

# cuda.h: CUdevice_attribute.
_COMPUTE_CAPABILITY = (75, 76)


def prepare_environment(contexts: int = 1, only_reads: bool = False) -> None:
    """Set what MXNet reads from the environment when it is loaded, unless the user has set it.

    contexts : CPU contexts that compute at the same time, each with a team of threads of its own.
    only_reads : images are read, and no network is computed.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // contexts)))
    cuda = cuda_of_driver()
    # Threads that spin between operators, instead of sleeping, train faster, unless they take the
    # time of others that work: those that decode, those that feed GPUs, the servers and workers of
    # a job.
    if not cuda and "DMLC_ROLE" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive" if only_reads else "active")
    # Says nothing but that oneDNN is in use.
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")
    # On GPUs. MXNet 1.9.1 measures which of cuDNN's algorithms is fastest, with 1 and with 2. It is
    # with 2 that it keeps to a convolution's `workspace`, whatever its documentation says
    # (AlgoFinalSelect in src/operator/nn/cudnn/cudnn_convolution-inl.h).
    os.environ.setdefault("MXNET_CUDNN_AUTOTUNE_DEFAULT", "2")
    # The generators that each seed sets, one after the other: a network has one dropout
    # (src/resource.cc).
    os.environ.setdefault("MXNET_GPU_PARALLEL_RAND_COPY", "1")
    # MXNet fuses operators with NVRTC, and has the driver compile the PTX that this gives
    # (src/operator/fusion/fused_op.cu): an older driver refuses that of a newer CUDA.
    if 0 < cuda < _CUDA_OF_NVRTC:
        os.environ.setdefault("MXNET_USE_FUSION", "0")


def has_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Return whether the CPU has instructions for bfloat16 (AVX512_BF16 or AMX)."""
    flags = Path(cpuinfo).read_text().split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def check_bfloat16(dtype: str) -> None:
    """Raise ModelError if `dtype` is bfloat16 and the CPU has no instructions for it."""
    if dtype == "bfloat16" and not has_bfloat16():
        raise ModelError("--dtype bfloat16: this CPU has no instructions for it")


def gpus() -> List[Tuple[int, int]]:
    """Return the compute capability, (major, minor), of each GPU that the driver shows."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, device, value = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    found = []
    for i in range(count.value):
        driver.cuDeviceGet(ctypes.byref(device), i)
        capability = []
        for attribute in _COMPUTE_CAPABILITY:
            driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            capability.append(value.value)
        major, minor = capability
        found.append((major, minor))
    return found


def cuda_of_driver() -> int:
    """Return the newest CUDA that the driver is made for, as 11080 for 11.8; 0 without a driver."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return 0
    return 0 if failed else version.value


def has_cuda() -> bool:
    """Return whether MXNet, which this loads, is built for GPUs."""
    import mxnet

    return mxnet.runtime.Features().is_enabled("CUDA")


def check_gpus(wanted: Sequence[int], found: Sequence[Tuple[int, int]]) -> None:
    """Raise ModelError if a GPU of `wanted` (ids) is not in `found` (capabilities), or is too new
    or too old for MXNet, or if MXNet is built without CUDA."""
    for i in wanted:
        if i >= len(found):
            there = f"{len(found)}, numbered from 0" if found else "none (is the driver loaded?)"
            raise ModelError(
                f"GPU {i} does not exist; GPUs of this machine: {there}; --gpus= for the CPU"
            )
        major, minor = found[i]
        if major not in SUPPORTED_GENERATIONS:
            raise ModelError(
                f"GPU {i} has compute capability {major}.{minor}; mxnet-cu112 has code for "
                "5.0 to 8.9 (Maxwell to Ada) only: use another GPU, or --gpus= for the CPU"
            )
    if wanted and not has_cuda():
        raise ModelError(
            f"GPU {wanted[0]}: this mxnet is built without CUDA: install requirements.txt"
        )


def import_mxnet(contexts: int = 1, only_reads: bool = False) -> Any:
    """Import mxnet, or raise ModelError with what is missing and the way to get it. The arguments
    are those of `prepare_environment`."""
    prepare_environment(contexts, only_reads)
    try:
        import mxnet
    except (ImportError, OSError, AttributeError) as error:
        raise ModelError(f"mxnet can't be loaded: {_way_out(error)}") from None
    return mxnet


def _way_out(error: Exception) -> str:
    reason = str(error).splitlines()[0]
    if "libcuda.so.1" in reason:
        return f"{reason}: no NVIDIA driver here; install requirements-cpu.txt instead"
    if isinstance(error, OSError):
        return f"{reason}: run python -m model.devices, or ./run.sh setup"
    if isinstance(error, AttributeError):
        return f"{reason}: MXNet 1.9.1 needs numpy<1.24; install requirements-cpu.txt"
    return f"{reason}: {NO_PACKAGES}"


def folder_of_mxnet() -> Path:
    """Return the folder of the mxnet package, without importing it. Raises ModelError if it is not
    installed."""
    spec = importlib.util.find_spec("mxnet")
    if spec is None or spec.origin is None:
        raise ModelError(f"mxnet is not installed: {NO_PACKAGES}")
    return Path(spec.origin).parent


def link_libraries() -> List[str]:
    """Link libraries of other wheels next to libmxnet.so; return their names.

    These are the CUDA libraries of the nvidia-*-cu11 wheels and, if the system has no OpenMP or
    quad-precision runtime, those of scikit-learn and numpy. libmxnet.so looks into its own folder
    first (its RPATH is $ORIGIN), so that `import mxnet` finds them in any script, without
    LD_LIBRARY_PATH. mxnet is not imported. Raises ModelError if it is not installed.
    """
    target = folder_of_mxnet()
    libraries = {path.name: path for path in sorted(target.parent.glob("nvidia/*/lib/*.so.*"))}
    for name, bundled in _OF_OTHER_WHEELS.items():
        try:
            ctypes.CDLL(name)
        except OSError:
            libraries.update((name, path) for path in target.parent.glob(bundled))
    for name, library in libraries.items():
        link = target / name
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(library, target))
    return list(libraries)


def main() -> int:
    with command("model.devices", writes_files=True) as outcome:
        print(f"{len(link_libraries())} libraries linked next to libmxnet.so")
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
