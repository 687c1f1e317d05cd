"""model/: files that can be trusted, and a state that is whole."""

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
from model.network.params import check_params
from model.training.finetune import frozen_params, training_symbol
from model.training.module import ResumableModule, ndarray_params, numpy_params
from model.training.schedule import Schedule
from tests.runs import ROOT

SMALL = (4, 4, 6, 6, 8, 8, 10)


def small_symbol(**arguments):
    return symbol_xception.get_xception_symbol(5, filter_list=SMALL, **arguments)


# NDArray files

# MXNet hands names out as C strings: no NUL. No surrogates: they are no text.
names = st.text(
    st.characters(min_codepoint=1, blacklist_categories=["Cs"]), min_size=1, max_size=20
)
arrays = st.tuples(
    st.sampled_from(["float32", "float64", "float16", "uint8", "int32", "int8", "int64"]),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
).map(lambda pair: np.arange(np.prod(pair[1])).astype(pair[0]).reshape(pair[1]))


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(names, arrays, min_size=1, max_size=4))
def test_ndarray_files_are_mxnets_own(tmp_path_factory, content):
    path = str(tmp_path_factory.mktemp("nd") / "x.params")
    with open(path, "wb") as file:
        ndarray_file.dump(content, file.write)
    theirs = mx.nd.load(path)
    assert theirs.keys() == content.keys()
    mx.nd.save(path, theirs)
    with open(path, "rb") as file:
        ours = ndarray_file.parse(file.read())
    for name, array in content.items():
        for read in (theirs[name].asnumpy(), ours[name]):
            assert read.dtype == array.dtype and np.array_equal(read, array)


# A small file, and every way to damage it.
CONTENT = {"arg:weight": np.arange(6, dtype="f4").reshape(2, 3), "aux:mean": np.zeros(3, "f4")}
_PIECES = []
ndarray_file.dump(CONTENT, lambda piece: _PIECES.append(bytes(piece)))
GOOD = b"".join(_PIECES)


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_a_truncated_ndarray_file_is_an_error(length):
    with pytest.raises(ndarray_file.FormatError):
        ndarray_file.parse(GOOD[:length])


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(GOOD) * 8 - 1))
def test_a_flipped_bit_is_an_error_or_another_value(bit):
    """The format has no checksum: what parses has the shapes it says, and no crash."""
    damaged = bytearray(GOOD)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        parsed = ndarray_file.parse(bytes(damaged))
    except ndarray_file.FormatError:
        return
    assert sum(array.nbytes for array in parsed.values()) <= len(GOOD)


# Generations


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
    symbol = symbol_xception.get_xception_symbol(7, filter_list=SMALL).tojson()
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


@pytest.mark.parametrize("limit", [100, 3000, 30_000])
def test_a_write_that_fails_leaves_the_generation_before(tmp_path, limit):
    """A limit on the size of files stands for a full disk: it fails in the midst of a write."""
    save(tmp_path / "x", Place(1), 1.0)
    code = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from tests.model.test_model import *\n"
        f"save({str(tmp_path / 'x')!r}, Place(2), 2.0, more='.' * 40_000)"
    )
    failed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "ModelError" in failed.stderr and "no checkpoint of epoch 2 could" in failed.stderr
    assert not list(tmp_path.glob("*.part"))
    checkpoints = Checkpoints(tmp_path / "x")
    assert checkpoints.newest()[0].place == Place(1)


def test_plain_mxnet_loads_a_generation(tmp_path):
    symbol = small_symbol()
    module = bound(symbol)
    params = numpy_params(*module.get_params())
    Checkpoints(tmp_path / "x").save(Place(3), symbol.tojson(), params, {}, {})
    loaded, arg_params, aux_params = mx.model.load_checkpoint(str(tmp_path / "x"), 3)
    assert loaded.list_arguments() == symbol.list_arguments()
    for key, array in params.items():
        kind, name = key.split(":")
        assert np.array_equal({"arg": arg_params, "aux": aux_params}[kind][name].asnumpy(), array)


def test_parameters_of_another_network_name_the_first_difference(tmp_path):
    params = numpy_params(*bound(small_symbol()).get_params())
    other = symbol_xception.get_xception_symbol(7, filter_list=SMALL)
    with pytest.raises(ModelError, match=r"f: arg:fc1_weight .*\(5, 10\).*\(7, 10\)"):
        check_params(params, other, "f")
    missing = {k: v for k, v in params.items() if k != "aux:Exit_flow_b5_conv1_bn_moving_var"}
    with pytest.raises(ModelError, match="aux:Exit_flow_b5_conv1_bn_moving_var is missing"):
        check_params(missing, small_symbol(), "f")
    with pytest.raises(ModelError, match="arg:more is not in this network"):
        check_params({**params, "arg:more": params["arg:fc1_bias"]}, small_symbol(), "f")


# The module's state


def bound(symbol, contexts=None, states=None, params=None, batch=6, updates=0):
    module = ResumableModule(symbol, context=contexts or [mx.cpu()])
    module.bind([("data", (batch, 3, 32, 32))], [("softmax_label", (batch,))])
    mx.random.seed(0)
    arg_params, aux_params = ndarray_params(params) if params else (None, None)
    module.init_params(mx.init.Xavier(), arg_params=arg_params, aux_params=aux_params)
    if states:
        module.restore_states(states)
    module.init_optimizer(
        kvstore="device",
        optimizer="nag",
        optimizer_params={
            "learning_rate": 0.1,
            "momentum": 0.9,
            "wd": 1e-3,
            "begin_num_update": updates,
        },
    )
    return module


def step(module, i, batch=6):
    rng = np.random.RandomState(i)
    data = mx.io.DataBatch(
        [mx.nd.array(rng.uniform(0, 255, (batch, 3, 32, 32)))],
        [mx.nd.array(rng.randint(0, 5, batch))],
    )
    data.seed = i
    module.forward_backward(data)
    module.update()


@pytest.mark.parametrize("devices", [1, 3])
def test_a_module_goes_on_exactly(devices):
    """Parameters, moving statistics (each device's own), momentum and dropout: the same bits."""
    symbol = small_symbol()
    contexts = [mx.cpu(i) for i in range(devices)]
    through = bound(symbol, contexts)
    for i in range(3):
        step(through, i)
    params = numpy_params(*through.get_params())
    states = through.training_state(at_epoch_end=False)
    resumed = bound(symbol, contexts, states, params, updates=3)
    for i in range(3, 6):
        step(through, i)
        step(resumed, i)
    for left, right in (
        (numpy_params(*through.get_params()), numpy_params(*resumed.get_params())),
        (through.training_state(False), resumed.training_state(False)),
    ):
        assert left.keys() == right.keys()
        assert all(np.array_equal(left[key], right[key]) for key in left)
    assert any(key.endswith(":0") for key in states)


def test_an_update_on_two_devices_has_the_gradients_of_both():
    """The kvstore's update is nag's on the sum of the halves' gradients over the whole batch."""
    symbol = small_symbol(dropout=0.0)
    two = bound(symbol, [mx.cpu(0), mx.cpu(1)])
    start = numpy_params(*two.get_params())
    rng = np.random.RandomState(0)
    images, labels = rng.uniform(0, 255, (6, 3, 32, 32)), rng.randint(0, 5, 6)
    gradients = []
    for half in (slice(0, 3), slice(3, 6)):
        one = bound(symbol, params=start, batch=3)
        batch = mx.io.DataBatch([mx.nd.array(images[half])], [mx.nd.array(labels[half])])
        one.forward(batch, is_train=True)
        one.backward()
        names = one._exec_group.param_names
        found = {n: g[0].asnumpy() for n, g in zip(names, one._exec_group.grad_arrays)}
        gradients.append({n: one._running.crop(f"arg:{n}", g) for n, g in found.items()})
    batch = mx.io.DataBatch([mx.nd.array(images)], [mx.nd.array(labels)])
    batch.seed = 0
    two.forward_backward(batch)
    two.update()
    updated = numpy_params(*two.get_params())
    for name in names:
        weight = start[f"arg:{name}"]
        decay = 1e-3 if name.endswith(("_weight", "_gamma")) else 0
        gradient = (gradients[0][name] + gradients[1][name]) / 6 + decay * weight
        # Nesterov's first step from rest: (1 + momentum) times the gradient's.
        expected = weight - 0.1 * 1.9 * gradient
        assert np.allclose(updated[f"arg:{name}"], expected, rtol=1e-4, atol=1e-5), name


def test_a_state_of_other_devices_goes_on(tmp_path):
    """Saved on 3 devices, resumed on 1: momentum and parameters as they were."""
    symbol = small_symbol(dropout=0.0)
    three = bound(symbol, [mx.cpu(i) for i in range(3)])
    step(three, 0)
    params = numpy_params(*three.get_params())
    one = bound(symbol, None, three.training_state(False), params, updates=1)
    left, right = one.training_state(True), three.training_state(True)
    assert left.keys() == right.keys()
    assert all(np.array_equal(left[key], right[key]) for key in left)


def test_states_of_another_network_are_refused():
    states = {"nothing:0": np.zeros(3, "f4")}
    with pytest.raises(ModelError, match="missing"):
        bound(small_symbol(), states=states)
    good = bound(small_symbol()).training_state(True)
    assert good == {}
    module = bound(small_symbol())
    step(module, 0)
    with pytest.raises(ModelError, match="nothing:0 has no place"):
        bound(small_symbol(), states={**module.training_state(True), **states})


# The learning rate


@pytest.mark.parametrize("first_epoch", [0, 2, 3])
def test_the_schedule_is_what_the_optimizer_gets(first_epoch):
    schedule = Schedule(lr=0.1, first_epoch=first_epoch, steps=(2, 3, 5), factor=0.1)
    batches = 7
    scheduler = schedule.scheduler(batches)
    for epoch in range(first_epoch, 7):
        for batch in range(batches):
            # MXNet counts the update before it asks for its rate.
            assert scheduler(epoch * batches + batch + 1) == pytest.approx(schedule.rate_at(epoch))


def test_the_schedule_of_the_2017_script():
    """`--retrain --model-load-epoch=50 --lr 0.001` runs at 0.001 and decays at 60, 80, 90, 110."""
    schedule = Schedule(0.001, 50, (20, 40, 60, 80, 90, 110), 0.1)
    rates = [schedule.rate_at(epoch) for epoch in (50, 59, 60, 79, 80, 90, 110, 124)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-6, 1e-7, 1e-7])


def test_two_prefixes_of_which_one_begins_like_the_other(tmp_path):
    """A run on x leaves alone what a run on x-big is writing."""
    half_written = tmp_path / "x-big-0003.params.part"
    half_written.write_bytes(b"...")
    mine = tmp_path / "x-0003-000120.params.part"
    mine.write_bytes(b"...")
    checkpoints = Checkpoints(tmp_path / "x")
    checkpoints.lock()
    assert half_written.exists() and not mine.exists()


def test_nothing_in_a_checkpoint_is_a_pickle(generations):
    for path in generations.iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix in (".params", ".states"):
            ndarray_file.parse(path.read_bytes())
        else:
            raise AssertionError(path)
    assert len(os.listdir(generations)) == 7


# Fine-tuning


@pytest.mark.parametrize("freeze", ["none", "entry", "all-but-head"])
def test_what_is_frozen_normalises_as_in_inference(freeze):
    symbol = small_symbol(dropout=0)
    inside = training_symbol(symbol, frozen_params(symbol, freeze), 1).get_internals()
    same = []
    for name in ("Entry_flow_b4_add", "flatten"):
        executor = inside[f"{name}_output"].simple_bind(mx.cpu(), data=(2, 3, 64, 64))
        for arrays in (executor.arg_dict, executor.aux_dict):
            for array in arrays.values():
                array[:] = mx.nd.random.uniform(0.5, 1, array.shape)
        training, inference = (executor.forward(is_train=t)[0].asnumpy() for t in (True, False))
        same.append(np.allclose(training, inference, rtol=1e-4))
    assert same == {"none": [False] * 2, "entry": [True, False], "all-but-head": [True] * 2}[freeze]
