"""A safetensors file of PyTorch's Xception, written."""

from typing import Dict

import numpy as np

from model.convert.torch.layers import HEAD, norms, torch_entries
from model.convert.torch.safetensors import dump as dump_arrays
from model.network import layers


def dump(params: Dict[str, np.ndarray]) -> bytes:
    """Return the file, with the classifier if there is one in `params` (entry -> array)."""
    arrays = {name: params[entry] for name, (entry, _) in torch_entries().items()}
    if f"arg:{layers.HEAD}_bias" in params:
        for kind in ("weight", "bias"):
            arrays[f"{HEAD}.{kind}"] = params[f"arg:{layers.HEAD}_{kind}"]
    arrays = {name: np.ascontiguousarray(array, "<f4") for name, array in arrays.items()}
    for name in norms():
        arrays[f"{name}.num_batches_tracked"] = np.zeros((), "<i8")
    return dump_arrays(arrays, {"format": "pt"})
