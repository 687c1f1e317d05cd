"""BatchNorms of another epsilon."""

from typing import Dict

import numpy as np


def with_epsilon(
    params: Dict[str, np.ndarray], epsilon: float, wanted: float
) -> Dict[str, np.ndarray]:
    """Return `params` (entry -> array) with which BatchNorms of the epsilon `wanted` compute what
    they do with `epsilon` now, in inference: gamma / sqrt(variance + epsilon) stays."""
    if epsilon == wanted:
        return params
    changed = dict(params)
    for entry, gamma in params.items():
        if entry.endswith("_gamma"):
            name = entry[len("arg:") : -len("_gamma")]
            variance = params[f"aux:{name}_moving_var"].astype(np.float64)
            changed[entry] = gamma * np.sqrt((variance + wanted) / (variance + epsilon))
            changed[entry] = changed[entry].astype(gamma.dtype)
    return changed
