"""The devices, data type and memory of a run."""

import os
from typing import Optional, Tuple

import mxnet as mx

from data import DataError
from log.machine import usable_cores
from log.notices import Notices
from model import ModelError, devices
from model.checkpoint import Generation
from model.job.cluster import Cluster
from model.plan import Plan
from model.training import memory
from model.training.benchmark import seconds_per_step

Contexts = Tuple[mx.Context, ...]


def choose_contexts(plan: Plan, notices: Notices) -> Contexts:
    """Return the contexts to train on. Raises ModelError for a GPU that can't be used."""
    found, has_cuda = devices.gpus(), devices.has_cuda()
    wanted = plan.devices.gpus
    if wanted is None and not plan.devices.cpus:
        wanted = (0,) if found and has_cuda else ()
        if not found:
            notices.info("no GPU here: training on the CPU")
        elif not has_cuda:
            notices.info(
                "this mxnet is built without CUDA (requirements.txt has the other one): CPU"
            )
    if wanted:
        devices.check_gpus(wanted, found)
        contexts = tuple(mx.gpu(i) for i in wanted)
    else:
        contexts = tuple(mx.cpu(i) for i in range(plan.devices.cpus or 1))
        _check_threads(len(contexts), notices)
        # NCCL would take the numbers of CPU contexts for those of GPUs.
        if plan.devices.kv_store == "nccl" and len(contexts) > 1:
            raise ModelError("--kv-store nccl: for GPUs only; device and local are for CPUs too")
    if plan.training.batch_size % len(contexts):
        raise DataError(
            f"--batch-size {plan.training.batch_size} can't be divided among {len(contexts)} "
            "devices"
        )
    return contexts


def _check_threads(contexts: int, notices: Notices) -> None:
    """Warn of more threads than cores: in MXNet's BatchNorm, all wait for the last one."""
    threads, cores = os.environ.get("OMP_NUM_THREADS", ""), usable_cores()
    if threads.isdigit() and int(threads) > 1 and int(threads) * contexts > cores:
        each = f" for each of {contexts} devices" if contexts > 1 else ""
        notices.warn(
            f"OMP_NUM_THREADS={threads}{each}, but {cores} usable cores: training will be several "
            "times slower; unset the variable"
        )


def agree_on_dtype(
    plan: Plan,
    contexts: Contexts,
    symbol: mx.sym.Symbol,
    generation: Optional[Generation],
    cluster: Cluster,
    notices: Notices,
) -> str:
    """Return what the network is computed in, the same for all workers."""
    dtype = choose_dtype(plan, contexts, symbol, generation, notices)
    if plan.devices.dtype == "auto" and len(set(cluster.gather(dtype.encode()))) > 1:
        notices.info("--dtype auto: float32, the fastest that all workers support")
        return "float32"
    return dtype


def choose_dtype(
    plan: Plan,
    contexts: Contexts,
    symbol: mx.sym.Symbol,
    generation: Optional[Generation],
    notices: Notices,
) -> str:
    """Return the dtype that this worker uses. Raises ModelError for one that it can't."""
    wanted = plan.devices.dtype
    on_gpu = contexts[0].device_type == "gpu"
    if wanted == "float16":
        if not on_gpu:
            raise ModelError("--dtype float16: MXNet 1.9.1 has it for GPUs only")
        if plan.devices.of_several_workers:
            raise ModelError("--dtype float16: not with --kv-store dist_*: its loss scale is local")
    if wanted == "bfloat16" and on_gpu:
        raise ModelError("--dtype bfloat16: MXNet 1.9.1 has it for CPUs only")
    if wanted == "bfloat16" and not devices.has_bfloat16():
        notices.info("--dtype bfloat16: this CPU has no instructions for it: float32")
        return "float32"
    if wanted != "auto":
        return wanted
    if on_gpu or not devices.has_bfloat16():
        where = "GPUs" if on_gpu else "this CPU"
        notices.info(f"--dtype auto: float32: no bfloat16 on {where}")
        return "float32"
    if generation:
        dtype = generation.run["settings"].get("dtype")
        if dtype in ("float32", "bfloat16"):
            notices.info(f"--dtype auto: {dtype}, as in the checkpoint")
            return dtype
    return _fastest_dtype(plan, contexts, symbol, notices)


def _fastest_dtype(plan: Plan, contexts: Contexts, symbol: mx.sym.Symbol, notices: Notices) -> str:
    # 8 images per device: enough to measure, and quick.
    batch = len(contexts) * min(8, plan.training.batch_size // len(contexts))
    shape = (batch, *plan.data.image_shape)
    memonger = plan.devices.memonger
    speeds = {
        dtype: batch / seconds_per_step(symbol, list(contexts), shape, dtype, memonger)
        for dtype in ("float32", "bfloat16")
    }
    fastest = max(speeds, key=lambda dtype: speeds[dtype])
    measured = ", ".join(f"{dtype} {speed:.1f} images/s" for dtype, speed in speeds.items())
    notices.info(f"--dtype auto: {fastest}: {measured}, at batch {batch}")
    return fastest


def check_memory(
    plan: Plan,
    symbol: mx.sym.Symbol,
    contexts: Contexts,
    dtype: str,
    decoded: int,
    notices: Notices,
) -> None:
    """Say how much memory training needs. Raise ModelError if there is not enough.

    decoded : bytes of the images that the readers hold.
    """
    shape = (plan.training.batch_size, *plan.data.image_shape)
    arrays = plan.method.arrays_in_a_checkpoint()
    need = memory.needed(
        symbol,
        list(contexts),
        shape,
        dtype,
        arrays,
        plan.devices.memonger,
        bool(plan.data.data_val),
        decoded,
    )
    total, free = memory.host_memory()
    on_device, of_gpus = None, ""
    if need.on_device:
        on_device = min(mx.context.gpu_memory_info(gpu.device_id)[0] for gpu in contexts)
        of_gpus = f", and of each GPU {need.on_device >> 20} MB, {on_device >> 20} MB are free"
    warning = memory.check(need, total, free, on_device)
    notices.info(f"needs about {need.peak >> 20} MB of memory, {free >> 20} MB are free{of_gpus}")
    if warning:
        notices.warn(warning)
