"""Symbols that other programs wrote, checked before MXNet runs them: some of them crash it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Sequence

import mxnet as mx

from log.files import parse_json
from model import ModelError
from model.network.errors import mxnet_errors

# MXNet takes no longer chain of operators apart without a stack overflow; the largest network that
# is known, the sliced one of 2017, has 50,000 nodes.
_MOST_NODES = 100_000
_ROOT = Path(__file__).parent.parent.parent
# Seconds for a first batch of one image.
_PATIENCE = 600


def load_symbol(text: str, name: object) -> mx.sym.Symbol:
    """Return the symbol of a JSON text. name : of its file, for messages.

    Raises ModelError if the text is not the graph of a network with one output. What its operators
    compute is not checked here (`check_runs`).
    """
    _check_graph(parse_json(text, name, ModelError), name)
    with mxnet_errors(name):
        return mx.sym.load_json(text)


def _check_graph(graph: Any, name: object) -> None:
    try:
        nodes, heads = graph["nodes"], graph["heads"]
        if len(nodes) > _MOST_NODES:
            raise ModelError(f"{name}: {len(nodes)} operators, at most {_MOST_NODES} can be run")
        for number, node in enumerate(nodes):
            sources = [source for source, *_ in node["inputs"]]
            if not all(0 <= source < number for source in sources):
                raise ModelError(f"{name}: damaged: {node['name']} reads an operator after it")
        ((head, *_),) = heads
        nodes[head]["op"]
    except ValueError:
        raise ModelError(f"{name}: a network with {len(heads)} outputs, not with one") from None
    except (LookupError, TypeError):
        raise ModelError(f"{name}: damaged: not the graph of a network") from None


def check_runs(symbol: mx.sym.Symbol, data_shape: Sequence[int], name: object) -> None:
    """Raise ModelError if MXNet can't run `symbol`, or crashes.

    It is run once, in a process of its own, on one image and with zeros for parameters.
    data_shape : (N, 3, height, width). name : of the network, for messages.
    """
    shape = (1, *data_shape[1:])
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "model.network.trial", json.dumps(shape)],
            input=symbol.tojson(remove_amp_cast=False),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"{name}: not run by MXNet within {_PATIENCE} s") from None
    if done.returncode == REFUSED:
        raise ModelError(f"{name}: {done.stdout.strip()}")
    if done.returncode == 1:  # an exception
        raise ModelError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    if done.returncode:
        raise ModelError(f"{name}: MXNet crashes when it runs this network: a damaged symbol file?")


#: The exit code of model.network.trial if MXNet says, on standard output, what is wrong.
REFUSED = 3
