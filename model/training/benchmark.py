"""The speed of training on this machine."""

import time
from pathlib import Path
from typing import List, Tuple

import mxnet as mx

from model.training.module import ResumableModule


def seconds_per_step(
    symbol: mx.sym.Symbol,
    contexts: List[mx.Context],
    data_shape: Tuple[int, ...],
    dtype: str,
    memonger: bool = False,
    steps: int = 3,
) -> float:
    """Return the time of the fastest of `steps` training steps, after one to warm up.

    symbol : the network as it is saved, for training. data_shape : (N, 3, H, W).
    dtype, memonger : as for `model.network.running.RunningNetwork`.
    """
    module = ResumableModule(symbol, contexts, dtype, memonger)
    module.bind([("data", data_shape)], [("softmax_label", data_shape[:1])])
    module.init_params(mx.init.Xavier())
    module.init_optimizer(kvstore="device", optimizer="nag", optimizer_params={"momentum": 0.9})
    images = mx.nd.random.uniform(0, 255, data_shape)
    batch = mx.io.DataBatch([images], [mx.nd.zeros(data_shape[:1])])
    batch.seed = 0
    times = []
    for _ in range(1 + steps):
        mx.nd.waitall()
        began = time.perf_counter()
        module.forward_backward(batch)
        module.update()
        mx.nd.waitall()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def peak_megabytes() -> int:
    """Return the most memory that this process has had so far, in MB."""
    # Not getrusage: its figure begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) >> 10
