"""--retrain: from where, with which learning rate, and what is said of changed arguments."""

import json
import shutil

import train_xception
from model.checkpoint import ndarray_file
from tests.script.conftest import EPOCHS, arguments


def test_retrain_with_a_learning_rate_of_its_own(run, records, through, tmp_path):
    """The issue's own sequence: 2 epochs, then a third from epoch 1 at 0.001."""
    shutil.copytree(through, tmp_path, dirs_exist_ok=True)
    again = run(
        *arguments(records), "--model-prefix=x", "--log-file=y.log", "--num-epochs=3", "--retrain",
        "--model-load-epoch=1", "--lr=0.001",
    )  # fmt: skip
    assert again.returncode == 0
    text = (tmp_path / "y.log").read_text()
    assert "Epoch[1] Learning-rate=0.001" in text and "Epoch[2] Learning-rate=0.0001" in text
    assert "--lr: 0.001 from epoch 1 on; the run began with 0.1" in text
    # The newest is now the third of this run, not the fourth of the one before.
    process = run(*arguments(records), "--model-prefix=x", "--log-file=z.log", "--retrain")
    assert "resumes from x-0003.params" in process.stdout
    assert "Epoch[3] Learning-rate=0.0001" in process.stdout


def test_retrain_auto_starts_or_goes_on(records, through, tmp_path, monkeypatch, capsys):
    """One command for the first start and every restart, with an --lr too."""

    monkeypatch.chdir(tmp_path)
    shutil.copytree(through, tmp_path, dirs_exist_ok=True)

    def says(*more):
        given = [*arguments(records), "--retrain=auto", "--num-epochs=9", "--dry-run", *more]
        assert train_xception.main(given) == 0
        return capsys.readouterr().out

    said = says("--model-prefix=y")
    assert "no checkpoint yet: starts a new run" in said and "ready for epoch 0;" in said
    began = json.loads((through / f"x-{EPOCHS:04d}.json").read_text())["run"]["lr"]
    for more in ((), (f"--lr={began}",)):
        said = says("--model-prefix=x", *more)
        assert f"ready for epoch {EPOCHS};" in said and "--lr:" not in said
    assert f"--lr: 0.003 from epoch {EPOCHS} on" in says("--model-prefix=x", "--lr=0.003")


def test_changed_arguments_are_said(run, records, through, tmp_path):
    shutil.copytree(through, tmp_path, dirs_exist_ok=True)
    process = run(*arguments(records), "--model-prefix=x", "--retrain", "--wd=0.001", "--dropout=0")
    assert "wd 0.0001 -> 0.001" in process.stdout and "dropout 0.2 -> 0.0" in process.stdout
    process = run(*arguments(records), "--model-prefix=x", "--retrain", "--filters=original")
    assert process.returncode == 2 and "has the shape" in process.stderr
    process = run(*arguments(records), "--model-prefix=x", "--retrain", "--num-classes=11")
    assert process.returncode == 2 and "fc1_weight" in process.stderr


def test_momentum_may_be_given_up_and_taken_up_again(run, records, through, tmp_path):
    shutil.copytree(through, tmp_path, dirs_exist_ok=True)
    given = [*arguments(records), "--model-prefix=x", "--retrain"]
    without = run(*given, "--model-load-epoch=3", "--mom=0")
    assert without.returncode == 0 and "mom 0.5 -> 0.0" in without.stdout
    assert ndarray_file.parse((tmp_path / "x-0004.states").read_bytes()) == {}
    assert run(*given, "--num-epochs=5").returncode == 0
    assert ndarray_file.parse((tmp_path / "x-0005.states").read_bytes())
