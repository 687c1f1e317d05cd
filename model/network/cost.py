"""What a network costs: parameters and multiply-adds, block by block."""

import math
import re
from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

import mxnet as mx

from model.network.layers import HEAD

_COUNTS = ("shape", "params", "statistics", "macs")
_BLOCK = re.compile(r"((?:Entry|Exit)_flow_b\d+|Middle_flow_block_\d+)_")


@dataclass(frozen=True)
class Block:
    """A part of a network.

    shape : of its output for one image, without the batch.
    params : number of trained parameters. statistics : number of BatchNorm's moving statistics.
    macs : multiply-adds of the convolutions or the classifier, for one image, forward.
    """

    name: str
    shape: Tuple[int, ...]
    params: int
    statistics: int
    macs: int


def blocks(symbol: mx.sym.Symbol, image_shape: Sequence[int]) -> List[Block]:
    """Return the `Block`s of a network as it is saved, in order, the classifier last.

    image_shape : (3, height, width).
    """
    internals = symbol.get_internals()
    _, of_outputs, _ = internals.infer_shape(data=(1, *image_shape))
    shapes = dict(zip(internals.list_outputs(), of_outputs))
    statistics = set(symbol.list_auxiliary_states())
    variables = set(symbol.list_inputs())
    found: Dict[str, dict] = {}
    for name, shape in shapes.items():
        match = _BLOCK.match(name)
        if name == "data" or name.endswith("_label"):
            continue
        block = found.setdefault(match[1] if match else HEAD, dict.fromkeys(_COUNTS, 0))
        if name not in variables:
            block["shape"] = shape[1:]
            continue
        block["statistics" if name in statistics else "params"] += math.prod(shape)
        block["macs"] += _macs(name, shapes)
    return [Block(name=name, **counts) for name, counts in found.items()]


def _macs(name: str, shapes: Dict[str, tuple]) -> int:
    """Multiply-adds of the weight `name`: each output takes one for each number of the weight that
    belongs to the output's channel. 0 if it is not a weight."""
    output = name[: -len("weight")] + "output"
    if not name.endswith("_weight") or output not in shapes:
        return 0
    return math.prod(shapes[name][1:]) * math.prod(shapes[output])


def training_flops(symbol: mx.sym.Symbol, size: int) -> float:
    """Return the FLOPs of a training step on one image of `size` x `size`.

    2 for each multiply-add, and 3 times the forward pass: the gradients of the inputs and of the
    weights take as many each (Chollet 2017 counts alike).
    """
    return 3 * 2 * sum(block.macs for block in blocks(symbol, (3, size, size)))


def table(symbol: mx.sym.Symbol, image_shape: Sequence[int]) -> str:
    """Return `blocks` as a table, with their sums."""
    rows = [("block", "output", "parameters", "multiply-adds")]
    found = blocks(symbol, image_shape)
    for block in found:
        shape = "x".join(map(str, block.shape))
        rows.append((block.name, shape, f"{block.params:,}", f"{block.macs:,}"))
    params, macs = (sum(getattr(b, what) for b in found) for what in ("params", "macs"))
    rows.append(("all", "", f"{params:,}", f"{macs:,}"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}"
        for row in rows
    ]
    statistics = sum(block.statistics for block in found)
    ruler = "-" * len(lines[0])
    note = f"and {statistics:,} moving statistics, which are not trained; one image of " + "x".join(
        map(str, image_shape)
    )
    return "\n".join([lines[0], ruler, *lines[1:-1], ruler, lines[-1], note])
