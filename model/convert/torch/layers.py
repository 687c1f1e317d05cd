"""The layers of PyTorch's Xception, and the entries of a checkpoint that hold their arrays."""

from typing import Dict, List, Tuple

from model.network.layers import Layer, layers
from symbol_xception import ORIGINAL_FILTERS

#: The arguments of get_xception_symbol that make it PyTorch's Xception.
SYMBOL_ARGUMENTS = {"filter_list": ORIGINAL_FILTERS, "padding": "torch", "bn_eps": 1e-5}
#: The classifier, in timm.
HEAD = "fc"

_OUTSIDE_BLOCKS = {
    "block1_conv1": ("conv1", "bn1"),
    "block1_conv2": ("conv2", "bn2"),
    "block14_sepconv1": ("conv3", "bn3"),
    "block14_sepconv2": ("conv4", "bn4"),
}
_NORM = {
    "weight": "arg:{}_bn_gamma",
    "bias": "arg:{}_bn_beta",
    "running_mean": "aux:{}_bn_moving_mean",
    "running_var": "aux:{}_bn_moving_var",
}


def norms() -> List[str]:
    """Return the names of the BatchNorms in PyTorch."""
    return [_names(layer)[1] for layer in layers(ORIGINAL_FILTERS)]


def torch_entries() -> Dict[str, Tuple[str, Tuple[int, ...]]]:
    """Return name in PyTorch -> (entry of a checkpoint, shape), without the classifier."""
    found: Dict[str, Tuple[str, Tuple[int, ...]]] = {}
    for layer in layers(ORIGINAL_FILTERS):
        name, norm = _names(layer)
        c_in, c_out, k = layer.in_channels, layer.num_filter, layer.kernel
        if layer.separable:
            found[f"{name}.conv1.weight"] = f"arg:{layer.depthwise}_weight", (c_in, 1, 3, 3)
            name, k = f"{name}.pointwise", 1
        found[f"{name}.weight"] = f"arg:{layer.pointwise}_weight", (c_out, c_in, k, k)
        for array, entry in _NORM.items():
            found[f"{norm}.{array}"] = entry.format(layer.name), (c_out,)
    return found


def _names(layer: Layer) -> Tuple[str, str]:
    """Return the names of a convolution and of its BatchNorm.

    A block's are numbered with the activations before them; only the first block begins with a
    convolution. Keras counts the stem as a block, PyTorch does not.
    """
    if layer.keras_name in _OUTSIDE_BLOCKS:
        return _OUTSIDE_BLOCKS[layer.keras_name]
    block = next(
        number for number, name in enumerate(_BLOCKS, start=1) if layer.name.startswith(f"{name}_")
    )
    if not layer.separable:
        return f"block{block}.skip", f"block{block}.skipbn"
    number = 3 * (int(layer.name[-1]) - 1) + (block > 1)
    return f"block{block}.rep.{number}", f"block{block}.rep.{number + 1}"


_BLOCKS = (
    "Entry_flow_b2", "Entry_flow_b3", "Entry_flow_b4",
    *(f"Middle_flow_block_{i}" for i in range(8)), "Exit_flow_b5",
)  # fmt: skip
