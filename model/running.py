"""From the network as it is saved to the network as it runs.

The saved network is the portable one. Nothing outside this file knows that another one may run.
"""

import json

import mxnet as mx

# Results that memonger keeps: the blocks' outputs and the head. The rest is computed again in the
# backward pass. Dropout is among the kept ones because it would draw another mask.
_KEPT = {"null", "elemwise_add", "Dropout", "FullyConnected", "SoftmaxOutput"}


def running_symbol(
    symbol: mx.sym.Symbol, memonger: bool = False, dtype: str = "float32"
) -> mx.sym.Symbol:
    """Return the symbol to bind for training, of the same arguments, states and outputs.

    memonger : keep only the blocks' outputs from the forward for the backward pass, and compute
        what is between them a second time (Chen et al. 2016, "Training deep nets with sublinear
        memory cost"), through MXNet's `force_mirroring` attribute. Same bits, less memory.
    dtype : ``float32``, or ``bfloat16`` to compute the convolutions and what is between them in it.
        Parameters, gradients, moving statistics and the head stay in float32, and so does the
        first convolution, whose 3 channels oneDNN is slower with in bfloat16.
    """
    graph = json.loads(symbol.tojson())
    if dtype == "bfloat16":
        graph = _in_bfloat16(graph)
    if memonger:
        for node in graph["nodes"]:
            if node["op"] not in _KEPT:
                node.setdefault("attrs", {})["__force_mirroring__"] = "True"
    return mx.sym.load_json(json.dumps(graph))


def _in_bfloat16(graph: dict) -> dict:
    """Return `graph` with casts: to bfloat16 where a convolution reads, to float32 for the head."""
    old, nodes = graph["nodes"], []
    place, in_bfloat16, casts = {}, set(), {}

    def cast(source, dtype):
        """The place of `source` (a place in the new graph) in `dtype`; one cast serves all."""
        if (source in in_bfloat16) == (dtype == "bfloat16"):
            return source
        if (source, dtype) not in casts:
            name = f"{nodes[source]['name']}_{dtype}"
            attrs = {"dtype": dtype}
            nodes.append(
                {"op": "amp_cast", "name": name, "attrs": attrs, "inputs": [[source, 0, 0]]}
            )
            casts[source, dtype] = len(nodes) - 1
            if dtype == "bfloat16":
                in_bfloat16.add(len(nodes) - 1)
        return casts[source, dtype]

    for number, node in enumerate(old):
        inputs = [[place[source], *rest] for source, *rest in node["inputs"]]
        attrs = dict(node.get("attrs", {}))
        result = False
        if node["op"] == "null":
            # What follows must not make a parameter bfloat16.
            attrs["__dtype__"] = "0"
        elif node["op"] == "Convolution" and old[node["inputs"][0][0]]["op"] != "null":
            inputs = [[cast(source, "bfloat16"), *rest] for source, *rest in inputs]
            result = True
        elif attrs.get("global_pool") == "True":
            inputs = [[cast(source, "float32"), *rest] for source, *rest in inputs]
        elif inputs:
            result = inputs[0][0] in in_bfloat16
        nodes.append({**node, "attrs": attrs, "inputs": inputs})
        place[number] = len(nodes) - 1
        if result:
            in_bfloat16.add(len(nodes) - 1)
    return {
        "nodes": nodes,
        "arg_nodes": [i for i, node in enumerate(nodes) if node["op"] == "null"],
        "heads": [[place[source], *rest] for source, *rest in graph["heads"]],
        "attrs": graph["attrs"],
    }
