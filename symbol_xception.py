"""Xception as an MXNet symbol (Chollet, CVPR 2017, figure 5), built from grouped convolutions.

    import symbol_xception
    net = symbol_xception.get_xception_symbol(num_classes=10)

This is the network of the 2017 MXNet script. It differs from the paper in its smaller filter
list, in padded stem convolutions, and in the dropout before the classifier. With
`filter_list=ORIGINAL_FILTERS, padding="keras", bn_eps=1e-3` it is Keras' Xception.
"""

import mxnet as mx

#: Filters f0..f6 of the 2017 script: the paper's, about halved.
REDUCED_FILTERS = (64, 64, 128, 364, 512, 768, 1024)
#: Filters f0..f6 of the paper (figure 5).
ORIGINAL_FILTERS = (64, 128, 256, 728, 1024, 1536, 2048)


def get_xception_symbol(
    num_classes: int = 1000,
    filter_list=REDUCED_FILTERS,
    dropout: float = 0.2,
    bn_mom: float = 0.9,
    bn_eps: float = 2e-5,
    workspace: int = 512,
    dtype: str = "float32",
    features: bool = False,
    padding: str = "half",
) -> mx.sym.Symbol:
    """Return Xception as a training symbol or, with `features`, as a feature extractor.

    Inputs: ``data`` (N, 3, H, W), raw pixel values 0..255, any H and W; and, without `features`,
    ``softmax_label`` (N,), class numbers.
    Output: ``softmax_output`` (N, num_classes), probabilities; with `features`,
    ``features_output`` (N, filter_list[6]), the pooled features.

    Parameters
    ----------
    num_classes : int
        Classes of the classifier, from 1 up. Not used with `features`.
    filter_list : sequence of 7 int
        f0..f6, all positive, f0 even: the first convolution has f0/2 filters.
    dropout : float
        Probability, in [0, 1), that training drops a pooled feature.
    bn_mom, bn_eps : float
        Momentum of the moving statistics, in [0, 1), and epsilon of every BatchNorm.
    workspace : int
        Scratch memory that a convolution may take on a GPU, MB.
    dtype : str
        ``float32``, or ``float16`` to compute everything before the softmax in half precision.
    features : bool
        End at the global pooling: no dropout, classifier and softmax.
    padding : str
        ``half``, half of each kernel on both sides, as in 2017; or ``keras``, no padding in the
        stem, and max-pooling as TensorFlow's 'same' does it. Same parameters, other outputs; the
        smallest image is 7x7 pixels then.

    Raises
    ------
    ValueError
        Naming the argument and its value.
    """
    filters = tuple(filter_list)
    if len(filters) != 7:
        raise ValueError(f"filter_list needs 7 numbers, not {len(filters)}: {list(filters)}")
    if not all(_whole_from(1, f) for f in filters) or filters[0] % 2:
        raise ValueError(f"filter_list needs whole numbers > 0, the first even: {list(filters)}")
    if not features and not _whole_from(1, num_classes):
        raise ValueError(f"num_classes must be a whole number > 0, not {num_classes!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), not {dropout!r}")
    if not 0 <= bn_mom < 1:
        raise ValueError(f"bn_mom must be in [0, 1), not {bn_mom!r}")
    if not bn_eps > 0:
        raise ValueError(f"bn_eps must be > 0, not {bn_eps!r}")
    if not _whole_from(1, workspace):
        raise ValueError(f"workspace must be a whole number of MB > 0, not {workspace!r}")
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be 'float32' or 'float16', not {dtype!r}")
    if padding not in ("half", "keras"):
        raise ValueError(f"padding must be 'half' or 'keras', not {padding!r}")

    def conv(x, num_filter, name, kernel=1, stride=1, num_group=1, pad=None):
        pad = kernel // 2 if pad is None else pad
        return mx.sym.Convolution(
            x,
            num_filter=num_filter,
            kernel=(kernel, kernel),
            stride=(stride, stride),
            pad=(pad, pad),
            num_group=num_group,
            no_bias=True,  # the BatchNorm behind would take a bias out again
            workspace=workspace,
            name=name,
        )

    def norm(x, name):
        return mx.sym.BatchNorm(x, fix_gamma=False, eps=bn_eps, momentum=bn_mom, name=f"{name}_bn")

    def relu(x, name):
        return mx.sym.Activation(x, act_type="relu", name=f"{name}_relu")

    def conv_norm(x, num_filter, name, kernel=1, stride=1, pad=None):
        return norm(conv(x, num_filter, f"{name}_conv2d", kernel, stride, pad=pad), name)

    def separable(x, in_channels, num_filter, name):
        x = conv(x, in_channels, f"{name}_depthwise_kernel", kernel=3, num_group=in_channels)
        return norm(conv(x, num_filter, f"{name}_pointwise_kernel_conv2d"), name)

    def backwards(x, name):
        """`x` with its rows and columns in reversed order."""
        order = {"begin": (None,) * 4, "end": (None,) * 4, "step": (1, 1, -1, -1)}
        return mx.sym.slice(x, **order, name=name)

    def max_pool(x, block):
        # Its windows begin one pixel before the image. 'same' ones end one pixel behind it, and so
        # begin, if the size is even, at its first pixel: from the other side they are the same.
        if padding == "keras":
            x = backwards(x, f"{block}_pool_reversed")
        x = mx.sym.Pooling(
            x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max", name=f"{block}_pool"
        )
        return backwards(x, f"{block}_pool_restored") if padding == "keras" else x

    def residual(x, in_channels, num_filters, block, relu_first=True, downsample=False):
        """Separable convolutions with a relu before each, added to a shortcut around them."""
        shortcut = conv_norm(x, num_filters[-1], f"{block}_conv1", stride=2) if downsample else x
        for i, num_filter in enumerate(num_filters, start=1):
            name = f"{block}_sepconv{i}"
            if relu_first or i > 1:
                x = relu(x, f"{name}_pre")
            x = separable(x, in_channels, num_filter, name)
            in_channels = num_filter
        if downsample:
            x = max_pool(x, block)
        return mx.sym.elemwise_add(x, shortcut, name=f"{block}_add")

    f0, f1, f2, f3, f4, f5, f6 = filters
    x = mx.sym.Variable("data")
    if dtype == "float16":
        x = mx.sym.Cast(x, dtype=dtype, name="data_float16")

    stem = {"kernel": 3, "pad": 0 if padding == "keras" else 1}
    x = relu(conv_norm(x, f0 // 2, "Entry_flow_b1_conv1", stride=2, **stem), "Entry_flow_b1_conv1")
    x = relu(conv_norm(x, f0, "Entry_flow_b1_conv2", **stem), "Entry_flow_b1_conv2")
    x = residual(x, f0, (f1, f1), "Entry_flow_b2", relu_first=False, downsample=True)
    x = residual(x, f1, (f2, f2), "Entry_flow_b3", downsample=True)
    x = residual(x, f2, (f3, f3), "Entry_flow_b4", downsample=True)
    for i in range(8):
        x = residual(x, f3, (f3, f3, f3), f"Middle_flow_block_{i}")
    x = residual(x, f3, (f3, f4), "Exit_flow_b5", downsample=True)
    for name, in_channels, num_filter in (("sepconv1", f4, f5), ("sepconv2", f5, f6)):
        name = f"Exit_flow_b6_{name}"
        x = relu(separable(x, in_channels, num_filter, name), name)

    x = mx.sym.Pooling(x, global_pool=True, kernel=(1, 1), pool_type="avg", name="global_pool")
    if features:
        x = mx.sym.Flatten(x, name="features")
        return mx.sym.Cast(x, dtype="float32", name="features_float32") if dtype != "float32" else x
    x = mx.sym.Flatten(mx.sym.Dropout(x, p=dropout, name="dropout"), name="flatten")
    x = mx.sym.FullyConnected(x, num_hidden=num_classes, name="fc1")
    if dtype == "float16":
        x = mx.sym.Cast(x, dtype="float32", name="fc1_float32")
    return mx.sym.SoftmaxOutput(x, name="softmax")


def get_symbol(num_classes: int, **kwargs) -> mx.sym.Symbol:
    """Return `get_xception_symbol`, called the way MXNet's image-classification scripts do.

    Those scripts hand every argument of theirs to the network module. The ones that
    `get_xception_symbol` knows are used, and their ``conv_workspace``, as `workspace`; the others
    (``image_shape``, ``num_layers``, ``gpus`` ...) are about other networks or other things.
    """
    known = (
        "filter_list", "dropout", "bn_mom", "bn_eps", "workspace", "dtype", "features", "padding",
    )  # fmt: skip
    chosen = {name: kwargs[name] for name in known if name in kwargs}
    if "conv_workspace" in kwargs:
        chosen.setdefault("workspace", kwargs["conv_workspace"])
    return get_xception_symbol(num_classes, **chosen)


def _whole_from(least: int, value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
