"""model.checkpoint.store: generations that are whole or absent, and verified."""

import json
import os
import shutil
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import symbol_xception
from model import ModelError
from model.checkpoint import Checkpoints, Place, ndarray_file
from model.checkpoint.format import listed
from model.training.module import numpy_params
from tests.model.training.modules import bound, small_symbol
from tests.networks import THINNEST
from tests.runs import ROOT


def save(prefix, place, value, **run):
    symbol = small_symbol()
    checkpoints = Checkpoints(prefix)
    params = {"arg:fc1_bias": np.full(5, value, "f4")}
    states = {"fc1_bias:0": np.full(5, -value, "f4")}
    checkpoints.save(place, symbol.tojson(), params, states, {"value": value, **run})
    return checkpoints


def test_newest_is_the_one_saved_last(tmp_path):
    for place, value in ((Place(1), 1.0), (Place(2), 2.0), (Place(3), 3.0), (Place(2), 4.0)):
        checkpoints = save(tmp_path / "x", place, value)
    newest, passed_over = checkpoints.newest()
    assert (newest.place, newest.run["value"], passed_over) == (Place(2), 4.0, [])
    assert newest.params["arg:fc1_bias"][0] == 4 and newest.states["fc1_bias:0"][0] == -4


@pytest.mark.parametrize(
    ("places", "says"),
    [
        ([(1, 0)], "epoch 1"),
        ([(1, 0), (2, 0)], "epoch 1, epoch 2"),
        ([(1, 0), (2, 0), (3, 0), (3, 120), (4, 0)], "epochs 1 to 3, epoch 3, batch 120, epoch 4"),
        ([(5, 0), (6, 0), (10, 0), (11, 0), (12, 0)], "epoch 5, epoch 6, epochs 10 to 12"),
    ],
)
def test_epochs_in_a_row_are_listed_as_one(places, says):
    assert listed([Place(*place) for place in places]) == says


def test_a_prefix_without_a_checkpoint_names_those_there_are(tmp_path):
    checkpoints = Checkpoints(tmp_path / "x")
    with pytest.raises(ModelError, match=r"has no checkpoint of epoch 1$"):
        checkpoints.check_there(Place(1))
    for name in ("mine", "demo"):
        save(tmp_path / name, Place(1), 1.0)
    says = rf"has no checkpoint of epoch 1; prefixes in {tmp_path}: demo, mine$"
    with pytest.raises(ModelError, match=says):
        checkpoints.check_there(Place(1))


@pytest.fixture(scope="module")
def generations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generations")
    for epoch in (1, 2):
        save(folder / "x", Place(epoch), float(epoch))
    return folder


FILES = ("x-0002.params", "x-0002.states", "x-0002.json", "x-symbol.json")


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_damage_to_a_generation_is_found(generations, tmp_path_factory, data):
    """Truncation, flipped bits, appended bytes, anywhere: an error in one line that names a file,
    and the generation before is taken instead (unless the damage is to what both share)."""
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(generations, folder, dirs_exist_ok=True)
    name = data.draw(st.sampled_from(FILES))
    content = bytearray((folder / name).read_bytes())
    kind = data.draw(st.sampled_from(["truncate", "flip", "append", "garbage"]))
    if kind == "truncate":
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    elif kind == "flip":
        bit = data.draw(st.integers(0, len(content) * 8 - 1))
        content[bit // 8] ^= 1 << bit % 8
    elif kind == "append":
        content += data.draw(st.binary(min_size=1, max_size=20))
    else:
        content = data.draw(st.binary(max_size=200))
    (folder / name).write_bytes(content)
    checkpoints = Checkpoints(folder / "x")
    try:
        loaded = checkpoints.load(Place(2))
    except ModelError as error:
        assert str(folder) in str(error) and "\n" not in str(error)
    else:
        # JSON may be changed without a change of what it says: white space, an escape.
        assert name == "x-0002.json"
        assert loaded.run == {"value": 2.0}
        return
    newest, passed_over = checkpoints.newest()
    if name == "x-symbol.json":
        assert newest is None and len(passed_over) == 2
    else:
        assert newest.place == Place(1) and len(passed_over) == 1


def test_an_unfinished_generation_is_passed_over(generations, tmp_path):
    """What a run leaves that was killed between the files: the .json, written last, is missing."""
    shutil.copytree(generations, tmp_path, dirs_exist_ok=True)
    (tmp_path / "x-0002.json").unlink()
    newest, passed_over = Checkpoints(tmp_path / "x").newest()
    assert newest.place == Place(1)
    assert "never finished" in passed_over[0]


def test_another_symbol_of_the_same_parameters_spoils_no_generation(generations, tmp_path):
    """--dropout or --workspace may change on resume, and the symbol file with it."""
    shutil.copytree(generations, tmp_path, dirs_exist_ok=True)
    checkpoints = Checkpoints(tmp_path / "x")
    symbol = small_symbol(dropout=0.5).tojson()
    checkpoints.save(Place(3), symbol, {"a": np.zeros(1, "f4")}, {}, {})
    assert checkpoints.load(Place(1)).symbol_json == symbol


@pytest.mark.parametrize("writes", range(1, 5))
def test_a_kill_between_the_files_of_another_symbol(generations, tmp_path, monkeypatch, writes):
    """Whichever file was the last to be renamed, there is a generation to go on from."""
    shutil.copytree(generations, tmp_path, dirs_exist_ok=True)
    checkpoints = Checkpoints(tmp_path / "x")
    renames = []

    def rename(*names, replace=os.replace):
        if len(renames) == writes:
            raise KeyboardInterrupt
        renames.append(names)
        replace(*names)

    monkeypatch.setattr(os, "replace", rename)
    try:
        checkpoints.save(Place(3), small_symbol(dropout=0.5).tojson(), {"a": np.zeros(1)}, {}, {})
    except KeyboardInterrupt:
        assert writes < 4
    assert checkpoints.newest()[0].place == Place(3 if writes >= 3 else 2)
    assert checkpoints.load(Place(1))


@pytest.mark.parametrize("kept", [(), (1, 2)], ids=str)
def test_a_kill_before_another_network_has_its_name(generations, tmp_path, monkeypatch, kept):
    """As with --overwrite: the newest generation is loaded with its own network, not with that of
    the run before, whether another generation knows that one or none does."""
    shutil.copytree(generations, tmp_path, dirs_exist_ok=True)
    checkpoints = Checkpoints(tmp_path / "x")
    checkpoints.remove(set(checkpoints.places()) - set(map(Place, kept)))

    def rename(*names, replace=os.replace):
        if names[1].name == "x-symbol.json":
            raise KeyboardInterrupt
        replace(*names)

    monkeypatch.setattr(os, "replace", rename)
    symbol = symbol_xception.get_xception_symbol(7, filter_list=THINNEST).tojson()
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(Place(1), symbol, {"a": np.zeros(1, "f4")}, {}, {})
    monkeypatch.undo()
    checkpoints.lock()
    newest, _ = checkpoints.newest()
    assert (newest.place, newest.symbol_json) == (Place(1), symbol)
    assert not list(tmp_path.glob("*.part"))


def test_a_network_without_its_generation_is_not_taken(generations, tmp_path):
    """Killed before the .json: the earlier generations keep the network that they know."""
    shutil.copytree(generations, tmp_path, dirs_exist_ok=True)
    (tmp_path / "x-symbol.json.part").write_text(small_symbol(dropout=0.5).tojson())
    checkpoints = Checkpoints(tmp_path / "x")
    checkpoints.lock()
    assert checkpoints.load(Place(2)).symbol_json == small_symbol().tojson()
    assert not list(tmp_path.glob("*.part"))


def test_a_second_run_is_kept_off(tmp_path):
    mine = Checkpoints(tmp_path / "x")
    mine.lock()
    other = f"from model.checkpoint import Checkpoints; Checkpoints({str(tmp_path / 'x')!r}).lock()"
    second = subprocess.run([sys.executable, "-c", other], cwd=ROOT, capture_output=True, text=True)
    assert "another run" in second.stderr
    with pytest.raises(ModelError, match="another run"):
        Checkpoints(tmp_path / "x").lock()


def test_what_a_killed_run_has_left_half_written_goes_with_the_next(tmp_path):
    """Also that of a place to which the next run does not come; and not another prefix's."""
    kinds = ("symbol.json", "0003.params", "0003-000002.states", "0003.json", "best.params")
    mine = {f"x-{kind}.part" for kind in kinds}
    others = {"x-more-0003.params.part", "y-0003.params.part", "x-0003.params"}
    for name in mine | others:
        (tmp_path / name).touch()
    Checkpoints(tmp_path / "x").lock()
    assert set(os.listdir(tmp_path)) == others | {"x-lock"}


def test_two_prefixes_of_which_one_begins_like_the_other(tmp_path):
    """A run on x leaves alone what a run on x-big is writing."""
    half_written = tmp_path / "x-big-0003.params.part"
    half_written.write_bytes(b"...")
    mine = tmp_path / "x-0003-000120.params.part"
    mine.write_bytes(b"...")
    checkpoints = Checkpoints(tmp_path / "x")
    checkpoints.lock()
    assert half_written.exists() and not mine.exists()


@pytest.mark.parametrize("limit", [100, 3000, 30_000])
def test_a_write_that_fails_leaves_the_generation_before(tmp_path, limit):
    """A limit on the size of files stands for a full disk: it fails in the midst of a write."""
    save(tmp_path / "x", Place(1), 1.0)
    code = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from tests.model.checkpoint.test_store import *\n"
        f"save({str(tmp_path / 'x')!r}, Place(2), 2.0, more='.' * 40_000)"
    )
    failed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "ModelError" in failed.stderr and "no checkpoint of epoch 2 could" in failed.stderr
    assert not list(tmp_path.glob("*.part"))
    checkpoints = Checkpoints(tmp_path / "x")
    assert checkpoints.newest()[0].place == Place(1)


def test_plain_mxnet_loads_a_generation(tmp_path):
    symbol = small_symbol()
    module = bound(symbol=symbol)
    params = numpy_params(*module.get_params())
    Checkpoints(tmp_path / "x").save(Place(3), symbol.tojson(), params, {}, {})
    loaded, arg_params, aux_params = mx.model.load_checkpoint(str(tmp_path / "x"), 3)
    assert loaded.list_arguments() == symbol.list_arguments()
    for key, array in params.items():
        kind, name = key.split(":")
        assert np.array_equal({"arg": arg_params, "aux": aux_params}[kind][name].asnumpy(), array)


def test_nothing_in_a_checkpoint_is_a_pickle(generations):
    for path in generations.iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix in (".params", ".states"):
            ndarray_file.parse(path.read_bytes())
        else:
            raise AssertionError(path)
    assert len(os.listdir(generations)) == 7
