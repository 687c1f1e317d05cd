"""Recipes: named sets of defaults for how a network is trained, and the flags about it."""

import shlex
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Optional

from log.command import below_one, from_zero, number, positive, probability, whole
from log.flags import Flags, UsageError, flag, spelled
from model.training.optimizers import OPTIMIZERS

RECIPES: Dict[str, Dict[str, Any]] = {
    # The script of 2017. Its epochs and decay steps are those of the data set.
    "2017": {
        "optimizer": "nag",
        "lr": 0.1,
        "mom": 0.9,
        "wd": 0.0001,
        "lr_schedule": "step",
        "warmup_epochs": 0.0,
        "dropout": 0.2,
        "label_smoothing": 0.0,
        "no_bias_decay": False,
        "ema": 0.0,
    },
    # Chollet 2017, sections 4.2 and 4.3, for ImageNet. It names no decay of its Polyak average;
    # that of TensorFlow's training of Inception is taken.
    "paper": {
        "optimizer": "sgd",
        "lr": 0.045,
        "mom": 0.9,
        "wd": 0.00001,
        "lr_schedule": "exponential",
        "warmup_epochs": 0.0,
        "dropout": 0.5,
        "label_smoothing": 0.0,
        "no_bias_decay": False,
        "ema": 0.9999,
    },
    # What later training of such networks has in common (He et al. 2019, "Bag of tricks for image
    # classification with convolutional neural networks").
    "modern": {
        "optimizer": "nag",
        "lr": 0.1,
        "mom": 0.9,
        "wd": 0.0001,
        "lr_schedule": "cosine",
        "warmup_epochs": None,
        "dropout": 0.2,
        "label_smoothing": 0.1,
        "no_bias_decay": True,
        "ema": 0.9999,
    },
}

#: MXNet's own default rate of most optimizers that scale each element by itself, for --optimizer
#: without --lr.
_ADAPTIVE_LR = 0.001
#: The share of the epochs that a recipe's warm-up takes: 5 of ImageNet's 125.
_WARMUP_SHARE = 1 / 25
#: --lr-factor of each schedule, and how often the paper's decays.
_FACTORS = {"step": 0.1, "exponential": 0.94, "cosine": None}
_PAPER_DECAY_EPOCHS = 2


def _alpha(text: str) -> float:
    # Outside, numpy's draws from Beta(alpha, alpha) are no numbers, or all alike.
    return number(text, "0, or from 0.01 to 100", lambda x: x == 0 or 0.01 <= x <= 100)


@dataclass(frozen=True)
class Recipe(Flags):
    """How gradients become updates.

    A checkpoint that lacks one of these was written before the flag existed, and so was trained
    with its default.
    """

    TITLE = "training recipe"

    recipe: str = flag(
        "2017",
        "set of defaults for the flags below and for --lr, --mom, --wd and --dropout, which "
        "flags on the command line override. 2017: the defaults in this help. paper: Chollet "
        "2017 for ImageNet: "
        "sgd at 0.045, times 0.94 every 2 epochs, --wd 0.00001, --dropout 0.5, --ema 0.9999. "
        "modern: cosine, warm-up over the first 25th of the epochs, --label-smoothing 0.1, "
        "--no-bias-decay, --ema 0.9999",
        choices=RECIPES,
        kept=True,
    )
    optimizer: str = flag(
        "nag",
        "MXNet's; --mom is the momentum of nag and sgd and, above 0, that of rmsprop in its "
        "centered form, and beta1 of adam and lamb. A resumed run with another optimizer starts "
        "without the old momentum",
        choices=OPTIMIZERS,
        kept=True,
    )
    epsilon: Optional[float] = flag(
        None,
        "added to the divisor by rmsprop, adam and lamb (default: MXNet's; 1e-8, lamb 1e-6)",
        positive,
        "X",
        kept=True,
    )
    lr_schedule: str = flag(
        "step",
        "step: times --lr-factor at --lr-steps; exponential: times --lr-factor every "
        "--decay-epochs; cosine: down to --lr-min at the last epoch. With --retrain and --lr, step "
        "and exponential continue from that rate with the remaining decays, and cosine "
        "goes from that rate down over the remaining epochs",
        choices=_FACTORS,
        kept=True,
    )
    warmup_epochs: float = flag(
        0.0,
        "epochs at the start of the run in which the rate rises from 0, update by update; may "
        "be a fraction; --lr with --retrain does not repeat them",
        from_zero,
        "X",
        kept=True,
    )
    lr_min: float = flag(
        None,
        "lowest learning rate of cosine and exponential (default: 0)",
        from_zero,
        "X",
        kept=True,
        before=0.0,
    )
    decay_epochs: Optional[int] = flag(
        None,
        "epochs between two decays of --lr-schedule exponential (default: 2)",
        whole(1),
        "N",
        kept=True,
    )
    label_smoothing: float = flag(
        0.0,
        "share of a label that goes to all other classes, in equal parts; in training only: log "
        "figures and the saved network do not include it",
        below_one,
        "X",
        kept=True,
    )
    mixup: float = flag(
        0.0,
        "train on mixtures of two images of a batch and of their labels, the share of one drawn "
        "from Beta(ALPHA, ALPHA) for each batch; 0 for none, 0.2 is usual. The figures of training "
        "count a mixture as an image of the class of its larger share",
        _alpha,
        "ALPHA",
        kept=True,
    )
    cutmix: float = flag(
        0.0,
        "the same with a box cut out of one image and pasted into the other; 1 is usual. With "
        "--mixup, each batch has one of the two, at random",
        _alpha,
        "ALPHA",
        kept=True,
    )
    class_weights: str = flag(
        "none",
        "balanced: the gradient of an image is multiplied by the weight of its class, so that all "
        "classes count alike, however many images they have; the mean weight is 1. Figures are "
        "without weights",
        choices=("none", "balanced"),
        kept=True,
    )
    random_erasing: float = flag(
        0.0,
        "probability that a box of 2 to 40 percent of a training image is replaced by random "
        "pixels; 0.25 to 0.5 is usual",
        probability,
        "P",
        kept=True,
    )
    no_bias_decay: bool = flag(
        False,
        "weight decay for the weights of convolutions and classifier alone. By default MXNet "
        "decays names that end in _weight or _gamma and never biases or beta; this flag also "
        "excludes BatchNorm's gamma",
        off=("--bias-decay", "undo a recipe's --no-bias-decay (default: not given)"),
        kept=True,
    )
    clip_gradient: Optional[float] = flag(
        None,
        "clip each element of the gradient to [-X, X] (default: off)",
        positive,
        "X",
        kept=True,
    )
    accumulate: int = flag(
        1,
        "batches whose gradients make one update, as one batch of N times --batch-size would, "
        "except that BatchNorm sees them one by one; fewer at the end of an epoch if N does not "
        "divide its number of batches",
        whole(1),
        "N",
        kept=True,
    )
    ema: float = flag(
        0.0,
        "keep an exponential moving average of the parameters and moving statistics, validate "
        "it, and save it as a checkpoint of its own, PREFIX-ema; 0 for none. The decay is at most "
        "(1+n)/(10+n) in update n",
        below_one,
        "DECAY",
        kept=True,
    )

    @property
    def first_lr(self) -> float:
        """The learning rate of a run that is given none."""
        of_recipe = RECIPES[self.recipe]
        if OPTIMIZERS[self.optimizer].adaptive and self.optimizer != of_recipe["optimizer"]:
            return _ADAPTIVE_LR
        return float(of_recipe["lr"])


def complete_recipe(values: Dict[str, Any], given: Dict[str, Any]) -> Dict[str, Any]:
    """Return the values of all flags with those of the recipe where none was given.

    --lr stays None if it was not given: with --retrain that is the rate of the run.
    Raises UsageError for flags that the schedule or optimizer has no use for.
    """
    recipe = RECIPES[values["recipe"]]
    values = {**values, **{name: recipe[name] for name in recipe.keys() - given.keys()}}
    if "lr" not in given:
        values["lr"] = None
    _check(values)
    kind = values["lr_schedule"]
    if values["lr_factor"] is None:
        values["lr_factor"] = _FACTORS[kind] or 1.0
    if kind == "exponential" and values["decay_epochs"] is None:
        values["decay_epochs"] = _PAPER_DECAY_EPOCHS
    if kind != "step":
        values["lr_steps"] = ()
    values["lr_min"] = values["lr_min"] or 0.0
    return values


def _check(values: Dict[str, Any]) -> None:
    kind, optimizer = values["lr_schedule"], values["optimizer"]
    if values["lr_steps"] and kind != "step":
        raise UsageError(f"--lr-steps is for --lr-schedule step, not {kind}")
    if values["decay_epochs"] and kind != "exponential":
        raise UsageError(f"--decay-epochs is for --lr-schedule exponential, not {kind}")
    if values["lr_min"] and kind == "step":
        raise UsageError("--lr-min is for --lr-schedule cosine and exponential, not step")
    if values["lr_factor"] is not None and _FACTORS[kind] is None:
        raise UsageError(f"--lr-factor is not for --lr-schedule {kind}")
    if values["epsilon"] and not OPTIMIZERS[optimizer].adaptive:
        raise UsageError(f"--epsilon is for rmsprop, adam and lamb, not {optimizer}")
    if values["accumulate"] > 1 and values["kv_store"] == "dist_async":
        raise UsageError(
            "--accumulate: not with --kv-store dist_async: its servers scale gradients"
        )


def complete_warmup(values: Dict[str, Any]) -> Dict[str, Any]:
    """Return the values of all flags with a recipe's warm-up, a share of the epochs."""
    epochs, warmup = values["num_epochs"], values["warmup_epochs"]
    if warmup is None:
        warmup = epochs * _WARMUP_SHARE
    if warmup >= epochs:
        raise UsageError(
            f"--warmup-epochs {warmup:g}: must be less than the {epochs} of --num-epochs"
        )
    return {**values, "warmup_epochs": warmup}


def recipe_line(recipe: Recipe, values: Dict[str, Any], given: Iterable[str], resumes: bool) -> str:
    """Return the line that states what the recipe sets, and which of its flags are given instead.

    values : of all flags. given : the names of those that were given. resumes : the rate is that
    of a checkpoint, unless it was given.
    """
    values = {**values, "lr": values["lr"] or recipe.first_lr}

    def flags(names: Iterable[str]) -> str:
        return " ".join(_as_given(name, values[name]) for name in names)

    of_recipe = RECIPES[recipe.recipe]
    instead = sorted(of_recipe.keys() & set(given))
    names = [name for name in of_recipe if name not in instead and not (resumes and name == "lr")]
    line = f"recipe {recipe.recipe}: {flags(names)}"
    return line + (f"; given instead: {flags(instead)}" if instead else "")


def _as_given(name: str, value: Any) -> str:
    if name == "no_bias_decay":
        return "--no-bias-decay" if value else "--bias-decay"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{spelled(name)} {shlex.quote(text)}"
