"""The network as the 2017 script built it, and what its parameters are in today's."""

import mxnet as mx
import numpy as np


def layers(filters):
    """The 2017 script's layers before the classifier: (kind, name, in, out channels)."""
    f0, f1, f2, f3, f4, f5, f6 = filters
    table = [
        ("conv3", "Entry_flow_b1_conv1", 3, f0 // 2),
        ("conv3", "Entry_flow_b1_conv2", f0 // 2, f0),
    ]
    for block, first, middle, last in (
        ("Entry_flow_b2", f0, f1, f1),
        ("Entry_flow_b3", f1, f2, f2),
        ("Entry_flow_b4", f2, f3, f3),
        ("Exit_flow_b5", f3, f3, f4),
    ):
        table += [
            ("conv1", f"{block}_conv1", first, last),
            ("sep", f"{block}_sepconv1", first, middle),
            ("sep", f"{block}_sepconv2", middle, last),
        ]
    for i in range(8):
        table += [("sep", f"Middle_flow_block_{i}_sepconv{j}", f3, f3) for j in (1, 2, 3)]
    table += [("sep", "Exit_flow_b6_sepconv1", f4, f5), ("sep", "Exit_flow_b6_sepconv2", f5, f6)]
    return table


def network_of_2017(num_classes, filters, momentum=0.9):
    """The network as the 2017 script built it: a depthwise layer is a slice into single channels,
    a convolution for each, and a concat; every convolution has a bias."""
    f0, f1, f2, f3, f4, f5, f6 = filters

    def bn(x, name):
        return mx.sym.BatchNorm(x, fix_gamma=False, eps=2e-5, momentum=momentum, name=name + "_bn")

    def conv(x, f, k, s, name):
        x = mx.sym.Convolution(
            x,
            num_filter=f,
            kernel=(k, k),
            stride=(s, s),
            pad=(k // 2, k // 2),
            name=name + "_conv2d",
        )
        return bn(x, name)

    def sep(x, c, f, name):
        channels = mx.sym.SliceChannel(x, num_outputs=c, axis=1)
        kernels = [
            mx.sym.Convolution(
                channels[i],
                num_filter=1,
                kernel=(3, 3),
                pad=(1, 1),
                name=f"{name}_depthwise_kernel_{i}",
            )
            for i in range(c)
        ]
        x = mx.sym.Concat(*kernels, dim=1)
        return bn(
            mx.sym.Convolution(
                x, num_filter=f, kernel=(1, 1), name=name + "_pointwise_kernel_conv2d"
            ),
            name,
        )

    def relu(x):
        return mx.sym.Activation(x, act_type="relu")

    def halve(x):
        return mx.sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max")

    x = mx.sym.Variable("data")
    x = relu(conv(x, f0 // 2, 3, 2, "Entry_flow_b1_conv1"))
    x = relu(conv(x, f0, 3, 1, "Entry_flow_b1_conv2"))

    shortcut = conv(x, f1, 1, 2, "Entry_flow_b2_conv1")
    x = sep(x, f0, f1, "Entry_flow_b2_sepconv1")
    x = sep(relu(x), f1, f1, "Entry_flow_b2_sepconv2")
    x = halve(x) + shortcut

    shortcut = conv(x, f2, 1, 2, "Entry_flow_b3_conv1")
    x = sep(relu(x), f1, f2, "Entry_flow_b3_sepconv1")
    x = sep(relu(x), f2, f2, "Entry_flow_b3_sepconv2")
    x = halve(x) + shortcut

    shortcut = conv(x, f3, 1, 2, "Entry_flow_b4_conv1")
    x = sep(relu(x), f2, f3, "Entry_flow_b4_sepconv1")
    x = sep(relu(x), f3, f3, "Entry_flow_b4_sepconv2")
    x = halve(x) + shortcut

    for i in range(8):
        block = x
        x = sep(relu(x), f3, f3, f"Middle_flow_block_{i}_sepconv1")
        x = sep(relu(x), f3, f3, f"Middle_flow_block_{i}_sepconv2")
        x = sep(relu(x), f3, f3, f"Middle_flow_block_{i}_sepconv3")
        x = x + block

    shortcut = conv(x, f4, 1, 2, "Exit_flow_b5_conv1")
    x = sep(relu(x), f3, f3, "Exit_flow_b5_sepconv1")
    x = sep(relu(x), f3, f4, "Exit_flow_b5_sepconv2")
    x = halve(x) + shortcut

    x = relu(sep(x, f4, f5, "Exit_flow_b6_sepconv1"))
    x = relu(sep(x, f5, f6, "Exit_flow_b6_sepconv2"))

    x = mx.sym.Pooling(x, kernel=(1, 1), global_pool=True, pool_type="avg")
    x = mx.sym.Flatten(mx.sym.Dropout(x, p=0.2))
    x = mx.sym.FullyConnected(x, num_hidden=num_classes, name="fc1")
    return mx.sym.SoftmaxOutput(x, name="softmax")


def joined(values, filters):
    """Put the single channels' arrays together, as {name here: array}; leave out biases."""
    values = dict(values)
    for kind, name, c_in, _ in layers(filters):
        if kind == "sep":
            kernels = [values.pop(f"{name}_depthwise_kernel_{i}_weight") for i in range(c_in)]
            values[f"{name}_depthwise_kernel_weight"] = np.concatenate(kernels)
    return {k: v for k, v in values.items() if k == "fc1_bias" or not k.endswith("_bias")}


def folded(values, filters):
    """`joined`, with what the biases do taken off the moving means."""
    here = joined(values, filters)
    for kind, name, c_in, _ in layers(filters):
        part = "pointwise_kernel_conv2d" if kind == "sep" else "conv2d"
        bias = values[f"{name}_{part}_bias"]
        if kind == "sep":
            depthwise = [values[f"{name}_depthwise_kernel_{i}_bias"][0] for i in range(c_in)]
            bias = bias + values[f"{name}_{part}_weight"][:, :, 0, 0].dot(depthwise)
        here[f"{name}_bn_moving_mean"] = here[f"{name}_bn_moving_mean"] - bias
    return here
