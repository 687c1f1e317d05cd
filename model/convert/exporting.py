"""Writing a checkpoint to a file of another format."""

from pathlib import Path
from typing import Any, Dict

import numpy as np

from log.files import part_of, write_whole
from model import ModelError
from model.convert.norms import with_epsilon
from model.network.layers import architecture, is_xception
from model.network.loading import Network
from model.network.params import numpy_params


def params_for(
    network: Network, arguments: Dict[str, Any], prefix: str, whose: str
) -> Dict[str, np.ndarray]:
    """Return the entries of `network` for one that get_xception_symbol makes with `arguments`.

    prefix, whose : of the checkpoint, and "Keras'", for the ModelError that is raised if its
    filters or its padding differ.
    """
    made = architecture(network.symbol)
    if not is_xception(network.symbol):
        raise ModelError(f"{prefix}: not {whose} network: it has other layers")
    for key, value in arguments.items():
        if made[key] != value and key != "bn_eps":
            raise ModelError(
                f"{prefix}: not {whose} network: its {key} is {made[key]}, {whose} is {value}"
            )
    params = numpy_params(network.arg_params, network.aux_params)
    return with_epsilon(params, made["bn_eps"], arguments["bn_eps"])


def expected_pixels(network: Network, largest: float) -> str:
    """Return in words how images are normalised for `network`, of pixels from 0 to `largest`."""
    if not network.says_preprocessing:
        return "the checkpoint does not say how its images are normalised"
    mean, std = (
        ",".join(f"{x * largest / 255:.4g}" for x in each) for each in (network.mean, network.std)
    )
    return f"mean {mean}, std {std} of pixels from 0 to {largest:g}"


def write_file(path: Path, content: bytes) -> None:
    """Write a file, and the folders it is in, whole or not at all. Raises ModelError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        part_of(path).unlink(missing_ok=True)
        raise ModelError(f"{path}: {error.strerror}") from None
