"""The documentation and the front door: what they tell the user to type."""

import argparse
import fnmatch
import gc
import importlib
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import train_xception
from model import predict
from model.convert import __main__ as convert
from model.plan import Plan, make_parser
from model.recipes import RECIPES
from tests import flags
from tests.readme.pages import FRONT, PAGES, TEXT, anchors
from tests.runs import ROOT


def python_of(page: str) -> str:
    """Return the page's only block of Python."""
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGES[page], flags=re.DOTALL)
    return snippet


def test_the_front_page_is_short():
    assert FRONT.count("\n") <= 200
    assert len(FRONT.split()) <= 1500


def test_the_snippet_runs(tmp_path):
    """Another script, somewhere else, that finds this folder as its PYTHONPATH."""
    process = subprocess.run(
        [sys.executable, "-c", python_of("README.md")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == "[(1, 1000)]\n"


def commands() -> list:
    """Every command of the pages, once: the lines of indented blocks, and code in a sentence that
    begins as a command of this project."""
    text = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^    (\S.*)$", text, flags=re.MULTILINE)
    found = [line.split("  #")[0].strip() for line in found]
    program = r"python (?:-u )?(?:-m )?\w|\./run\.sh|model/launch/\S+ |sbatch|kubectl"
    begin = rf"(?:[A-Z_]+=\S+ )?(?:{program})"
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    found += [span for span in spans if re.match(begin, span)]
    return list(dict.fromkeys(found))


#: A command as fnmatch has it -> the test that runs it: as it stands but for fewer and smaller
#: images, fewer epochs, CPUs in the place of GPUs, and other folders. The first that fits counts,
#: and NOT_RUN before these.
RUN_BY = {
    "python -m data.pack *": "test_own_images_from_folders_to_training",
    "python -u train_xception.py * --model-prefix model/mine": (
        "test_own_images_from_folders_to_training"
    ),
    "python -m data.verify data/mine/train.rec data/mine/val.rec *": (
        "test_own_images_from_folders_to_training"
    ),
    "python -m model.evaluate model/mine *": "test_own_images_from_folders_to_training",
    "python -m data.imagenet.prepare *--resize *": "test_imagenet_record_names_follow_the_sizes",
    "python -m data.imagenet.prepare *": "test_imagenet_labels_follow_the_alphabet",
    "python -m data.cifar10.prepare *": "test_cifar10_records_hold_exactly_the_pixels",
    "python -m data.digits.prepare": "test_digits_records_are_always_the_same",
    "python train_xception.py --help": "test_help_is_quick_grouped_and_says_every_default",
    "model/launch/local.sh *": "test_local_job_ends_as_its_workers_do",
    "until model/launch/local.sh *": "test_a_shell_restarts_a_job_until_it_is_done",
    "python *train_xception.py *": "test_training_commands_train",
    "python -m data.verify *": "test_commands_on_what_was_trained",
    "python -m model.quantize *": "test_commands_on_what_was_trained",
    "python -m model.evaluate model/resnet-18 *": (
        "test_what_a_checkpoint_does_not_say_is_assumed_aloud_or_given"
    ),
    "python -m model.evaluate model/demo-int8 *": "test_commands_on_what_was_trained",
    "python -m model.evaluate model/photos *": "test_commands_on_what_was_trained",
    "python -m model.evaluate model/keras *": "test_commands_on_what_was_trained",
    "python -m model.predict *": "test_commands_on_what_was_trained",
    "find . -name '*.jpg' | python -m model.predict *": "test_commands_on_what_was_trained",
    "python -m log.plot_curves *--live*": "test_live_draws_again_what_has_changed",
    "python -m log.plot_curves *--out *": "test_curves_are_drawn",
    "python -m model.selftest*": "test_a_whole_report",
    "python -m model.convert keras *": "test_keras_gives_the_same_outputs",
    "python -m model.convert sliced *": "test_sliced_networks_give_the_same_outputs",
    "python -m model.convert to-keras *": "test_back_to_keras",
    "python -m model.convert torch *": "test_timm_gives_the_same_outputs",
    "python -m model.convert to-torch *": "test_back_to_torch",
    "python -m model.convert onnx *": "test_onnxruntime_gives_the_same_outputs",
}

#: A command -> why no test runs it.
NOT_RUN = {
    "python -m data.pack": "named without its arguments",
    "export *": "variables for processes that are started by hand on two machines",
    "python -m tests.flags": "writes model/FLAGS.md, which a test compares with the parser",
    "./run.sh": "takes minutes; it is the first thing to try by hand",
    "./run.sh setup": "downloads, and changes .venv: the tests run in what it has made",
    "./run.sh train": "is train_xception.py in .venv, which setup makes",
    "./run.sh test*": "runs the tests",
    "XCEPTION_KILLS=200 ./run.sh test *": "takes long; without the variable the test kills less",
    "./run.sh lint": "looks at the style; it is run beside the tests",
    "python -m model.devices": "changes .venv; ./run.sh setup runs it before the tests",
    "python -m tests.benchmark.*": "takes minutes or hours, and gigabytes of other frameworks",
    "sbatch *": "needs Slurm; test_launch.py runs the script with a stand-in",
    "kubectl *": "needs a cluster; test_launch.py runs the manifest's script",
    "*python -m model.launch.mxnet_launch*": "needs machines to reach by ssh",
    "DMLC_ROLE=*": "needs two machines; test_cluster.py has one",
    "wget *": "downloads 92 MB",
    "python -c *": "downloads 92 MB, with a Keras of the user's own",
}


def runs(command) -> tuple:
    """Return (the pattern that fits a command, the test that runs it), the second None for one that
    no test runs; both None for one that is in neither list."""
    for pattern in (*NOT_RUN, *RUN_BY):
        if fnmatch.fnmatchcase(command, pattern):
            return pattern, RUN_BY.get(pattern)
    return None, None


def test_every_command_is_run_by_a_test_or_says_why_not():
    assert len(commands()) > 50
    unknown = [command for command in commands() if not runs(command)[0]]
    assert not unknown, "neither in RUN_BY nor in NOT_RUN"
    used = [runs(command)[0] for command in commands()]
    assert not [pattern for pattern in (*RUN_BY, *NOT_RUN) if pattern not in used]
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    missing = [name for name in RUN_BY.values() if f"\ndef {name}(" not in tests]
    assert not missing


def run_by(name) -> list:
    return [command for command in commands() if runs(command)[1] == name]


class _Parsed(Exception):
    pass


@pytest.mark.parametrize(
    "command", [c for c in commands() if re.match(r"python -m tests\.benchmark\.[a-z]", c)]
)
def test_benchmarks_have_the_arguments_that_they_are_given(command, monkeypatch):
    """They are not run: each is begun, and ends when its parser has taken the words."""
    module, *words = shlex.split(command)[2:]
    parse = argparse.ArgumentParser.parse_args

    def parse_and_end(parser):
        parse(parser)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_end)
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(_Parsed):
        importlib.import_module(module).main()


def test_every_training_command_has_arguments_that_exist():
    lines = [line for line in commands() if "train_xception.py " in line and "--help" not in line]
    assert len(lines) >= 15
    for line in lines:
        words = shlex.split(line.replace(" ...", ""))
        Plan.of(words[words.index("train_xception.py") + 1 :])


@pytest.mark.parametrize(
    "name",
    [
        "model.convert.__main__",
        "model.evaluate",
        "model.predict",
        "model.quantize",
        "model.selftest.__main__",
    ],
)
def test_every_command_of_a_model_has_arguments_that_exist(name):
    module = importlib.import_module(name)
    command = f"python -m {name.replace('.__main__', '')} "
    lines = [line[line.index(command) :] for line in commands() if command in line]
    assert lines
    for line in lines:
        module.parse_arguments(shlex.split(line.split(">")[0])[3:])


# The commands, run


@pytest.fixture
def in_workshop(workshop, monkeypatch):
    """Be in the workshop; a log that is opened is left when the test ends."""
    monkeypatch.chdir(workshop)
    handlers = logging.getLogger().handlers[:]
    yield workshop
    gc.collect()  # the locks of the checkpoints, too
    logging.getLogger().handlers[:] = handlers


@pytest.mark.parametrize("command", run_by("test_training_commands_train"))
def test_training_commands_train(command, in_workshop, tmp_path, capsys):
    """Each for an epoch of 96 images, on two CPUs in the place of GPUs."""
    words = shlex.split(command)
    words = words[words.index("train_xception.py") + 1 :]
    writes = not {"--dry-run", "--summary", "--benchmark"}.intersection(words)
    small = ["--batch-size=32", "--benchmark-batches=3", f"--log-file={tmp_path}/x.log", "--gpus="]
    if "--summary" not in words:
        small += ["--image-shape=3,16,16"]
    if any(word.startswith("--gpus=0") for word in words):
        small += ["--cpus=2"]
    epochs = 1
    if "--retrain" in words:
        given = Plan.of(words).saving
        epochs = 1 + (given.model_load_epoch or 125)
        prefix = given.model_prefix
    else:
        prefix = f"{tmp_path}/x"
    small += [f"--num-epochs={epochs}", f"--model-prefix={prefix}"]
    before = sorted(in_workshop.rglob("*"))
    assert train_xception.main([*words, *small]) == 0
    said = capsys.readouterr().out
    if not writes:
        assert said and not list(tmp_path.iterdir()) and before == sorted(in_workshop.rglob("*"))
        return
    assert f"Epoch[{epochs - 1}] Validation-accuracy" in said
    assert Path(f"{prefix}-{epochs:04d}.params").exists()
    assert ("cpu(1)" in said) == any(word.startswith("--gpus=0") for word in words)


def test_commands_on_what_was_trained(in_workshop, capfd):
    """As they stand, in the order of the pages."""
    (in_workshop / "photos").mkdir()
    for i, name in enumerate(("cat.jpg", "photos/1.jpg", "photos/2.jpg")):
        cv2.imwrite(name, np.full((30, 40, 3), 90 * i, np.uint8))
    shutil.copytree("photos", "new")
    said = {}
    for line in run_by("test_commands_on_what_was_trained"):
        words = shlex.split(line)
        if "|" in words:
            python = f'python() {{ PYTHONPATH="{ROOT}" "{sys.executable}" "$@"; }}'
            subprocess.run(["bash", "-ec", f"set -o pipefail; {python}; {line}"], check=True)
        else:
            assert importlib.import_module(words[2]).main(words[3:]) == 0, line
        said[words[2]] = said.get(words[2], "") + capfd.readouterr().out
    assert "data/mine/train-augmented.png" in said["data.verify"]
    assert said["model.quantize"] == "model/demo-int8-0010.params\n"
    assert "40 images of data/digits/val.rec" in said["model.evaluate"]
    assert said["model.predict"].count("\n") == 2 * 4 + 3 * 4 + 1
    assert len(np.load(in_workshop / "features.npz")["images"]) == 2
    assert len(json.loads((in_workshop / "found.json").read_text())) == 5
    exec(python_of("model/README.md"))


def test_the_onnx_example_predicts_as_model_predict(in_workshop, capsys):
    pixels = np.random.RandomState(0).randint(0, 256, (45, 61, 3)).astype(np.uint8)
    cv2.imwrite("photo.jpg", pixels)
    assert convert.main(["onnx", "model/mine", "30", "out.onnx"]) == 0
    capsys.readouterr()
    assert predict.main(["model/mine", "30", "photo.jpg", "--top=1", "--csv"]) == 0
    _, _, _, name, probability = capsys.readouterr().out.splitlines()[1].split(",")
    exec(python_of("model/convert/README.md"), {})
    found = capsys.readouterr().out.split()
    assert found[0] == name and float(found[1]) == pytest.approx(float(probability), abs=1e-5)


def test_own_images_from_folders_to_training(tmp_path):
    """The commands of the front page that need images in folders, and the ten-crop evaluation."""
    lines = run_by("test_own_images_from_folders_to_training")
    pack, verify, train, evaluate, pack_photos, pack_test, evaluate_test, ten_crop = lines
    rng = np.random.RandomState(0)
    for name in ("cats", "dogs"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            picture = rng.randint(0, 255, (40, 50, 3)).astype(np.uint8)
            cv2.imwrite(str(tmp_path / "images" / name / f"{i}.jpg"), picture)
    assert "--data-type custom" in train
    suggested = f"next: {train}\n"
    train += " --gpus= --num-epochs 1 --batch-size 8 --image-shape 3,32,32"
    train = train.replace("train_xception.py", str(ROOT / "train_xception.py"))
    # The modules are this folder's, the files of the commands the test's.
    python = f'python() {{ PYTHONPATH="{ROOT}" "{sys.executable}" "$@"; }}'
    scores = [line.replace(" 30 ", " 1 ") for line in (evaluate, ten_crop)]
    scores[1] = scores[1].replace("256,288,320", "36,48")
    held_out = [
        "mkdir -p images/train images/test/cats images/test/dogs",
        "mv images/cats images/dogs -t images/train",
        "mv images/train/cats/1?.jpg images/test/cats",
        "mv images/train/dogs/1?.jpg images/test/dogs",
        pack_test,
        evaluate_test.replace(" 30 ", " 1 "),
    ]
    text = "\n".join(
        [python, pack, verify, train, *scores, "cp -r images photos", pack_photos, *held_out]
    )
    process = subprocess.run(
        ["bash", "-ec", text], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert suggested in process.stdout
    assert "36 images of 2 classes" in process.stdout
    assert (tmp_path / "model" / "mine-0001.params").exists()
    accuracy = re.search(r"Validation-accuracy=(\S+)", process.stdout)[1]
    assert f"4 images of data/mine/val.rec\naccuracy {accuracy}" in process.stdout
    assert "20 images of data/mine-test/val.rec\n" in process.stdout
    for name in ("data/mine/train-samples.png", "data/mine/val-augmented.png",
                 "log/mine-confusion.csv", "data/photos/train.rec"):  # fmt: skip
        assert (tmp_path / name).exists()


def test_files_of_a_run_are_documented():
    for name in ("x-symbol.json", "x-0003.params", "x-0003.states", "x-0003.json", "x-lock",
                 "x-best.params", "x-0003-000120"):  # fmt: skip
        assert f"model/{name}" in PAGES["model/README.md"]


def test_the_tables_of_flags_are_the_parsers():
    told = [flag.split()[0] for _, _, rows in flags.groups() for flag, _, _ in rows]
    parser = make_parser()
    assert told == [action.option_strings[0] for action in parser._actions][1:]
    _, between, _ = flags.parts_of(PAGES["model/FLAGS.md"])
    assert between == flags.tables(), "python -m tests.flags writes them anew"
    # A default of --help is what a run without flags gets; that of --lr is told in words.
    for name, value in RECIPES["2017"].items():
        assert name == "lr" or parser.get_default(name) == value, name


def test_links_lead_somewhere():
    found = 0
    for name, text in PAGES.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            place = os.path.normpath(os.path.join(os.path.dirname(name), path) if path else name)
            assert (ROOT / place).exists(), (name, target)
            assert not anchor or anchor in anchors(PAGES[place]), (name, target)
            found += 1
    assert found > 20


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
