"""A run that is stopped or killed at any moment, and resumed, ends in the same bits."""

import json
import os
import random
import signal
import subprocess
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.runs import PIPES, begin, digest, figures, metrics, start, start_until
from tests.script.conftest import EPOCHS, arguments


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_in_a_checkpoint_and_retrain_goes_on_exactly(
    records, through, tmp_path, number, code
):
    given = [*arguments(records), "--model-prefix=x", "--log-file=x.log", "--tensorboard=board"]
    process = start_until("line Epoch[1] Batch [0-5]", tmp_path, *given)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    rest, _ = process.communicate()
    assert process.returncode == code
    assert f"stopped by {signal.Signals(number).name} at epoch 1, batch 6;" in rest
    assert "--retrain" in rest
    assert len(list(tmp_path.glob("x-0001-*.params"))) == 1
    resumed = start(tmp_path, *given, "--retrain")
    assert resumed.returncode == 0, resumed.stderr
    assert digest(tmp_path, "x", EPOCHS) == digest(through, "x", EPOCHS)
    assert figures(tmp_path / "x.log") == figures(through / "x.log")
    assert metrics(tmp_path) == metrics(through)
    starts = json.loads((tmp_path / "x-config.json").read_text())["starts"]
    assert [each["epoch"] for each in starts] == [0, 1]
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    for what, curve in (("interval", "training"), ("validation", "validation")):
        points = [(event.step, event.value) for event in board.Scalars(f"loss/{curve}")]
        lines = [line for line in metrics(tmp_path) if line["event"] == what]
        assert points == [(line["update"], pytest.approx(line["loss"])) for line in lines]
    assert not list(tmp_path.glob("x-*-*.params"))


def test_a_second_signal_ends_at_once(records, tmp_path):
    """Both signals are there when the batch ends: no checkpoint is written for either."""
    given = [*arguments(records), "--model-prefix=x", "--log-file=x.log"]
    process = begin(tmp_path, *given, stdout=subprocess.PIPE)
    for line in process.stdout:
        if "Epoch[0] Batch [0-5]" in line:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            break
    rest = process.stdout.read()
    assert process.wait() in (130, 143)
    assert "stopped by" not in rest and not list(tmp_path.glob("x-*.params"))


# Each state that the files of checkpoints can be left in, as moments for tests/moments.py; batches
# 2, 4 ... of 12 have one, and each run resumes from what the one before has left.
WINDOWS = (
    "rename x-symbol.json.part",
    "open x-0000-000002.params.part",
    "write x-0000-000002.params.part",
    # A whole one there, and the one before, or what is left of that.
    "remove x-0000-000002.json",
    "remove x-0000-000002.states",
    "remove x-0000-000004.params",
    "rename x-0000-000010.params.part",
    "write x-0000-000010.states.part",
    "rename x-0000-000010.states.part",
    "open x-0000-000010.json.part",
    "rename x-0000-000010.json.part",
    # The end of an epoch: its figures of validation come later, and then the best one.
    "write x-0001.params.part",
    "open x-0001.json.part 2",
    "rename x-0001.json.part",
    "symlink x-best.params.part",
    "rename x-best.params.part",
)


def kills():
    return int(os.environ.get("XCEPTION_KILLS", "20"))


def test_killed_at_any_moment_it_ends_in_the_same_bits(records, through, tmp_path):
    """SIGKILL, at least 20 times (XCEPTION_KILLS for more), each time the same command: once
    in each of the windows, then at random moments."""
    given = [*arguments(records), "--model-prefix=x", "--log-file=x.log", "--checkpoint-batches=2",
             "--retrain=auto"]  # fmt: skip
    drawn = random.Random(0)
    windows = iter(WINDOWS)
    killed = places = 0
    while True:
        window = next(windows, None)
        if window:
            process = start_until(window, tmp_path, *given)
            process.kill()
        else:
            process = begin(tmp_path, *given, **PIPES)
            if killed < kills():
                # The first line comes when all is ready to train.
                first = process.stdout.readline()
                time.sleep(drawn.uniform(0, 1))
                process.kill()
        out, err = process.communicate()
        if process.returncode == -signal.SIGKILL:
            killed += 1
            places += "resumes from" in (out if window else first + out)
            continue
        assert process.returncode == 0, err
        if killed >= kills():
            break
        # It got to the end before it was killed: once more from the beginning.
        assert digest(tmp_path, "x", EPOCHS) == digest(through, "x", EPOCHS)
        for path in tmp_path.iterdir():
            path.unlink()
    assert killed >= kills() and places >= len(WINDOWS) - 4
    assert digest(tmp_path, "x", EPOCHS) == digest(through, "x", EPOCHS)
    assert metrics(tmp_path) == metrics(through)
    assert not list(tmp_path.glob("*.part"))
