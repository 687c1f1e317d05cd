"""The layers of Keras' Xception: their arrays, and a checkpoint's entries that hold these."""

from dataclasses import dataclass
from typing import List, Optional, Tuple

from model.network.layers import HEAD, KERAS_HEAD, layers
from symbol_xception import ORIGINAL_FILTERS

#: The arguments of get_xception_symbol that make it Keras' Xception.
SYMBOL_ARGUMENTS = {"filter_list": ORIGINAL_FILTERS, "padding": "keras", "bn_eps": 1e-3}


@dataclass(frozen=True)
class Variable:
    """An array of a layer: its name and shape in Keras; its entry here, whose axes are Keras' in
    the order `axes`."""

    name: str
    shape: Tuple[int, ...]
    entry: str
    axes: Tuple[int, ...]


def keras_layers(num_classes: Optional[int] = None) -> List[Tuple[str, str, List[Variable]]]:
    """Return [(layer name, class name, [Variable])] of Xception in Keras' order, with a classifier
    of `num_classes` if that is given."""
    image_axes = (3, 2, 0, 1)
    found = []
    for layer in layers(ORIGINAL_FILTERS):
        c_in, c_out = layer.in_channels, layer.num_filter
        weight = f"arg:{layer.pointwise}_weight"
        if layer.separable:
            shape, depthwise = (3, 3, c_in, 1), f"arg:{layer.depthwise}_weight"
            kernels = [
                Variable("depthwise_kernel", shape, depthwise, (2, 3, 0, 1)),
                Variable("pointwise_kernel", (1, 1, c_in, c_out), weight, image_axes),
            ]
            found.append((layer.keras_name, "separable_conv2d", kernels))
        else:
            shape = (layer.kernel, layer.kernel, c_in, c_out)
            kernels = [Variable("kernel", shape, weight, image_axes)]
            found.append((layer.keras_name, "conv2d", kernels))
        norm = [
            Variable(name, (c_out,), f"{entry[:4]}{layer.name}_bn_{entry[4:]}", (0,))
            for name, entry in (
                ("gamma", "arg:gamma"),
                ("beta", "arg:beta"),
                ("moving_mean", "aux:moving_mean"),
                ("moving_variance", "aux:moving_var"),
            )
        ]
        found.append((layer.keras_norm, "batch_normalization", norm))
    if num_classes:
        head = [
            Variable("kernel", (ORIGINAL_FILTERS[6], num_classes), f"arg:{HEAD}_weight", (1, 0)),
            Variable("bias", (num_classes,), f"arg:{HEAD}_bias", (0,)),
        ]
        found.append((KERAS_HEAD, "dense", head))
    return found
