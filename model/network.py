"""What is in a network: its parameters, and whether another one is the same."""

import mxnet as mx

from model import ModelError


def parameter_shapes(symbol: mx.sym.Symbol) -> dict:
    """Return the shape of every entry (``arg:NAME``, ``aux:NAME``) of the symbol's .params file."""
    # The parameters' shapes do not depend on the image's; any one will do.
    args, _, auxs = symbol.infer_shape(data=(1, 3, 64, 64))
    shapes = {
        f"arg:{name}": shape
        for name, shape in zip(symbol.list_arguments(), args)
        if name not in ("data", "softmax_label")
    }
    shapes.update({f"aux:{name}": s for name, s in zip(symbol.list_auxiliary_states(), auxs)})
    return shapes


def check_params(params: dict, symbol: mx.sym.Symbol, name):
    """Raise ModelError, naming the first difference, where `params` don't fit `symbol`.

    params : entry -> array. name : of the file, for the message.
    """
    expected = parameter_shapes(symbol)
    for entry, shape in expected.items():
        if entry not in params:
            raise ModelError(f"{name}: {entry} is missing: of another network?")
        if params[entry].shape != shape:
            raise ModelError(
                f"{name}: {entry} has the shape {params[entry].shape}, this network's is {shape}"
            )
    for entry in params:
        if entry not in expected:
            raise ModelError(f"{name}: {entry} is not in this network")
