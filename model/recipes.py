"""Recipes: named sets of defaults for how a network is trained, and the arguments about it."""

import argparse
import shlex

from log.command import below_one, from_zero, positive, whole
from model.training.optimizers import OPTIMIZERS, Method

RECIPES = {
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
    # Chollet 2017, sections 4.3 and 4.4, for ImageNet. It names no decay of its Polyak average;
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

#: What a checkpoint was trained with that says nothing of these: it is older than they are.
BEFORE_RECIPES = {
    "recipe": "2017",
    "optimizer": "nag",
    "epsilon": None,
    "lr_schedule": "step",
    "warmup_epochs": 0.0,
    "lr_min": 0.0,
    "decay_epochs": None,
    "lr_end": None,
    "label_smoothing": 0.0,
    "no_bias_decay": False,
    "clip_gradient": None,
    "accumulate": 1,
    "ema": 0.0,
}

# Where --optimizer is given without --lr: MXNet's own default of most of them.
_ADAPTIVE_LR = 0.001
# The share of the epochs that a recipe's warm-up takes: 5 of ImageNet's 125.
_WARMUP_SHARE = 1 / 25
# --lr-factor of each schedule; the paper's every 2 epochs.
_FACTORS = {"step": 0.1, "exponential": 0.94, "cosine": None}
_PAPER_DECAY_EPOCHS = 2

_NOT_GIVEN = object()


def add_recipe_args(parser):
    group = parser.add_argument_group("training recipe")
    group.add_argument(
        "--recipe",
        choices=RECIPES,
        default="2017",
        help="set of defaults for the flags below and for --lr, --mom, --wd and --dropout, each of "
        "which may be given beside it. 2017: those of --help. paper: Chollet 2017 for ImageNet: "
        "sgd at 0.045, times 0.94 every 2 epochs, --wd 0.00001, --dropout 0.5, --ema 0.9999. "
        "modern: cosine, warm-up over the first 25th of the epochs, --label-smoothing 0.1, "
        "--no-bias-decay, --ema 0.9999",
    )
    group.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        default="nag",
        help="MXNet's; --mom is the momentum of nag and sgd and, above 0, that of rmsprop in its "
        "centered form, and beta1 of adam and lamb. Another optimizer than the run had begins "
        "without its momentum",
    )
    group.add_argument(
        "--epsilon",
        type=positive,
        metavar="X",
        help="what rmsprop, adam and lamb add before they divide (default: MXNet's; 1e-8, lamb "
        "1e-6)",
    )
    group.add_argument(
        "--lr-schedule",
        choices=_FACTORS,
        default="step",
        help="step: times --lr-factor at --lr-steps; exponential: times --lr-factor every "
        "--decay-epochs; cosine: down to --lr-min at the last epoch. With --retrain and --lr, step "
        "and exponential go on from that rate with the decays that are still to come, and cosine "
        "takes the epochs that are left from that rate down",
    )
    group.add_argument(
        "--warmup-epochs",
        type=from_zero,
        default=0.0,
        metavar="X",
        help="epochs at the start of the run in which the rate rises from 0, update by update; may "
        "be a fraction; --lr with --retrain does not repeat them",
    )
    group.add_argument(
        "--lr-min",
        type=from_zero,
        metavar="X",
        help="lowest learning rate of cosine and exponential (default: 0)",
    )
    group.add_argument(
        "--decay-epochs",
        type=whole(1),
        metavar="N",
        help="epochs between two decays of --lr-schedule exponential (default: 2)",
    )
    group.add_argument(
        "--label-smoothing",
        type=below_one,
        default=0.0,
        metavar="X",
        help="share of a label that goes to all other classes, in equal parts; for training alone: "
        "figures and the saved network are without",
    )
    group.add_argument(
        "--no-bias-decay",
        action="store_true",
        help="weight decay for the weights of convolutions and classifier alone. MXNet by itself "
        "decays what ends in _weight or _gamma: with this flag no BatchNorm's gamma either; biases "
        "and beta it never does",
    )
    group.add_argument(
        "--bias-decay",
        dest="no_bias_decay",
        action="store_false",
        default=argparse.SUPPRESS,
        help="takes back a recipe's --no-bias-decay (default: not given)",
    )
    group.add_argument(
        "--clip-gradient",
        type=positive,
        metavar="X",
        help="cut each element of the gradient off at X and -X (default: not)",
    )
    group.add_argument(
        "--accumulate",
        type=whole(1),
        default=1,
        metavar="N",
        help="batches whose gradients make one update, as one batch of N times --batch-size would, "
        "but that BatchNorm sees them one by one; fewer at the end of an epoch where N does not "
        "divide its batches",
    )
    group.add_argument(
        "--ema",
        type=below_one,
        default=0.0,
        metavar="DECAY",
        help="keep an exponential moving average of the parameters and moving statistics, validate "
        "it, and save it as a checkpoint of its own, PREFIX-ema; 0 for none. The decay is at most "
        "(1+n)/(10+n) in update n",
    )


def parse_with_recipe(parser, argv) -> argparse.Namespace:
    """Return the arguments, those of the recipe where they were not given; a flag that is given
    with its default is given."""
    names = {"recipe", *RECIPES["2017"]}
    args = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(names, _NOT_GIVEN)))
    given = {name for name in names if getattr(args, name) is not _NOT_GIVEN}
    if "recipe" not in given:
        args.recipe = parser.get_default("recipe")
    recipe = RECIPES[args.recipe]
    for name in recipe.keys() - given:
        setattr(args, name, recipe[name])
    # --lr stays None where it is not given: with --retrain that is the rate of the run.
    args.first_lr = recipe["lr"]
    if "lr" not in given:
        args.lr = None
        if args.optimizer in ("adam", "lamb", "rmsprop") and args.optimizer != recipe["optimizer"]:
            args.first_lr = _ADAPTIVE_LR
    args.given = sorted(given & set(recipe))
    _check(parser, args)
    return args


def _check(parser, args):
    kind = args.lr_schedule
    if args.lr_steps and kind != "step":
        parser.error(f"--lr-steps is for --lr-schedule step, not {kind}")
    if args.decay_epochs and kind != "exponential":
        parser.error(f"--decay-epochs is for --lr-schedule exponential, not {kind}")
    if args.lr_min and kind == "step":
        parser.error("--lr-min is for --lr-schedule cosine and exponential, not step")
    if args.lr_factor is not None and _FACTORS[kind] is None:
        parser.error(f"--lr-factor is not for --lr-schedule {kind}")
    if args.epsilon and args.optimizer in ("nag", "sgd"):
        parser.error(f"--epsilon is for rmsprop, adam and lamb, not {args.optimizer}")
    if args.accumulate > 1 and args.kv_store == "dist_async":
        parser.error("--accumulate: not with --kv-store dist_async: its servers scale gradients")
    args.lr_min = args.lr_min or 0.0
    if args.lr_factor is None:
        args.lr_factor = _FACTORS[kind] or 1.0
    if kind == "exponential":
        args.decay_epochs = args.decay_epochs or _PAPER_DECAY_EPOCHS
    if kind != "step":
        args.lr_steps = ()


def complete_recipe(parser, args):
    """Fill in what follows from the number of epochs."""
    if args.warmup_epochs is None:
        args.warmup_epochs = args.num_epochs * _WARMUP_SHARE
    if args.warmup_epochs >= args.num_epochs:
        parser.error(
            f"--warmup-epochs {args.warmup_epochs:g}: must be less than the {args.num_epochs} "
            "of --num-epochs"
        )
    args.lr_end = args.num_epochs if args.lr_schedule == "cosine" else None


def method_of(args) -> Method:
    return Method(
        args.optimizer, args.mom, args.wd, args.epsilon, args.clip_gradient, args.label_smoothing,
        args.no_bias_decay, args.accumulate, args.ema,
    )  # fmt: skip


def schedule_args(args) -> dict:
    """Return the arguments of a model.training.schedule.Schedule, but for where it begins."""
    return {
        "steps": args.lr_steps,
        "factor": args.lr_factor,
        "kind": args.lr_schedule,
        "warmup": args.warmup_epochs,
        "lowest": args.lr_min,
        "every": args.decay_epochs,
        "end": args.lr_end,
    }


def recipe_line(args) -> str:
    """Return the line that tells what the recipe sets, and which flags are given instead."""

    def flags(names):
        words = []
        for name in names:
            value = getattr(args, name)
            if name == "lr" and value is None:
                value = args.first_lr
            if name == "no_bias_decay":
                words.append("--no-bias-decay" if value else "--bias-decay")
            else:
                text = f"{value:g}" if isinstance(value, float) else str(value)
                words.append(f"--{name.replace('_', '-')} {shlex.quote(text)}")
        return " ".join(words)

    names = [name for name in RECIPES[args.recipe] if name not in args.given]
    if args.retrain and "lr" in names:
        names.remove("lr")
    line = f"recipe {args.recipe}: {flags(names)}"
    return line + (f"; given instead: {flags(args.given)}" if args.given else "")
