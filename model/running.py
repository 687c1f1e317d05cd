"""From the network as it is saved to the network as it runs.

The saved network is the portable one. Nothing outside this file knows that another one may run.
"""

import json

import mxnet as mx

# Results that memonger keeps: the blocks' outputs and the head. The rest is computed again in the
# backward pass. Dropout is among the kept ones because it would draw another mask.
_KEPT = {"null", "elemwise_add", "Dropout", "FullyConnected", "SoftmaxOutput"}


def running_symbol(symbol: mx.sym.Symbol, memonger: bool = False) -> mx.sym.Symbol:
    """Return the symbol to bind for training, of the same function, arguments and outputs.

    memonger : keep only the blocks' outputs from the forward for the backward pass, and compute
        what is between them a second time (Chen et al. 2016, "Training deep nets with sublinear
        memory cost"), through MXNet's `force_mirroring` attribute. Same bits, less memory.
    """
    if not memonger:
        return symbol
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        if node["op"] not in _KEPT:
            node.setdefault("attrs", {})["__force_mirroring__"] = "True"
    return mx.sym.load_json(json.dumps(graph))
