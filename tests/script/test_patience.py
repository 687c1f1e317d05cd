"""--patience: a run ends when validation no longer improves, and a resumed one after the same
epoch."""

import json

from model.checkpoint import Checkpoints, Place
from tests.runs import digest


def test_a_run_without_improvement_ends_early_and_resumed_after_the_same_epoch(
    run, records, tmp_path
):
    # Nothing learns: every epoch has the validation accuracy of the first.
    given = [*records.thin, "--freeze=all-but-head", "--lr=1e-30"]

    def train(name, *more):
        process = run(*given, f"--model-prefix={name}", f"--log-file={name}.log", *more)
        assert process.returncode == 0, process.stderr
        return process.stdout

    through = train("x", "--num-epochs=9", "--patience=2", "--checkpoint-epochs=5")
    assert "--patience 2: no epoch after epoch 1 had a better validation accuracy" in through
    # The last epoch has a checkpoint, also where none is due, with its figures.
    checkpoints = Checkpoints(tmp_path / "x")
    assert checkpoints.places() == [Place(3)]
    assert checkpoints.run(Place(3))["validation"]["accuracy"] >= 0
    # It competes, as the last epoch of any run does.
    assert "trained: x-0003.params; best validation accuracy" in through

    del given[-1]  # --lr: a resumed run has the one that it had
    train("y", "--lr=1e-30", "--num-epochs=2")
    resumed = train("y", "--num-epochs=9", "--patience=2", "--retrain")
    assert "Epoch[2] Train-" in resumed and "Epoch[3]" not in resumed
    assert digest(tmp_path, "x", 3) == digest(tmp_path, "y", 3)
    # What has ended is not trained on, however often it is resumed.
    again = train("y", "--num-epochs=9", "--patience=2", "--retrain=auto")
    assert "validation accuracy than its" in again and "nothing to train" in again
    assert "Epoch[" not in again and Checkpoints(tmp_path / "y").places()[-1] == Place(3)
    saved = json.loads((tmp_path / "y-0003.json").read_text())["run"]
    assert saved["best_validation"]["epoch"] == 1
