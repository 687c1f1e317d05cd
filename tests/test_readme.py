"""The README and the front door: what they tell the user to type."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

import train_xception
from model.recipes import RECIPES
from tests import flags
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_the_snippet_runs(tmp_path):
    """Another script, somewhere else, that finds this folder as its PYTHONPATH."""
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    process = subprocess.run(
        [sys.executable, "-c", snippet],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.split("\n")[1] == "(2, 1024)"


def commands():
    blocks = re.findall(r"(?:^    \S.*\n)+", README, flags=re.MULTILINE)
    return [line.strip() for block in blocks for line in block.splitlines()]


def test_every_training_command_has_arguments_that_exist():
    lines = [line for line in commands() if "train_xception.py" in line]
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line)
        train_xception.parse_arguments(words[words.index("train_xception.py") + 1 :])


@pytest.mark.parametrize(
    "name", ["model.convert.__main__", "model.evaluate", "model.predict", "model.quantize"]
)
def test_every_command_of_a_model_has_arguments_that_exist(name):
    module = importlib.import_module(name)
    command = f"python -m {name.replace('.__main__', '')} "
    lines = [line[line.index(command) :] for line in commands() if command in line]
    assert lines
    for line in lines:
        module.parse_arguments(shlex.split(line.split(">")[0])[3:])


def test_own_images_from_folders_to_training(tmp_path):
    """The README's commands for one's own images, as they stand there."""
    lines = commands()
    begin = next(i for i, line in enumerate(lines) if line.startswith("python -m data.pack"))
    pack, train, verify, evaluate, ten_crop = lines[begin : begin + 3] + [
        line for line in lines if "model.evaluate model/mine" in line
    ]
    rng = np.random.RandomState(0)
    for name in ("cats", "dogs"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            picture = rng.randint(0, 255, (40, 50, 3)).astype(np.uint8)
            cv2.imwrite(str(tmp_path / "images" / name / f"{i}.jpg"), picture)
    assert "--data-type custom" in train
    train += " --gpus= --num-epochs 1 --batch-size 8 --image-shape 3,32,32"
    train = train.replace("train_xception.py", str(ROOT / "train_xception.py"))
    # The modules are this folder's, the files of the commands the test's.
    python = f'python() {{ PYTHONPATH="{ROOT}" "{sys.executable}" "$@"; }}'
    scores = [line.replace(" 125 ", " 1 ") for line in (evaluate, ten_crop)]
    scores[1] = scores[1].replace("256,288,320", "36,48")
    text = "\n".join([python, pack, verify, train, *scores])
    process = subprocess.run(
        ["bash", "-ec", text], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert "36 images of 2 classes" in process.stdout
    assert (tmp_path / "model" / "mine-0001.params").exists()
    accuracy = re.search(r"Validation-accuracy=(\S+)", process.stdout)[1]
    assert f"4 images of data/mine/val.rec\naccuracy {accuracy}" in process.stdout
    for name in ("data/mine/train-samples.png", "data/mine/val-augmented.png",
                 "log/mine-confusion.csv"):  # fmt: skip
        assert (tmp_path / name).exists()


def test_files_of_a_run_are_documented():
    for name in ("x-symbol.json", "x-0003.params", "x-0003.states", "x-0003.json", "x-lock",
                 "x-best.params", "x-0003-000120"):  # fmt: skip
        assert f"model/{name}" in README


def test_the_tables_of_flags_are_the_parsers():
    told = [flag.split()[0] for _, _, rows in flags.groups() for flag, _, _ in rows]
    parser = train_xception.make_parser()
    assert told == [action.option_strings[0] for action in parser._actions][1:]
    _, between, _ = flags.parts_of(README)
    assert between == flags.tables(), "python -m tests.flags writes them anew"
    # A default of --help is what a run without flags gets; that of --lr is told in words.
    for name, value in RECIPES["2017"].items():
        assert name == "lr" or parser.get_default(name) == value, name


def test_links_lead_somewhere():
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", README, flags=re.S), re.M)
    # As GitHub and GitLab make them.
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}
    targets = re.findall(r"\]\(([^)\s]+)\)", README)
    assert len(targets) > 8
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif "://" not in target:
            assert (ROOT / target).exists(), target


def test_run_sh_says_what_it_knows():
    process = subprocess.run(
        ["bash", str(ROOT / "run.sh"), "nonsense"], capture_output=True, text=True
    )
    assert process.returncode == 2
    for word in ("setup", "test", "train"):
        assert f"./run.sh {word}" in process.stderr


@pytest.mark.parametrize("tools", [[], ["python3"]])
def test_setup_without_a_python_says_what_is_missing(tmp_path, tools):
    """A machine without Python, and one whose python3 has neither venv nor pip."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for tool in ("bash", "dirname", "rm", "cat", "cksum", "grep", "ldconfig", "sed"):
        if shutil.which(tool):
            (bin_folder / tool).symlink_to(shutil.which(tool))
    for tool in tools:
        (bin_folder / tool).write_text("#!/bin/sh\nexit 1\n")
        (bin_folder / tool).chmod(0o755)
    shutil.copy(ROOT / "run.sh", tmp_path)
    process = subprocess.run(
        [shutil.which("bash"), str(tmp_path / "run.sh"), "setup"],
        env={"PATH": str(bin_folder)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert "apt install python3-venv" in process.stderr and process.stderr.count("\n") == 1
