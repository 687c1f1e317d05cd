"""Where a run starts, and with what."""

from dataclasses import dataclass
from typing import Dict, Optional, Tuple

import mxnet as mx

from model.checkpoint import Generation, Place
from model.network.params import ndarray_params
from model.training.average import averaged
from model.training.optimizers import Method, kind_of_states
from model.training.schedule import Updates
from model.training.state import Arrays

Params = Dict[str, mx.nd.NDArray]


@dataclass(frozen=True)
class Start:
    """Where a run starts, and with what. Made by `anew`, `from_network` or `resumed`.

    place : what is done already.
    lr : learning rate from `first_epoch` on, before the schedule changes it.
    generation : the checkpoint that the run resumes from; None for a new run.
    arg_params, aux_params : parameters to start with; None to draw all of them at random.
    is_pretrained : the parameters are of another network: those they lack are drawn at random.
    states : what else training holds (`model.training.state`); None for a new run.
    first_update : updates of the run before the first one that the optimizer counts.
    """

    place: Place
    lr: float
    first_epoch: int = 0
    generation: Optional[Generation] = None
    arg_params: Optional[Params] = None
    aux_params: Optional[Params] = None
    is_pretrained: bool = False
    states: Optional[Arrays] = None
    first_update: int = 0

    @classmethod
    def anew(cls, lr: float) -> "Start":
        return cls(Place(0), lr)

    @classmethod
    def from_network(cls, lr: float, arg_params: Params, aux_params: Params) -> "Start":
        """arg_params, aux_params : as model.training.finetune.starting_params gives them."""
        return cls(Place(0), lr, arg_params=arg_params, aux_params=aux_params, is_pretrained=True)

    @classmethod
    def resumed(
        cls,
        place: Place,
        lr: float,
        first_epoch: int,
        generation: Generation,
        settings: dict,
        method: Method,
        updates: Updates,
    ) -> "Start":
        """Resume from `generation` at `place`: its own, unless a batch has another size now.

        settings, method, updates : those of the resumed run.
        """
        states, first_update = usable_states(generation, place, settings, method, updates)
        arg_params, aux_params = ndarray_params(generation.params)
        return cls(
            place, lr, first_epoch, generation, arg_params, aux_params, False, states, first_update
        )

    @property
    def lacks_validation(self) -> bool:
        """Whether the checkpoint is of the end of an epoch, and was not validated: a signal came
        between the two."""
        if not self.generation or not self.place.epoch or self.generation.place.batch:
            return False
        return not self.generation.run["validation"]

    def params_to_validate(self, of_averages: bool) -> Tuple[Params, Params]:
        """Return the checkpoint's parameters, or their averages."""
        assert self.generation, "only a run that resumes has parameters to validate"
        params = self.generation.params
        return ndarray_params(averaged(params, self.generation.states) if of_averages else params)


def usable_states(
    generation: Generation, place: Place, settings: dict, method: Method, updates: Updates
) -> Tuple[Arrays, int]:
    """Return (the states of `generation` that a run with `settings` can resume from; the updates of
    the run before the first one that its optimizer counts)."""
    states, run = generation.states, generation.run
    first_update = 0
    if run.get("first_update"):
        # Counted in the updates of that run, which may have been larger ones.
        first_update = run["first_update"] * updates.before(place) // run["updates"]
    if kind_of_states(run["settings"]) != kind_of_states(settings):
        # Other parameters or another optimizer: its state starts again, and so does its count.
        states = {key: array for key, array in states.items() if ":" not in key}
        first_update = updates.before(place) if method.counts_updates() else 0
    accumulate = run["settings"].get("accumulate", 1)
    if (accumulate, run.get("batches")) != (method.accumulate, updates.batches):
        states = {key: array for key, array in states.items() if "+" not in key}
    return states, first_update
