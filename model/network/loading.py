"""The network of a checkpoint, this project's or another program's."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple, Union

import mxnet as mx

from log.files import read_file, read_text
from model import ModelError
from model.checkpoint import Checkpoints, Place, ndarray_file
from model.network.checking import load_symbol
from model.network.layers import is_xception, with_head_named
from model.network.params import (
    Entries,
    NDArrays,
    check_finite,
    check_params,
    check_unsliced,
    ndarray_params,
)

#: Numbers for R, G, B.
Rgb = Tuple[float, float, float]


_ASSUMED = {
    "mean": "mean 0,0,0 (--rgb-mean)",
    "std": "std 1,1,1 (--rgb-std)",
    "short_side": "no resizing (--short-side)",
}


@dataclass(frozen=True)
class Network:
    """A trained network, and what it was trained for.

    symbol, arg_params, aux_params : as for `mx.mod.Module`.
    source : its checkpoint, for messages. epoch : of the checkpoint.
    image_shape : (3, height, width), None if the checkpoint does not say.
    mean, std : an input is (pixel - mean) / std. Without preprocessing if the checkpoint does not
        say (`says_preprocessing`).
    short_side : what the validation images were resized to before the crop, None for not at all.
    classes : their names, by label; None if they have none.
    run : what the run wrote about itself (`Checkpoints.save`), empty for another program's.
    """

    symbol: mx.sym.Symbol
    arg_params: NDArrays
    aux_params: NDArrays
    source: str = "the network"
    epoch: int = 0
    image_shape: Optional[Tuple[int, int, int]] = None
    mean: Rgb = (0, 0, 0)
    std: Rgb = (1, 1, 1)
    says_preprocessing: bool = False
    short_side: Optional[int] = None
    classes: Optional[List[str]] = None
    run: Dict[str, Any] = field(default_factory=dict)

    def assumption(self, **given: object) -> Optional[str]:
        """Return the line about what is assumed of the images because neither the checkpoint nor
        the command line says it. given : `mean`, `std`, `short_side`; None if not given."""
        missing = [name for name, value in given.items() if value is None]
        if self.says_preprocessing or not missing:
            return None
        assumed = ", ".join(_ASSUMED[name] for name in missing)
        return f"{self.source} does not say how its images are prepared; assumed: {assumed}"

    @property
    def input_shape(self) -> Tuple[int, int, int]:
        """The image shape. Raises ModelError if nothing says it."""
        if self.image_shape is None:
            raise ModelError(
                f"{self.source} does not say which images it takes: give --image-shape"
            )
        return self.image_shape


def load_network(prefix: str, epoch: Union[int, str]) -> Network:
    """Return the network of the checkpoint PREFIX, EPOCH.

    epoch : "best" for the one that PREFIX-best.params links to.
    A checkpoint of this project is verified. Of another program's, PREFIX-symbol.json and
    PREFIX-%04d.params, the parameters must be finite and those that the network reads.
    Raises ModelError if it can't be used.
    """
    if epoch == "best":
        prefix, place = Checkpoints(prefix).best()
    else:
        place = Place(int(epoch))
    checkpoints = Checkpoints(prefix)
    checkpoints.check_there(place)
    params_file = checkpoints.params_file(place)
    symbol_file = f"{prefix}-symbol.json"
    if params_file.with_suffix(".json").exists():
        generation = checkpoints.load(place)
        symbol_json, params, run = generation.symbol_json, generation.params, generation.run
    else:
        symbol_json, run = read_text(symbol_file, ModelError), {}
        try:
            params = ndarray_file.parse(read_file(params_file, ModelError))
        except ndarray_file.FormatError as error:
            raise ModelError(f"{params_file}: {error}") from None
    check_unsliced(params, prefix, place.epoch)
    check_finite(params, params_file)
    symbol, params = with_head_named(load_symbol(symbol_json, symbol_file), params)
    if is_xception(symbol):
        check_params(params, symbol, params_file)
    else:
        params = _read_params(symbol, params, params_file)
    settings = run.get("settings", {})
    shape = settings.get("image_shape")
    return Network(
        symbol,
        *ndarray_params(params),
        source=f"{prefix}, {place}",
        epoch=place.epoch,
        image_shape=shape and tuple(shape),
        mean=tuple(settings.get("rgb_mean", (0, 0, 0))),
        std=tuple(settings.get("rgb_std", (1, 1, 1))),
        says_preprocessing="rgb_mean" in settings,
        short_side=settings.get("short_side"),
        classes=settings.get("classes"),
        run=run,
    )


def _read_params(symbol: mx.sym.Symbol, params: Entries, name: object) -> Entries:
    """Return those of `params` that `symbol`, of any network, reads. Raises ModelError if one is
    missing; their shapes are checked when an image's shape is known."""
    inputs = symbol.list_arguments()
    if "data" not in inputs:
        raise ModelError(f"{name}: a network without an input named data")
    read = [f"arg:{each}" for each in inputs if each != "data" and not each.endswith("label")]
    read += [f"aux:{each}" for each in symbol.list_auxiliary_states()]
    for entry in read:
        if entry not in params:
            raise ModelError(f"{name}: {entry} is missing: of another network?")
    return {entry: params[entry] for entry in read}
