"""Xception as an MXNet symbol (Chollet, CVPR 2017, figure 5), built from grouped convolutions.

    import symbol_xception
    net = symbol_xception.get_xception_symbol(num_classes=10)

This is the network of the 2017 MXNet script. It differs from the paper in its smaller filter
list, in padded stem convolutions, and in the dropout before the classifier. With
`filter_list=ORIGINAL_FILTERS, padding="keras", bn_eps=1e-3` it is Keras' Xception, and with
`padding="torch", bn_eps=1e-5` that of PyTorch: `legacy_xception` of timm, `xception` of
pretrainedmodels.
"""

import inspect
from typing import Any, NamedTuple, Sequence, Tuple

import mxnet as mx
from mxnet.symbol import Symbol

#: Filters f0..f6 of the 2017 script: the paper's, about halved.
REDUCED_FILTERS = (64, 64, 128, 364, 512, 768, 1024)
#: Filters f0..f6 of the paper (figure 5).
ORIGINAL_FILTERS = (64, 128, 256, 728, 1024, 1536, 2048)

# padding: (pad of the stem's convolutions, max-pooling as TensorFlow's 'same')
_PADDINGS = {"half": (1, False), "keras": (0, True), "torch": (0, False)}


class _Block(NamedTuple):
    """A row of the figure: `builder` names the method of `_Builder` that makes it."""

    name: str
    builder: str
    filters: Tuple[int, ...]
    relu_first: bool = True


def _figure_5(filter_list: Sequence[int]) -> Tuple[_Block, ...]:
    f0, f1, f2, f3, f4, f5, f6 = filter_list
    return (
        _Block("Entry_flow_b1", "convolutions", (f0 // 2, f0)),
        _Block("Entry_flow_b2", "halving_residual", (f1, f1), relu_first=False),
        _Block("Entry_flow_b3", "halving_residual", (f2, f2)),
        _Block("Entry_flow_b4", "halving_residual", (f3, f3)),
        *(_Block(f"Middle_flow_block_{i}", "residual", (f3, f3, f3)) for i in range(8)),
        _Block("Exit_flow_b5", "halving_residual", (f3, f4)),
        _Block("Exit_flow_b6", "separables", (f5, f6)),
    )


def get_xception_symbol(
    num_classes: int = 1000,
    filter_list: Sequence[int] = REDUCED_FILTERS,
    dropout: float = 0.2,
    bn_mom: float = 0.9,
    bn_eps: float = 2e-5,
    workspace: int = 512,
    dtype: str = "float32",
    features: bool = False,
    padding: str = "half",
) -> Symbol:
    """Return Xception as a training symbol or, with `features`, as a feature extractor.

    Inputs: ``data`` (N, 3, H, W), raw pixel values 0..255, any H and W; and, without `features`,
    ``softmax_label`` (N,), class numbers.
    Output: ``softmax_output`` (N, num_classes), probabilities; with `features`,
    ``features_output`` (N, filter_list[6]), the pooled features.

    num_classes : classes of the classifier, 1 or more. Not used with `features`.
    filter_list : f0..f6, all positive, f0 even: the first convolution has f0/2 filters.
    dropout : probability, in [0, 1), that training drops a pooled feature.
    bn_mom, bn_eps : momentum of the moving statistics, in [0, 1), and epsilon of every BatchNorm.
    workspace : scratch memory that a convolution may take on a GPU, MB.
    dtype : ``float32``, or ``float16`` to compute everything before the softmax in half precision.
    features : end at the global pooling: no dropout, classifier and softmax.
    padding : ``half``, half of each kernel on both sides, as in 2017; ``keras``, none in the stem,
        and max-pooling as TensorFlow's 'same'; or ``torch``, none in the stem, the rest as
        ``half``. Same parameters, other outputs. An unpadded stem takes 7x7 pixels at least.

    Raises ValueError, naming the argument and its value.
    """
    filters = tuple(filter_list)
    _check_arguments(
        filters, num_classes, dropout, bn_mom, bn_eps, workspace, dtype, features, padding
    )
    builder = _Builder(bn_mom, bn_eps, workspace, padding)
    x, channels = mx.sym.Variable("data"), 3
    if dtype == "float16":
        x = mx.sym.Cast(x, dtype=dtype, name="data_float16")
    for block in _figure_5(filters):
        x = getattr(builder, block.builder)(x, channels, block)
        channels = block.filters[-1]
    x = mx.sym.Pooling(x, global_pool=True, kernel=(1, 1), pool_type="avg", name="global_pool")
    if features:
        x = mx.sym.Flatten(x, name="features")
        return _to_float32(x, dtype, "features")
    x = mx.sym.Flatten(mx.sym.Dropout(x, p=dropout, name="dropout"), name="flatten")
    x = mx.sym.FullyConnected(x, num_hidden=num_classes, name="fc1")
    return mx.sym.SoftmaxOutput(_to_float32(x, dtype, "fc1"), name="softmax")


def get_symbol(num_classes: int, **kwargs: Any) -> Symbol:
    """Return `get_xception_symbol`, called the way MXNet's image-classification scripts do.

    Those scripts pass every argument of theirs to the network module. The ones that
    `get_xception_symbol` knows are used, and their ``conv_workspace``, as `workspace`; the others
    (``image_shape``, ``num_layers``, ``gpus`` ...) are about other networks or other things.
    """
    known = inspect.signature(get_xception_symbol).parameters
    chosen = {name: value for name, value in kwargs.items() if name in known}
    if "conv_workspace" in kwargs:
        chosen.setdefault("workspace", kwargs["conv_workspace"])
    return get_xception_symbol(num_classes, **chosen)


def _check_arguments(
    filters: Tuple[int, ...],
    num_classes: int,
    dropout: float,
    bn_mom: float,
    bn_eps: float,
    workspace: int,
    dtype: str,
    features: bool,
    padding: str,
) -> None:
    if len(filters) != 7:
        raise ValueError(f"filter_list needs 7 numbers, not {len(filters)}: {list(filters)}")
    if not all(map(_positive_int, filters)) or filters[0] % 2:
        raise ValueError(f"filter_list needs whole numbers > 0, the first even: {list(filters)}")
    if not features and not _positive_int(num_classes):
        raise ValueError(f"num_classes must be a whole number > 0, not {num_classes!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), not {dropout!r}")
    if not 0 <= bn_mom < 1:
        raise ValueError(f"bn_mom must be in [0, 1), not {bn_mom!r}")
    if not bn_eps > 0:
        raise ValueError(f"bn_eps must be > 0, not {bn_eps!r}")
    if not _positive_int(workspace):
        raise ValueError(f"workspace must be a whole number of MB > 0, not {workspace!r}")
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be 'float32' or 'float16', not {dtype!r}")
    if padding not in _PADDINGS:
        raise ValueError(f"padding must be 'half', 'keras' or 'torch', not {padding!r}")


def _positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


class _Builder:
    """The blocks of the figure. Each takes (x, its channels, the block) and returns a symbol."""

    def __init__(self, bn_mom: float, bn_eps: float, workspace: int, padding: str) -> None:
        self.norm = {"fix_gamma": False, "eps": bn_eps, "momentum": bn_mom}
        self.workspace = workspace
        self.stem_pad, self.same_pooling = _PADDINGS[padding]

    def convolutions(self, x: Symbol, channels: int, block: _Block) -> Symbol:
        """3x3 convolutions, the first with stride 2, each with BatchNorm and relu."""
        for i, num_filter in enumerate(block.filters, start=1):
            name = f"{block.name}_conv{i}"
            stride = 2 if i == 1 else 1
            x = _relu(self._conv_norm(x, num_filter, name, 3, stride, self.stem_pad), name)
        return x

    def residual(self, x: Symbol, channels: int, block: _Block) -> Symbol:
        """Separable convolutions, a relu before each, added to what they are computed from."""
        return mx.sym.elemwise_add(
            self._relus_and_separables(x, channels, block), x, name=f"{block.name}_add"
        )

    def halving_residual(self, x: Symbol, channels: int, block: _Block) -> Symbol:
        """The same at half the size: pooled, and added to a 1x1 convolution with stride 2."""
        shortcut = self._conv_norm(x, block.filters[-1], f"{block.name}_conv1", stride=2)
        x = self._max_pool(self._relus_and_separables(x, channels, block), block.name)
        return mx.sym.elemwise_add(x, shortcut, name=f"{block.name}_add")

    def separables(self, x: Symbol, channels: int, block: _Block) -> Symbol:
        """Separable convolutions, a relu after each."""
        for i, num_filter in enumerate(block.filters, start=1):
            name = f"{block.name}_sepconv{i}"
            x = _relu(self._separable(x, channels, num_filter, name), name)
            channels = num_filter
        return x

    def _relus_and_separables(self, x: Symbol, channels: int, block: _Block) -> Symbol:
        for i, num_filter in enumerate(block.filters, start=1):
            name = f"{block.name}_sepconv{i}"
            if i > 1 or block.relu_first:
                x = _relu(x, f"{name}_pre")
            x = self._separable(x, channels, num_filter, name)
            channels = num_filter
        return x

    def _separable(self, x: Symbol, channels: int, num_filter: int, name: str) -> Symbol:
        x = self._conv(x, channels, f"{name}_depthwise_kernel", 3, pad=1, num_group=channels)
        return self._norm(self._conv(x, num_filter, f"{name}_pointwise_kernel_conv2d"), name)

    def _conv_norm(
        self, x: Symbol, num_filter: int, name: str, kernel: int = 1, stride: int = 1, pad: int = 0
    ) -> Symbol:
        return self._norm(self._conv(x, num_filter, f"{name}_conv2d", kernel, stride, pad), name)

    def _conv(
        self,
        x: Symbol,
        num_filter: int,
        name: str,
        kernel: int = 1,
        stride: int = 1,
        pad: int = 0,
        num_group: int = 1,
    ) -> Symbol:
        return mx.sym.Convolution(
            x,
            num_filter=num_filter,
            kernel=(kernel, kernel),
            stride=(stride, stride),
            pad=(pad, pad),
            num_group=num_group,
            no_bias=True,  # BatchNorm would subtract a bias again
            workspace=self.workspace,
            name=name,
        )

    def _norm(self, x: Symbol, name: str) -> Symbol:
        return mx.sym.BatchNorm(x, **self.norm, name=f"{name}_bn")

    def _max_pool(self, x: Symbol, name: str) -> Symbol:
        # Windows of 3 with stride 2 over 6 pixels, and 1 pixel of padding (.) on both sides:
        #
        #   half      . 0 1 2 3 4 5 .        keras          0 1 2 3 4 5 .
        #   torch    |_____|                               |_____|
        #                |_____|                               |_____|
        #                    |_____|                               |_____|
        #
        # TensorFlow's 'same' pads an even size at its end only. In reverse that is MXNet's way:
        #
        #             . 5 4 3 2 1 0 .
        #            |_____|
        #                |_____|
        #                    |_____|
        #
        # An odd size has 1 pixel of padding on both sides in both, and is its own mirror image.
        if self.same_pooling:
            x = _reverse(x, f"{name}_pool_reversed")
        x = mx.sym.Pooling(
            x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max", name=f"{name}_pool"
        )
        return _reverse(x, f"{name}_pool_restored") if self.same_pooling else x


def _relu(x: Symbol, name: str) -> Symbol:
    return mx.sym.Activation(x, act_type="relu", name=f"{name}_relu")


def _reverse(x: Symbol, name: str) -> Symbol:
    """`x` with its rows and columns in reversed order."""
    order = {"begin": (None,) * 4, "end": (None,) * 4, "step": (1, 1, -1, -1)}
    return mx.sym.slice(x, **order, name=name)


def _to_float32(x: Symbol, dtype: str, name: str) -> Symbol:
    return x if dtype == "float32" else mx.sym.Cast(x, dtype="float32", name=f"{name}_float32")
