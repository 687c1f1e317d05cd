"""What is done with the gradients of a batch: optimizers and their settings.

Left out of MXNet's are those whose state is not all in arrays, and so not in a checkpoint (nadam,
lars, dcasgd), that divide 0 by 0 in padded channels (adamax), that add noise, or that take no
learning rate.
"""

from dataclasses import dataclass
from typing import Optional

#: For each optimizer, what MXNet calls what --mom sets.
OPTIMIZERS = {
    "nag": "momentum",
    "sgd": "momentum",
    "rmsprop": "gamma2",
    "adam": "beta1",
    "lamb": "beta1",
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

    def optimizer_params(self) -> dict:
        """Return the arguments of the optimizer, but for those about the learning rate."""
        params = {"wd": self.wd, OPTIMIZERS[self.optimizer]: self.mom}
        if self.optimizer == "rmsprop":
            # MXNet has momentum in the centered one alone (Graves 2013, equations 38 to 45).
            params["centered"] = bool(self.mom)
        if self.epsilon is not None:
            params["epsilon"] = self.epsilon
        if self.clip_gradient is not None:
            params["clip_gradient"] = self.clip_gradient
        return params

    def counts_updates(self) -> bool:
        """True where an update depends on how many were before it (by correcting a bias)."""
        return self.optimizer in ("adam", "lamb")

    def arrays_in_a_checkpoint(self) -> int:
        """Return how many arrays of the size of the parameters a checkpoint may hold."""
        if self.optimizer in ("nag", "sgd"):
            states = int(self.mom > 0)
        else:
            states = 2 if self.counts_updates() else 3 if self.mom else 1
        # The average is among the states, and a network of its own.
        return 1 + states + 2 * (self.ema > 0) + (self.accumulate > 1)


def kind_of_states(settings: dict) -> tuple:
    """Return what must be the same for the optimizer's states of a checkpoint to be gone on with.

    settings : of the run that wrote it.
    """
    return (
        settings.get("optimizer", "nag"),
        settings.get("mom", 0.9) > 0,
        settings.get("freeze", "none"),
    )
