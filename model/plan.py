"""What a run was asked for: the command line, completed by its recipe and its data set.

This module reads no file, uses no device and imports no mxnet. `model.training.run.Run` holds what
depends on them.
"""

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple, Type

from data.arguments import Data, complete_data
from data.augmentation import Augmentation
from log.arguments import Output
from log.command import Defaults, OneLineParser
from log.flags import Flags, UsageError, parse
from model.arguments import Benchmark, Devices, FineTuning, Network, Saving, Training
from model.recipes import RECIPES, Recipe, complete_recipe, complete_warmup, recipe_line
from model.training.optimizers import Method

#: The groups of flags, in the order of --help, by the name that they have in a plan.
GROUPS: Dict[str, Type[Flags]] = {
    "devices": Devices,
    "data": Data,
    "augmentation": Augmentation,
    "network": Network,
    "finetuning": FineTuning,
    "training": Training,
    "recipe": Recipe,
    "saving": Saving,
    "output": Output,
    "benchmark": Benchmark,
}


class Task(enum.Enum):
    """What the command line asks for."""

    TRAIN = "train"
    SUMMARY = "summary"
    BENCHMARK_TRAINING = "benchmark training"
    BENCHMARK_INPUT = "benchmark input"


@dataclass(frozen=True)
class Plan:
    """The flags by group, each with its final value.

    given : the flags of the recipe that were set on the command line.
    """

    devices: Devices
    data: Data
    augmentation: Augmentation
    network: Network
    finetuning: FineTuning
    training: Training
    recipe: Recipe
    saving: Saving
    output: Output
    benchmark: Benchmark
    given: Tuple[str, ...]

    @classmethod
    def of(cls, argv: Optional[Sequence[str]] = None) -> "Plan":
        """Parse a command line (default: that of the process). Ends the process with exit code 2
        and one line if it can't be used."""
        parser = make_parser()
        values, given = parse(parser, tuple(GROUPS.values()), argv)
        try:
            values = complete_recipe(values, given)
            values = complete_warmup(complete_data(values))
            values = _with_names_of_files(values)
            groups: Dict[str, Any] = {name: kind.of(values) for name, kind in GROUPS.items()}
            of_recipe = sorted(given.keys() & RECIPES[values["recipe"]].keys())
            plan = cls(**groups, given=tuple(of_recipe))
            plan._check()
        except UsageError as error:
            parser.error(str(error))
        return plan

    def _check(self) -> None:
        """Raise UsageError for flags that don't go together."""
        devices, saving, output = self.devices, self.saving, self.output
        if saving.model_load_epoch and not saving.retrain:
            raise UsageError(f"--model-load-epoch={saving.model_load_epoch} needs --retrain")
        if saving.retrain and saving.overwrite:
            raise UsageError("--retrain resumes, --overwrite starts again: give one of them")
        if self.finetuning.freeze != "none" and not (self.finetuning.pretrained or saving.retrain):
            raise UsageError(f"--freeze {self.finetuning.freeze} needs --pretrained")
        if not Path(saving.model_prefix + "x").name[:-1]:
            raise UsageError(
                f"--model-prefix: {saving.model_prefix!r} has no name after the folder"
            )
        if devices.gc_type != "none" and not devices.of_several_workers:
            raise UsageError(
                f"--gc-type {devices.gc_type} is for --kv-store dist_*, not {devices.kv_store}"
            )
        if devices.gpus and devices.cpus:
            raise UsageError("--gpus and --cpus: give one of them")
        if self.training.lr_factor > 1:
            raise UsageError(f"--lr-factor: must be at most 1, not {self.training.lr_factor}")
        if self.training.patience and not self.data.data_val:
            raise UsageError("--patience is for runs with validation, and --data-val is empty")
        if self.training.patience and devices.kv_store == "dist_async":
            raise UsageError(
                "--patience: not with --kv-store dist_async: only one worker validates"
            )
        mixing = [f"--{name}" for name in ("mixup", "cutmix") if getattr(self.recipe, name)]
        if mixing and self.training.batch_size == 1:
            raise UsageError(f"{mixing[0]}: needs a --batch-size of at least 2")
        if output.dry_run and self.data.skip_bad_records:
            raise UsageError(
                "--dry-run writes nothing, --skip-bad-records copies records: give one"
            )
        self.augmentation.check(self.level, self.data.image_shape)

    @property
    def task(self) -> Task:
        if self.output.summary:
            return Task.SUMMARY
        if self.benchmark.benchmark:
            return Task(f"benchmark {self.benchmark.benchmark}")
        return Task.TRAIN

    @property
    def level(self) -> Dict[str, Any]:
        """The data set's own augmentation, as arguments of ImageRecordIter."""
        return self.data.data_set.augmentation[self.data.aug_level]

    @property
    def lr_end(self) -> Optional[int]:
        """The epoch at which a cosine schedule ends; None for other schedules."""
        return self.training.num_epochs if self.recipe.lr_schedule == "cosine" else None

    @property
    def recipe_line(self) -> str:
        """The line of the log about the recipe."""
        resumes = bool(self.saving.retrain)
        return recipe_line(self.recipe, self._values(), self.given, resumes)

    @property
    def steps_too_late(self) -> Optional[str]:
        """A line that says so if the learning rate never falls, because the run ends before its
        first step."""
        steps, epochs = self.training.lr_steps, self.training.num_epochs
        if self.recipe.lr_schedule != "step" or not steps or min(steps) < epochs:
            return None
        return (
            f"the learning rate never falls: --lr-steps begin at epoch {min(steps)}, and the run "
            f"ends after {epochs}"
        )

    @property
    def method(self) -> Method:
        """How a batch changes the parameters."""
        recipe = self.recipe
        return Method(
            optimizer=recipe.optimizer,
            mom=self.training.mom,
            wd=self.training.wd,
            epsilon=recipe.epsilon,
            clip_gradient=recipe.clip_gradient,
            label_smoothing=recipe.label_smoothing,
            no_bias_decay=recipe.no_bias_decay,
            accumulate=recipe.accumulate,
            ema=recipe.ema,
        )

    # What follows from the fields

    @property
    def settings(self) -> Dict[str, Any]:
        """The flags that affect what a run computes, with their values, for a checkpoint.

        `model.training.resolve.settings_of` replaces those that a checkpoint or the records decide
        (filters, mean, classes ...).
        """
        kept = self._values(lambda known: known.kept)
        return {**kept, "augmentation": self.augmentation.given, "lr_end": self.lr_end}

    @property
    def shared(self) -> Dict[str, Any]:
        """The flags that must be equal on all workers, with their values."""
        alike = self._values(lambda known: known.shared)
        return {**alike, "augmentation": self.augmentation.given, "lr_end": self.lr_end}

    @property
    def arguments(self) -> Dict[str, Any]:
        """All flags with their values, and which of the recipe's were given."""
        return {**self._values(), "given": list(self.given)}

    def _values(self, wanted: Any = lambda known: True) -> Dict[str, Any]:
        found: Dict[str, Any] = {}
        for group in GROUPS:
            flags: Flags = getattr(self, group)
            values = flags.values()
            found.update({name: values[name] for name, _, known in flags.flags() if wanted(known)})
        return found


def make_parser() -> OneLineParser:
    """Return the parser of train_xception.py."""
    parser = OneLineParser(
        prog="train_xception.py",
        description="Train Xception on image records (.rec files).",
        formatter_class=Defaults,
    )
    for group in GROUPS.values():
        group.add_to(parser)
    return parser


def own_paths() -> Tuple[str, ...]:
    """Return the kept flags that may differ between workers: paths of each machine's own."""
    flags = [each for group in GROUPS.values() for each in group.flags()]
    return tuple(name for name, _, known in flags if known.kept and not known.shared)


def before_flags() -> Dict[str, Any]:
    """Return the values to assume for flags that a checkpoint lacks, as it is older: those of a
    recipe, and others that did not behave as by default."""
    settings = {
        name: known.before
        for title, group in GROUPS.items()
        for name, default, known in group.flags()
        if title == "recipe" or known.before != default
    }
    return {**settings, "augmentation": {}, "lr_end": None}


def _with_names_of_files(values: Dict[str, Any]) -> Dict[str, Any]:
    prefix = values["model_prefix"]
    if prefix is None:
        prefix = f"model/xception-{values['data_type']}-0-0"
    log_file = values["log_file"] or f"log/{Path(prefix).name}.log"
    return {**values, "model_prefix": prefix, "log_file": log_file}
