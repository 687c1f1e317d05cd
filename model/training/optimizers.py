"""The optimizers, and how a batch changes the parameters.

To add an optimizer of MXNet, add a row to `OPTIMIZERS`. Left out are those whose state is not all
in arrays, and so not in a checkpoint (nadam, lars, dcasgd), that divide 0 by 0 in padded channels
(adamax), that add noise, or that take no learning rate.
"""

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple


@dataclass(frozen=True)
class Optimizer:
    """What the project knows about an optimizer of MXNet.

    mom : MXNet's name of the argument that --mom sets.
    states : arrays of the size of a parameter that it keeps, without and with momentum.
    adaptive : it scales each element by itself: it takes --epsilon, and another default rate.
    counts_updates : an update depends on how many there were before it (bias correction).
    """

    mom: str
    states: Tuple[int, int]
    adaptive: bool = False
    counts_updates: bool = False


OPTIMIZERS = {
    "nag": Optimizer("momentum", (0, 1)),
    "sgd": Optimizer("momentum", (0, 1)),
    "rmsprop": Optimizer("gamma2", (1, 3), adaptive=True),
    "adam": Optimizer("beta1", (2, 2), adaptive=True, counts_updates=True),
    "lamb": Optimizer("beta1", (2, 2), adaptive=True, counts_updates=True),
}


@dataclass(frozen=True)
class Method:
    """How a batch changes the parameters.

    optimizer, mom, wd, epsilon, clip_gradient : the flags of these names.
    label_smoothing : share of an image's label that goes to all other classes, in equal parts.
    no_bias_decay : no weight decay of BatchNorm's gamma; MXNet has none of biases and beta.
    accumulate : batches whose gradients make an update.
    ema : decay of the average of the parameters (`model.training.average`), 0 for none.
    """

    optimizer: str = "nag"
    mom: float = 0.9
    wd: float = 1e-4
    epsilon: Optional[float] = None
    clip_gradient: Optional[float] = None
    label_smoothing: float = 0
    no_bias_decay: bool = False
    accumulate: int = 1
    ema: float = 0

    def optimizer_params(self) -> Dict[str, Any]:
        """Return the arguments of the optimizer, without those about the learning rate."""
        params: Dict[str, Any] = {"wd": self.wd, OPTIMIZERS[self.optimizer].mom: self.mom}
        if self.optimizer == "rmsprop":
            # MXNet has momentum in the centered one alone (Graves 2013, equations 38 to 45).
            params["centered"] = bool(self.mom)
        if self.epsilon is not None:
            params["epsilon"] = self.epsilon
        if self.clip_gradient is not None:
            params["clip_gradient"] = self.clip_gradient
        return params

    def counts_updates(self) -> bool:
        """Return whether an update depends on how many there were before it (bias correction)."""
        return OPTIMIZERS[self.optimizer].counts_updates

    def arrays_in_a_checkpoint(self) -> int:
        """Return how many arrays of the size of the parameters a checkpoint may hold."""
        states = OPTIMIZERS[self.optimizer].states[self.mom > 0]
        # The average is among the states, and a network of its own.
        return 1 + states + 2 * (self.ema > 0) + (self.accumulate > 1)


def kind_of_states(settings: Dict[str, Any]) -> Tuple[str, bool, str]:
    """Return what two runs have in common if one can resume with the optimizer states of the other.

    settings : of a run, as its checkpoints keep them.
    """
    return (
        settings.get("optimizer", "nag"),
        settings.get("mom", 0.9) > 0,
        settings.get("freeze", "none"),
    )
