"""Checkpoints of Xceptions that slice: a convolution of its own for each channel of a depthwise
layer, as MXNet had it before grouped ones were fast.

Two namings are known. The 2017 script's, with biases everywhere::

    Entry_flow_b2_sepconv1_depthwise_kernel_0_weight, ..._pointwise_kernel_conv2d_weight

and that of the older converters from Keras, with Keras' layer names and no biases::

    block2_sepconv1_depthwise_kernel0_weight, block2_sepconv1_pointwise_kernel_weight
"""

import json
import re
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from log.files import PathLike, read_file, read_text
from model import ModelError
from model.checkpoint import ndarray_file
from model.checkpoint.format import Arrays
from model.network.checking import load_symbol
from model.network.layers import HEAD, KERAS_HEAD, Layer, layers, shortcut_names
from model.network.params import check_finite

_2017, _KERAS = "2017", "keras"
_SLICE = re.compile(r"arg:.*_depthwise_kernel(_?)\d+_weight")
_ENTRY = re.compile(r"(arg:|aux:)(.+)(_(?:weight|bias|gamma|beta|moving_mean|moving_var))")


def read(prefix: PathLike, epoch: int) -> Tuple[Arrays, Dict[str, Any], bool]:
    """Return (entries, arguments of get_xception_symbol, whether Keras trained it).

    The entries (``arg:NAME``, ``aux:NAME``) are float32 arrays of the network without slices: the
    kernels joined, and what the biases do taken off the moving means. Reads PREFIX-%04d.params and
    PREFIX-symbol.json. Raises ModelError, naming the first layer that differs.
    """
    path = Path(f"{prefix}-{epoch:04d}.params")
    try:
        arrays = ndarray_file.parse(read_file(path, ModelError))
    except ndarray_file.FormatError as error:
        raise ModelError(f"{path}: {error}") from None
    check_finite(arrays, path)
    naming = _naming(arrays)
    if naming is None:
        raise ModelError(f"{path}: no depthwise layer is split into channels: nothing to convert?")
    if naming == _KERAS:
        arrays = _with_names_of_today(arrays)
    arguments, fixed_gamma = _read_symbol(Path(f"{prefix}-symbol.json"))
    arguments["filter_list"] = _filters(arrays, naming, path)
    params = _joined(arrays, arguments["filter_list"], naming, path)
    if fixed_gamma:
        # MXNet takes every gamma for 1 then, whatever the file says.
        params = {k: np.ones_like(v) if k.endswith("_gamma") else v for k, v in params.items()}
    return params, arguments, naming == _KERAS


def _naming(arrays: Arrays) -> Optional[str]:
    for name in arrays:
        if match := _SLICE.fullmatch(name):
            return _2017 if match[1] else _KERAS
    return None


def _with_names_of_today(arrays: Arrays) -> Arrays:
    """`arrays` with the shortcuts' layers named as `model.network.layers` has them."""
    parts = {entry: match.groups() for entry in arrays if (match := _ENTRY.fullmatch(entry))}
    names = shortcut_names({layer for _, layer, _ in parts.values()})
    renamed = {
        entry: kind + names[layer] + ending
        for entry, (kind, layer, ending) in parts.items()
        if layer in names
    }
    return {renamed.get(entry, entry): array for entry, array in arrays.items()}


def _names(layer: Layer, naming: str) -> Tuple[str, str, str]:
    """(each kernel's name except its number, the convolution before the BatchNorm, that)."""
    if naming == _2017:
        return f"{layer.depthwise}_", layer.pointwise, f"{layer.name}_bn"
    pointwise = "_pointwise_kernel" if layer.separable else ""
    kernels = f"{layer.keras_name}_depthwise_kernel"
    return kernels, layer.keras_name + pointwise, layer.keras_norm


def _filters(arrays: Arrays, naming: str, path: Path) -> Tuple[int, ...]:
    """f0..f6, as the layers' weights have them."""
    by_name = {layer.name: layer for layer in layers((2,) * 7)}
    found = []
    for name in (
        "Entry_flow_b1_conv2", "Entry_flow_b2_conv1", "Entry_flow_b3_conv1", "Entry_flow_b4_conv1",
        "Exit_flow_b5_conv1", "Exit_flow_b6_sepconv1", "Exit_flow_b6_sepconv2",
    ):  # fmt: skip
        weight = f"arg:{_names(by_name[name], naming)[1]}_weight"
        if weight not in arrays:
            raise ModelError(f"{path}: {weight} is missing: not Xception?")
        found.append(arrays[weight].shape[0])
    return tuple(found)


def _joined(arrays: Arrays, filter_list: Sequence[int], naming: str, path: Path) -> Arrays:
    left = dict(arrays)

    def take(entry: str, shape: Tuple[int, ...], optional: bool = False) -> np.ndarray:
        array = left.pop(entry, None)
        if array is None and optional:
            return np.zeros(shape, np.float32)
        if array is None:
            raise ModelError(f"{path}: {entry} is missing")
        if array.shape != shape:
            raise ModelError(f"{path}: {entry} has the shape {array.shape}, Xception's has {shape}")
        return array.astype(np.float32)

    params = {}
    for layer in layers(filter_list):
        kernels, convolution, norm = _names(layer, naming)
        k = 1 if layer.separable else layer.kernel
        shape = (layer.num_filter, layer.in_channels, k, k)
        weight = take(f"arg:{convolution}_weight", shape)
        bias = take(f"arg:{convolution}_bias", shape[:1], optional=True).astype(np.float64)
        params[f"arg:{layer.pointwise}_weight"] = weight
        if layer.separable:
            single = [f"arg:{kernels}{i}" for i in range(layer.in_channels)]
            slices = [take(f"{name}_weight", (1, 1, 3, 3)) for name in single]
            params[f"arg:{layer.depthwise}_weight"] = np.concatenate(slices)
            biases = [take(f"{name}_bias", (1,), optional=True) for name in single]
            # The pointwise weights W make W·b of the depthwise biases b.
            bias += weight[:, :, 0, 0].astype(np.float64) @ np.concatenate(biases)
        for entry in ("arg:{}_gamma", "arg:{}_beta", "aux:{}_moving_mean", "aux:{}_moving_var"):
            params[entry.format(f"{layer.name}_bn")] = take(entry.format(norm), shape[:1])
        mean = f"aux:{layer.name}_bn_moving_mean"
        params[mean] = (params[mean] - bias).astype(np.float32)
    head = KERAS_HEAD if f"arg:{KERAS_HEAD}_bias" in left else HEAD
    if f"arg:{head}_bias" in left:
        num_classes = left[f"arg:{head}_bias"].shape[0]
        params[f"arg:{HEAD}_weight"] = take(f"arg:{head}_weight", (num_classes, filter_list[6]))
        params[f"arg:{HEAD}_bias"] = take(f"arg:{head}_bias", (num_classes,))
    for entry in left:
        raise ModelError(f"{path}: {entry} is not in Xception")
    return params


def _read_symbol(path: Path) -> Tuple[Dict[str, Any], bool]:
    """Return (padding, epsilon and momentum as get_xception_symbol takes them, whether gamma is
    fixed)."""
    symbol = load_symbol(read_text(path, ModelError), path)
    nodes = json.loads(symbol.tojson())["nodes"]
    attributes = {
        op: [node.get("attrs", {}) for node in nodes if node["op"] == op]
        for op in ("Convolution", "BatchNorm")
    }
    # MXNet's defaults, where the file has none.
    norms = {
        (float(a.get("eps", 1e-3)), float(a.get("momentum", 0.9)), a.get("fix_gamma", "True"))
        for a in attributes["BatchNorm"]
    }
    if len(norms) != 1 or not attributes["Convolution"]:
        raise ModelError(f"{path}: {len(norms)} kinds of BatchNorm in it, not one: not Xception?")
    ((bn_eps, bn_mom, fixed),) = norms
    unpadded = attributes["Convolution"][0].get("pad", "(0, 0)") in ("(0, 0)", "(0,0)", "[]", "()")
    padding = "keras" if unpadded else "half"
    return {"padding": padding, "bn_eps": bn_eps, "bn_mom": bn_mom}, fixed in ("True", "1")
