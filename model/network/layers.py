"""The layers of Xception, by their names here and in Keras."""

import ast
import json
import re
from dataclasses import dataclass

from model import ModelError


@dataclass(frozen=True)
class Layer:
    """A convolution with its BatchNorm.

    name : here, as in ``NAME_bn_gamma``.
    keras_name, keras_norm : of the convolution and of its BatchNorm in Keras.
    separable : a 3x3 depthwise convolution, then a pointwise one; else `kernel` x `kernel`.
    in_channels, num_filter : numbers of channels.
    """

    name: str
    keras_name: str
    keras_norm: str
    separable: bool
    kernel: int
    in_channels: int
    num_filter: int

    @property
    def depthwise(self) -> str:
        return f"{self.name}_depthwise_kernel"

    @property
    def pointwise(self) -> str:
        """The name of the convolution in front of the BatchNorm."""
        return f"{self.name}_pointwise_kernel_conv2d" if self.separable else f"{self.name}_conv2d"


#: The fully connected layer's name here and in Keras.
HEAD, KERAS_HEAD = "fc1", "predictions"
_UNNAMED = re.compile(r"(conv2d|convolution2d|batch_normalization|batchnormalization)(?:_(\d+))?")
_UNNAMED_NOW = {"convolution2d": "conv2d", "batchnormalization": "batch_normalization"}


def layers(filter_list) -> list:
    """Return every `Layer`, in the order in which Keras lists them: shortcuts after the block."""
    f0, f1, f2, f3, f4, f5, f6 = filter_list
    found = []

    def conv(name, keras_name, kernel, in_channels, num_filter, keras_norm=None):
        keras_norm = keras_norm or f"{keras_name}_bn"
        found.append(Layer(name, keras_name, keras_norm, False, kernel, in_channels, num_filter))

    def separables(name, keras_block, in_channels, num_filters):
        for i, num_filter in enumerate(num_filters, start=1):
            keras_name = f"{keras_block}_sepconv{i}"
            found.append(
                Layer(
                    f"{name}_sepconv{i}", keras_name, f"{keras_name}_bn", True, 3, in_channels,
                    num_filter,
                )
            )  # fmt: skip
            in_channels = num_filter

    def downsampling(name, keras_block, in_channels, num_filters, shortcut):
        separables(name, keras_block, in_channels, num_filters)
        # Keras numbers its unnamed layers.
        number = f"_{shortcut}" if shortcut else ""
        conv(
            f"{name}_conv1", f"conv2d{number}", 1, in_channels, num_filters[-1],
            f"batch_normalization{number}",
        )  # fmt: skip

    conv("Entry_flow_b1_conv1", "block1_conv1", 3, 3, f0 // 2)
    conv("Entry_flow_b1_conv2", "block1_conv2", 3, f0 // 2, f0)
    downsampling("Entry_flow_b2", "block2", f0, (f1, f1), 0)
    downsampling("Entry_flow_b3", "block3", f1, (f2, f2), 1)
    downsampling("Entry_flow_b4", "block4", f2, (f3, f3), 2)
    for i in range(8):
        separables(f"Middle_flow_block_{i}", f"block{i + 5}", f3, (f3, f3, f3))
    downsampling("Exit_flow_b5", "block13", f3, (f3, f4), 3)
    separables("Exit_flow_b6", "block14", f4, (f5, f6))
    return found


def shortcut_names(names) -> dict:
    """Return {name: what `layers` has for it} of the shortcuts' layers among Keras' layer `names`.

    These have no name of their own: Keras numbers them, from wherever it stands, and Keras 1 had
    another word for them.
    """
    numbered = {}
    for name in names:
        if match := _UNNAMED.fullmatch(name):
            kind = _UNNAMED_NOW.get(match[1], match[1])
            numbered.setdefault(kind, []).append((int(match[2] or 0), name))
    return {
        name: f"{kind}_{i}" if i else kind
        for kind, those in numbered.items()
        for i, (_, name) in enumerate(sorted(those))
    }


def architecture(symbol) -> dict:
    """Return what `get_xception_symbol` made `symbol` (mx.sym.Symbol) with: filter_list, padding,
    bn_eps, and num_classes, None without a classifier. Raises ModelError where it did not."""
    nodes = {n["name"]: n.get("attrs", {}) for n in json.loads(symbol.tojson())["nodes"]}
    try:
        filter_list = tuple(
            int(nodes[name]["num_filter"])
            for name in (
                "Entry_flow_b1_conv2_conv2d", "Entry_flow_b2_conv1_conv2d",
                "Entry_flow_b3_conv1_conv2d", "Entry_flow_b4_conv1_conv2d",
                "Exit_flow_b5_conv1_conv2d", "Exit_flow_b6_sepconv1_pointwise_kernel_conv2d",
                "Exit_flow_b6_sepconv2_pointwise_kernel_conv2d",
            )
        )  # fmt: skip
        padding = "half"
        if ast.literal_eval(nodes["Entry_flow_b1_conv1_conv2d"]["pad"]) == (0, 0):
            padding = "keras" if "Entry_flow_b2_pool_reversed" in nodes else "torch"
        bn_eps = float(nodes["Entry_flow_b1_conv1_bn"]["eps"])
    except KeyError as error:
        raise ModelError(f"not this script's network: it has no layer {error}") from None
    head = nodes.get(HEAD)
    return {
        "filter_list": filter_list,
        "padding": padding,
        "bn_eps": bn_eps,
        "num_classes": int(head["num_hidden"]) if head else None,
    }
