"""model/plan.py: the command line as a frozen value, and what follows from its fields."""

import dataclasses
import subprocess
import sys

import pytest

from log.command import whole
from log.flags import flag
from model import plan as plans
from model.plan import GROUPS, Plan, Task, before_flags, make_parser
from model.recipes import Recipe
from tests.runs import ROOT


def test_nothing_is_assigned_to_a_plan():
    plan = Plan.of([])
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.training.lr = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.training = None


def test_a_plan_is_made_without_mxnet_numpy_or_a_file():
    code = (
        "import sys, builtins, io; from model.plan import Plan\n"
        "def refuse(*_): raise AssertionError('a file is opened')\n"
        "builtins.open = io.open = refuse; Plan.of(['--data-dir=nowhere'])\n"
        "sys.exit('mxnet' in sys.modules or 'numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@dataclasses.dataclass(frozen=True)
class RecipeWithOneMore(Recipe):
    shake: int = flag(7, "how much to shake", whole(0), "N", kept=True)


def test_a_new_flag_is_one_field(monkeypatch):
    monkeypatch.setitem(GROUPS, "recipe", RecipeWithOneMore)
    assert "--shake N" in make_parser().format_help()
    plan = Plan.of(["--shake=3"])
    assert plan.recipe.shake == 3
    # A checkpoint keeps it, workers compare it, config.json has it.
    assert plan.settings["shake"] == plan.shared["shake"] == plan.arguments["shake"] == 3
    # A checkpoint that was written before the flag existed was trained with its default.
    assert before_flags()["shake"] == 7


def test_paths_of_a_machine_are_kept_and_not_compared():
    plan = Plan.of(["--data-train=a.rec", "--pretrained=x,3"])
    assert plans.own_paths() == ("data_train", "data_val", "pretrained")
    assert plan.settings["data_train"] == "a.rec" and "data_train" not in plan.shared
    assert "num_epochs" in plan.shared and "num_epochs" not in plan.settings


@pytest.mark.parametrize(
    ("words", "task"),
    [
        ([], Task.TRAIN),
        (["--dry-run"], Task.TRAIN),
        (["--summary"], Task.SUMMARY),
        (["--benchmark"], Task.BENCHMARK_TRAINING),
        (["--benchmark=input"], Task.BENCHMARK_INPUT),
    ],
)
def test_tasks(words, task):
    assert Plan.of(words).task is task


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--data-type=cifar10", "--lr-steps begin at epoch 220, and the run ends after 200"),
        ("--data-type=digits --num-epochs=7", "begin at epoch 7, and the run ends after 7"),
        ("--data-type=digits --num-epochs=8", None),
        ("--data-type=cifar10 --lr-schedule=cosine", None),
        ("--data-type=cifar10 --lr-steps=", None),
        ("--data-type=cifar10 --lr-steps=100,250", None),
    ],
)
def test_steps_that_never_come_are_said(words, line):
    said = Plan.of(words.split()).steps_too_late
    assert said is None if line is None else line in said
