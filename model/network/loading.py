"""A network and what is in it: read, compared, begun."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import mxnet as mx

from model import ModelError, mxnet_reason
from model.checkpoint import Checkpoints, Place, ndarray_file
from model.network.params import (  # noqa: F401
    check_params,
    initial_params,
    ndarray_params,
    numpy_params,
    parameter_shapes,
)


@dataclass(frozen=True)
class Network:
    """A trained network, and what it was trained for.

    symbol, arg_params, aux_params : as for `mx.mod.Module`.
    image_shape : (3, height, width), None where the checkpoint does not say.
    mean, std : by colour, R G B: an input is (pixel - mean) / std.
    short_side : what the validation images were resized to before the crop, None for not at all.
    classes : their names, by label; None where they have none.
    run : what the run wrote about itself (`Checkpoints.save`), empty where it did not.
    """

    symbol: mx.sym.Symbol
    arg_params: dict
    aux_params: dict
    image_shape: Optional[tuple] = None
    mean: tuple = (0, 0, 0)
    std: tuple = (1, 1, 1)
    short_side: Optional[int] = None
    classes: Optional[list] = None
    run: dict = field(default_factory=dict)


def load_network(prefix: str, epoch: int) -> Network:
    """Return the network of the checkpoint PREFIX, EPOCH.

    A checkpoint of this project is verified. Of another one, PREFIX-symbol.json and PREFIX-%04d
    .params alone, nothing is known but the network. Raises ModelError where it can't be used.
    """
    checkpoints, place = Checkpoints(prefix), Place(epoch)
    checkpoints.check_there(place)
    params_file = checkpoints.params_file(place)
    if params_file.with_suffix(".json").exists():
        generation = checkpoints.load(place)
        symbol_json, params = generation.symbol_json, generation.params
        run = generation.run
    else:
        symbol_json, params, run = _read_plain(prefix, params_file)
    try:
        symbol = mx.sym.load_json(symbol_json)
    except mx.base.MXNetError as error:
        raise ModelError(f"{prefix}-symbol.json: {mxnet_reason(error)}") from None
    check_params(params, symbol, params_file)
    settings = run.get("settings", {})
    shape = settings.get("image_shape")
    return Network(
        symbol,
        *ndarray_params(params),
        image_shape=shape and tuple(shape),
        mean=tuple(settings.get("rgb_mean", (0, 0, 0))),
        std=tuple(settings.get("rgb_std", (1, 1, 1))),
        short_side=settings.get("short_side"),
        classes=settings.get("classes"),
        run=run,
    )


def _read_plain(prefix, params_file) -> tuple:
    symbol_file = Path(f"{prefix}-symbol.json")
    content = []
    for path in (symbol_file, params_file):
        try:
            content.append(path.read_bytes())
        except OSError as error:
            raise ModelError(f"{path}: {error.strerror}") from None
    try:
        return content[0].decode(errors="replace"), ndarray_file.parse(content[1]), {}
    except ndarray_file.FormatError as error:
        raise ModelError(f"{params_file}: {error}") from None
