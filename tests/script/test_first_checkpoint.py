"""`--retrain auto` after a kill within the first checkpoint of a run."""

import itertools
import os
import pickle
import shutil
import signal
from functools import partial, partialmethod
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from log.notices import Notices
from model import ModelError
from model.checkpoint import Place
from model.plan import Plan
from model.training.average import AveragedCheckpoints
from model.training.claiming import take_lock
from model.training.resume import find_generation
from tests.runs import digest, start_until
from tests.script.conftest import EPOCHS, arguments


def numbered_run(number, ema=False):
    """What `save` takes of a run whose network is another for each `number`."""
    symbol = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=number, name="fc1")
    states = {"w": np.full(3, number, "f4")}
    if ema:
        states.update({"~": np.array([1]), "w~": np.full(3, number, "f4")})
    run = {
        "number": number,
        "settings": {"rgb_mean": [0] * 3, "rgb_std": [1] * 3},
        **{"lr": 0.1, "lr_epoch": 0, "updates": 2, "batches": 3},
        **{"figures": [[[0, 1, 0, 1]]], "validation": None, "best": None},
    }
    return symbol.tojson(), {"arg:w": np.full(3, number, "f4")}, states, run


def earlier_run(*epochs):
    def write(prefix):
        for epoch in epochs:
            AveragedCheckpoints(prefix).save(Place(epoch), *numbered_run(1))

    return write


def symbol_of_another(prefix):
    Path(f"{prefix}-symbol.json").write_text(numbered_run(3)[0])


def plain_checkpoint(prefix):
    """As MXNet's Module leaves it, with its momentum."""
    symbol_of_another(prefix)
    mx.nd.save(f"{prefix}-0003.params", {"arg:w": mx.nd.ones(3)})
    Path(f"{prefix}-0003.states").write_bytes(pickle.dumps({0: None}))


def first_checkpoint(prefix, place, ema):
    """Begin as a run with --overwrite, and do what it does with its first checkpoint."""
    checkpoints = AveragedCheckpoints(prefix)
    take_lock(Plan.of(["--ema=0.9"] if ema else []), checkpoints, Notices())
    checkpoints.save(place, *numbered_run(2, ema))
    checkpoints.remove(each for each in checkpoints.places() if each != place)


def killed(step, function, *arguments) -> bool:
    """Call a function in a process that is killed before its `step`-th sync, rename or deletion.
    Return whether it came to that."""
    child = os.fork()
    if not child:
        try:
            steps = itertools.count()

            def counted(do, *given, **more):
                if next(steps) == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return do(*given, **more)

            os.fsync, os.replace = partial(counted, os.fsync), partial(counted, os.replace)
            Path.unlink = partialmethod(partial(counted, Path.unlink))
            function(*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


def go_on(prefix, ema=False, retrain="auto") -> tuple:
    """Return (what `--retrain auto` resumes from, what it prints)."""
    notices = Notices()
    checkpoints = AveragedCheckpoints(prefix)
    words = [f"--model-prefix={prefix}", *(["--ema=0.9"] if ema else [])]
    plan = Plan.of([*words, f"--retrain={retrain}"] if retrain else words)
    take_lock(plan, checkpoints, notices)
    return find_generation(plan, checkpoints, notices), list(map(str, notices))


@pytest.mark.parametrize("place", [Place(1), Place(0, 2)], ids=str)
@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize(
    "before, has_another",
    [
        (None, False),
        (symbol_of_another, False),
        (earlier_run(1), False),
        (earlier_run(1, 2), True),
    ],
    ids=["nothing", "a symbol", "a generation", "two generations"],
)
def test_retrain_auto_behind_a_kill_anywhere_in_the_first_checkpoint(
    before, has_another, ema, place, tmp_path
):
    """It starts a new run, or resumes from the generation that is whole, with its network."""
    found = []
    for step in itertools.count():
        folder = tmp_path / str(step)
        folder.mkdir()
        prefix = folder / "x"
        if before:
            before(prefix)
        if not killed(step, first_checkpoint, prefix, place, ema):
            break
        unfinished = AveragedCheckpoints(prefix).places()
        generation, said = go_on(prefix, ema)
        if generation:
            number = generation.run["number"]
            symbol, params, states, _ = numbered_run(number, ema and number == 2)
            assert generation.symbol_json == symbol, step
            for name, array in {**params, **states}.items():
                assert np.array_equal({**generation.params, **generation.states}[name], array)
            found.append((number, generation.place))
        else:
            assert len(said) == 1 and said[0].startswith("no checkpoint yet: starts a new run"), (
                said
            )
            assert all(f"{prefix}-{each.stem}" in said[0] for each in unfinished)
            found.append(None)
        # Then it comes to its first checkpoint again.
        first_checkpoint(prefix, place, ema)
        assert go_on(prefix, ema)[0].run["number"] == 2
        assert not list(folder.glob("*.part"))
        assert len(list(folder.glob("x-0*"))) == 3
    assert step > 8 and found[-1] == (2, place)
    if has_another:
        assert None not in found


def test_a_run_killed_within_its_first_checkpoint_starts_anew(run, records, through, tmp_path):
    given = [*arguments(records), "--model-prefix=x", "--log-file=x.log", "--retrain=auto"]
    killed = start_until("open x-0001.json.part", tmp_path, *given)
    killed.kill()
    killed.communicate()
    left = {path.name for path in tmp_path.glob("x-[0s]*")}
    assert left == {"x-symbol.json", "x-0001.states", "x-0001.params"}
    always = run(*arguments(records), "--model-prefix=x", "--retrain")
    assert always.returncode == 2 and "x-0001.states has no x-0001.json" in always.stderr
    process = run(*given, "--checkpoint-epochs=2")
    assert process.returncode == 0, process.stderr
    assert "starts a new run, and skips unfinished files: x-0001\n" in process.stdout
    assert not list(tmp_path.glob("x-0001*"))
    assert digest(tmp_path, "x", EPOCHS) == digest(through, "x", EPOCHS)


def test_retrain_auto_leaves_a_checkpoint_of_another_program_alone(tmp_path):
    plain_checkpoint(tmp_path / "plain")
    for step in itertools.count():
        folder = tmp_path / str(step)
        folder.mkdir()
        for path in tmp_path.glob("plain-*"):
            shutil.copy(path, folder / path.name.replace("plain", "x"))
        theirs = {path: path.read_bytes() for path in folder.iterdir()}
        if not killed(step, first_checkpoint, folder / "x", Place(1), False):
            break
        try:
            generation, _ = go_on(folder / "x")
        except ModelError as error:
            assert "x-0003.params has no x-0003.json: not written by this script" in str(error)
            assert "\n" not in str(error)
            assert {path: path.read_bytes() for path in theirs} == theirs
        else:
            assert generation.run["number"] == 2
    assert generation and step > 8
