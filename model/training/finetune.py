"""Fine-tuning: which weights are kept, which are not trained, which learn faster."""

import json
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import mxnet as mx
import numpy as np

from model.network.layers import HEAD
from model.network.loading import Network
from model.network.params import NDArrays, check_params, parameter_shapes

_OF_HEAD = (f"arg:{HEAD}_weight", f"arg:{HEAD}_bias")


class Pretrained(NamedTuple):
    """Parameters to start with, and a line that says what becomes of the classifier."""

    arg_params: NDArrays
    aux_params: NDArrays
    line: str


def starting_params(network: Network, symbol: mx.sym.Symbol, source: str) -> Pretrained:
    """Return the parameters for `symbol` from a trained `network`.

    Its classifier is left out, and so starts at random, if it has another number of classes.
    source : the network's file, for messages. Raises ModelError if another layer differs.
    """
    shapes = parameter_shapes(symbol)
    params: Dict[str, Any] = {f"arg:{name}": a for name, a in network.arg_params.items()}
    params.update({f"aux:{name}": array for name, array in network.aux_params.items()})
    bias = params.get(_OF_HEAD[1])
    (classes,) = shapes[_OF_HEAD[1]]
    if bias is not None and bias.shape == (classes,):
        left_out: Tuple[str, ...] = ()
        line = f"starts from {source}, with its classifier of {classes} classes"
    else:
        left_out = _OF_HEAD
        before = "none" if bias is None else f"one of {bias.shape[0]}"
        line = f"starts from {source}, with a new classifier of {classes} classes: it has {before}"
    check_params({**params, **{name: np.empty(shapes[name]) for name in left_out}}, symbol, source)
    arg_params = {k: v for k, v in network.arg_params.items() if f"arg:{k}" not in left_out}
    return Pretrained(arg_params, network.aux_params, line)


def frozen_params(symbol: mx.sym.Symbol, freeze: str) -> List[str]:
    """Return the names of the arguments that are not to be trained.

    freeze : ``none``; ``entry``: those of the entry flow; ``all-but-head``: all but the
        classifier's.
    """
    if freeze == "none":
        return []
    entries = [entry for entry in parameter_shapes(symbol) if entry not in _OF_HEAD]
    prefix = {"entry": "arg:Entry_flow_", "all-but-head": "arg:"}[freeze]
    return [entry[len("arg:") :] for entry in entries if entry.startswith(prefix)]


def training_symbol(
    symbol: mx.sym.Symbol,
    frozen: Sequence[str],
    head_lr_mult: float,
    label_smoothing: float = 0,
    no_bias_decay: bool = False,
) -> mx.sym.Symbol:
    """Return `symbol` as it is trained: frozen BatchNorms normalise by their moving statistics, and
    do not change these; the classifier's learning rate is multiplied by `head_lr_mult`.

    label_smoothing, no_bias_decay : as for model.training.optimizers.Method.
    """
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        attrs = node.setdefault("attrs", {})
        if node["op"] == "BatchNorm" and f"{node['name']}_gamma" in frozen:
            attrs["use_global_stats"] = "True"
        if f"arg:{node['name']}" in _OF_HEAD and head_lr_mult != 1:
            attrs["__lr_mult__"] = str(head_lr_mult)
        if node["op"] == "SoftmaxOutput" and label_smoothing:
            attrs["smooth_alpha"] = str(label_smoothing)
        if node["op"] == "null" and node["name"].endswith("_gamma") and no_bias_decay:
            attrs["__wd_mult__"] = "0"
    return mx.sym.load_json(json.dumps(graph))
