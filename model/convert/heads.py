"""Classifiers of other formats, converted to a softmax."""

from typing import Optional, Tuple

import numpy as np

from model import ModelError

#: What is said where `silent` outputs go through a softmax.
ASSUMED_SOFTMAX = "a softmax (--activation)"


def classifier(
    layer: str,
    weight: np.ndarray,
    bias: np.ndarray,
    stated: Optional[str] = None,
    given: Optional[str] = None,
    silent: bool = False,
) -> Tuple[np.ndarray, np.ndarray]:
    """Return weight (classes, features) and bias (classes,) of the layer before a softmax.

    layer : with its file, for messages. weight, bias : as in the file.
    stated : the activation that the file says, None for none. given : that of --activation.
    silent : whether the file can't say it; several outputs go through a softmax then.
    Raises ModelError where a softmax can't give what the network gives.
    """
    outputs = len(bias)
    if stated and given and stated != given:
        raise ModelError(f"{layer} has the activation {stated}, not {given}")
    chosen = stated or given or ("softmax" if silent and outputs > 1 else None)
    if chosen is None and silent:
        raise ModelError(
            f"{layer} has one output, which can't be a softmax: if it is a sigmoid, give "
            "--activation sigmoid"
        )
    if chosen is None:
        raise ModelError(
            f"{layer} is linear, and no loss says what its outputs ({outputs}) mean: if they are "
            "logits, --activation softmax or sigmoid"
        )
    if chosen == "softmax" and outputs == 1:
        raise ModelError(f"{layer} is a softmax of one output, which is always 1")
    if chosen == "sigmoid" and outputs > 1:
        raise ModelError(
            f"{layer} has {outputs} sigmoids, one for each of several labels of an image: this "
            "network has a softmax"
        )
    if chosen not in ("softmax", "sigmoid"):
        raise ModelError(f"{layer} has the activation {chosen}: this network has a softmax")
    if chosen == "sigmoid":
        # A sigmoid of z is the second of the softmax of (0, z).
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    return np.ascontiguousarray(weight, np.float32), np.ascontiguousarray(bias, np.float32)
