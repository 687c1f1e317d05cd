"""Recipes, schedules, optimizers, accumulated gradients and averages."""

import errno
import math
import os
import re
import signal
import subprocess

import mxnet as mx
import numpy as np
import pytest

import symbol_xception
from log.notices import Notices
from model import ModelError, evaluate
from model.checkpoint import Checkpoints, Generation, Place, ndarray_file
from model.network.params import ndarray_params, numpy_params
from model.plan import Plan
from model.training.average import Average, AveragedCheckpoints
from model.training.finetune import training_symbol
from model.training.module import ResumableModule
from model.training.optimizers import Method
from model.training.resume import resume_point
from model.training.schedule import Schedule, Updates
from model.training.start import usable_states
from tests.runs import command

# Flags


def test_a_recipe_is_defaults_and_any_flag_overrides_it():
    plain, paper = Plan.of([]), Plan.of(["--recipe=paper", "--wd=0.0001"])
    assert (plain.recipe.optimizer, plain.recipe.first_lr) == ("nag", 0.1)
    assert (plain.training.wd, plain.recipe.ema) == (1e-4, 0)
    assert (paper.recipe.optimizer, paper.recipe.first_lr, paper.training.lr) == (
        "sgd", 0.045, None
    )  # fmt: skip
    assert (paper.recipe.lr_schedule, paper.recipe.decay_epochs) == ("exponential", 2)
    assert paper.training.lr_factor == 0.94
    # Given with the value that is its default, it is given.
    assert (paper.training.wd, paper.given) == (1e-4, ("wd",))
    assert "--dropout 0.5" in paper.recipe_line
    assert paper.recipe_line.endswith("; given instead: --wd 0.0001")
    words = ["--recipe=modern", "--num-epochs=50", "--bias-decay", "--lr-schedule=step"]
    modern = Plan.of(words)
    assert (modern.recipe.warmup_epochs, modern.recipe.no_bias_decay) == (2, False)
    assert modern.training.lr_factor == 0.1
    assert modern.training.lr_steps and not Plan.of(["--recipe=modern"]).training.lr_steps
    assert Plan.of(["--optimizer=adam"]).recipe.first_lr == 0.001


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--recipe=2018", "invalid choice"),
        ("--recipe=modern --lr-steps=3", "--lr-steps is for --lr-schedule step"),
        ("--lr-schedule=cosine --lr-factor=0.5", "not for --lr-schedule cosine"),
        ("--decay-epochs=3", "for --lr-schedule exponential"),
        ("--lr-min=0.1", "not step"),
        ("--epsilon=0.1", "not nag"),
        ("--num-epochs=5 --warmup-epochs=5", "less than the 5"),
        ("--label-smoothing=1", "[0, 1)"),
        ("--mixup=-1", "0, or from 0.01 to 100"),
        ("--cutmix=0.001", "0, or from 0.01 to 100"),
        ("--random-erasing=1.5", "from 0 to 1"),
        ("--cutmix=1 --batch-size=1", "--cutmix: needs a --batch-size of at least 2"),
        ("--patience=3 --data-val=", "--patience is for runs with validation"),
        ("--patience=3 --kv-store=dist_async", "--patience: not with --kv-store dist_async"),
        ("--accumulate=2 --kv-store=dist_async", "not with --kv-store dist_async"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(capsys, arguments, says):
    with pytest.raises(SystemExit) as stop:
        Plan.of(arguments.split())
    error = capsys.readouterr().err
    assert stop.value.code == 2 and says in error and error.count("\n") == 1


# The learning rate


def test_cosine_with_warm_up():
    schedule = Schedule(1.0, 0, (), 1, "cosine", warmup=2, lowest=0.1, end=12)
    rates = [schedule.rate_of_update(update, 10) for update in range(120)]
    assert rates[:20] == pytest.approx([(update + 1) / 20 for update in range(20)])
    wanted = [0.1 + 0.9 * (1 + math.cos(math.pi * k / 100)) / 2 for k in range(100)]
    assert rates[20:] == pytest.approx(wanted)
    # --retrain --lr 0.5 from epoch 7: from there down to the same end, and no warm-up.
    again = Schedule(0.5, 7, (), 1, "cosine", warmup=2, lowest=0.1, end=12)
    assert again.rate_of_update(70, 10) == 0.5
    assert again.rate_of_update(95, 10) == pytest.approx(0.3)
    assert 0.1 < again.rate_of_update(119, 10) < 0.101


def test_exponential_in_steps():
    schedule = Schedule(0.045, 0, (), 0.94, "exponential", lowest=0.04, every=2)
    rates = [schedule.rate_of_update(update, 5) for update in (0, 9, 10, 19, 20, 40)]
    assert rates == pytest.approx([0.045, 0.045, 0.0423, 0.0423, 0.04, 0.04])
    later = Schedule(0.01, 3, (), 0.94, "exponential", every=2)
    assert [later.rate_of_update(5 * epoch, 5) for epoch in (3, 4, 6)] == pytest.approx(
        [0.01, 0.0094, 0.008836]
    )


def test_the_optimizer_gets_the_schedule():
    schedule = Schedule(0.1, 0, (2,), 0.1, warmup=0.5)
    scheduler = schedule.scheduler(4, first_update=3)
    # Its first update is the run's fourth.
    assert scheduler(1) == pytest.approx(0.1) and scheduler(6) == pytest.approx(0.01)
    assert schedule.scheduler(4)(1) == pytest.approx(0.05)


# What is done with gradients

FILTERS = (4, 4, 6, 6, 8, 8, 10)


def small_symbol(dropout=0.2):
    return symbol_xception.get_xception_symbol(5, filter_list=FILTERS, dropout=dropout)


def bound(method, params=None, states=None, devices=1, updates=0, symbol=None, images=6):
    symbol = symbol if symbol is not None else small_symbol()
    symbol = training_symbol(symbol, [], 1, method.label_smoothing, method.no_bias_decay)
    contexts = [mx.cpu(i) for i in range(devices)]
    module = ResumableModule(
        symbol, contexts, accumulate=method.accumulate, batches=5, ema=method.ema
    )
    module.bind([("data", (images, 3, 32, 32))], [("softmax_label", (images,))])
    mx.random.seed(0)
    arg_params, aux_params = ndarray_params(params) if params else (None, None)
    module.init_params(mx.init.Xavier(), arg_params=arg_params, aux_params=aux_params)
    if states is not None:
        module.restore_states(states)
    module.init_optimizer(
        kvstore="device",
        optimizer=method.optimizer,
        optimizer_params={
            "learning_rate": 0.01, "begin_num_update": updates, **method.optimizer_params()
        },
    )  # fmt: skip
    return module


def some_images(seed):
    rng = np.random.RandomState(seed)
    return rng.uniform(0, 255, (6, 3, 32, 32)), rng.randint(0, 5, 6)


def step(module, number, seed=None, first=0, count=6, scale=1):
    images, labels = some_images(number if seed is None else seed)
    images, labels = images[first : first + count], labels[first : first + count]
    batch = mx.io.DataBatch([mx.nd.array(scale * images)], [mx.nd.array(labels)])
    batch.seed = batch.number = number
    module.forward_backward(batch)
    module.update()


@pytest.mark.parametrize(
    ("optimizer", "mom", "devices"),
    [("sgd", 0.9, 1), ("rmsprop", 0.9, 1), ("adam", 0.9, 2), ("lamb", 0.9, 1)],
)
def test_every_optimizer_goes_on_exactly(optimizer, mom, devices):
    """Between two updates: with gradients that wait, states, counts, and averages."""
    method = Method(optimizer, mom, accumulate=2, ema=0.999)
    through = bound(method, devices=devices)
    for number in range(3):
        step(through, number)
    states = through.training_state(at_epoch_end=False)
    assert states["+"] == [1] and states["~"] == [1]
    resumed = bound(method, numpy_params(*through.get_params()), states, devices, updates=1)
    for number in range(3, 5):
        step(through, number)
        step(resumed, number)
    for left, right in (
        (numpy_params(*through.get_params()), numpy_params(*resumed.get_params())),
        (through.training_state(False), resumed.training_state(False)),
    ):
        assert left.keys() == right.keys()
        assert all(np.array_equal(left[key], right[key]) for key in left)
    # The last update was of the one batch that was left.
    assert "+" not in left and left["~"] == [3]


def test_the_update_is_what_the_flags_say():
    """Smoothed labels, clipped elements, and decay of weights alone: by hand, from the gradient."""
    method = Method("sgd", 0, 0.1, clip_gradient=1e-3, label_smoothing=0.3, no_bias_decay=True)
    module = bound(method)
    before = numpy_params(*module.get_params())
    step(module, 0)
    after = numpy_params(*module.get_params())
    output = module.get_outputs()[0].asnumpy()
    labels = np.eye(5)[some_images(0)[1]]
    group = module._exec_group
    gradients = {n: g[0].asnumpy() for n, g in zip(group.param_names, group.grad_arrays)}
    wanted = output - (0.7 * labels + 0.3 / 4 * (1 - labels))
    assert gradients["fc1_bias"] == pytest.approx(wanted.sum(axis=0), abs=1e-5)
    clipped = 0
    for name, gradient in gradients.items():
        gradient = module._running.crop(f"arg:{name}", gradient) / 6
        clipped += np.sum(np.abs(gradient) > 1e-3)
        decay = 0.1 if name.endswith("_weight") else 0
        weight = before[f"arg:{name}"]
        expected = weight - 0.01 * (np.clip(gradient, -1e-3, 1e-3) + decay * weight)
        assert np.allclose(after[f"arg:{name}"], expected, rtol=1e-5, atol=1e-8), name
    assert clipped


@pytest.mark.parametrize("devices", [1, 2])
def test_accumulated_gradients_are_those_of_the_large_batch(devices):
    """3 batches of 2 images as one of 6 and, at the end of the epoch, 1 as it is. With BatchNorm by
    its moving statistics."""
    symbol = small_symbol(dropout=0)
    gammas = [name for name in symbol.list_arguments() if name.endswith("_gamma")]
    symbol = training_symbol(symbol, gammas, 1)
    params = numpy_params(*bound(Method(), symbol=symbol).get_params())
    parts = bound(Method(accumulate=3), params, None, devices, symbol=symbol, images=2)
    for number, first in ((0, 0), (1, 2), (2, 4), (4, 0)):
        step(parts, number, 0, first, 2, 1 / 255)
    whole = bound(Method(), params, symbol=symbol)
    step(whole, 0, scale=1 / 255)
    states = whole.training_state(False)
    whole = bound(Method(), numpy_params(*whole.get_params()), states, symbol=symbol, images=2)
    step(whole, 0, count=2, scale=1 / 255)
    for left, right in (
        (numpy_params(*whole.get_params()), numpy_params(*parts.get_params())),
        (whole.training_state(False), parts.training_state(False)),
    ):
        for key, array in left.items():
            assert np.allclose(array, right[key], rtol=1e-3, atol=1e-6), key
    assert any(abs(left[key]).max() > 1e-3 for key in left)


# A run


def test_a_recipe_stopped_and_resumed_ends_in_the_same_bits(records, tmp_path, capsys):
    """Stopped between two updates of `--accumulate 5`; parameters, states and averages. With the
    script's own number of threads, and the default network from its first weights on."""
    given = [*records.arguments, "--recipe=modern", "--ema=0.9", "--accumulate=5"]
    given += ["--num-epochs=1"]
    # Threads that sleep while they wait leave the cores to the other tests.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    del environment["OMP_NUM_THREADS"]

    def start(name, *more):
        flags = [f"--model-prefix={name}", f"--log-file={name}.log", *more]
        return subprocess.Popen(
            command(*given, *flags),
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    through = start("x")
    stopped = start("y", "--checkpoint-batches=3")
    for line in stopped.stdout:
        if 'y-0000-000006.params"' in line:
            stopped.send_signal(signal.SIGTERM)
    assert stopped.wait() == 143
    (saved,) = tmp_path.glob("y-0000-*.states")
    states = ndarray_file.parse(saved.read_bytes())
    batch = int(saved.stem.split("-")[-1])
    assert batch % 5 == 0 or states["+"] == [batch % 5]
    resumed = start("y", "--retrain")
    assert "changed since" not in resumed.communicate()[0] and resumed.returncode == 0
    assert "recipe modern: --optimizer nag" in through.communicate()[0]
    names = [f"{end}.{kind}" for end in ("0001", "ema-0001") for kind in ("params", "states")]
    for name in names:
        assert (tmp_path / f"x-{name}").read_bytes() == (tmp_path / f"y-{name}").read_bytes(), name
    # The average is a network of its own, the one that was validated.
    symbol, arg_params, aux_params = mx.model.load_checkpoint(str(tmp_path / "x-ema"), 1)
    plain = mx.model.load_checkpoint(str(tmp_path / "x"), 1)
    assert not np.array_equal(arg_params["fc1_weight"].asnumpy(), plain[1]["fc1_weight"].asnumpy())
    assert aux_params.keys() == plain[2].keys()
    smoothed = [node for node in symbol.attr_dict().values() if "smooth_alpha" in node]
    assert not smoothed
    capsys.readouterr()
    assert evaluate.main([str(tmp_path / "x-ema"), "1", "--data-val", str(records.val)]) == 0
    scored = dict(line.split() for line in capsys.readouterr().out.splitlines()[1:])
    log = (tmp_path / "x.log").read_text()
    wanted = re.findall(r"Epoch\[0\] Validation-([a-z-]+)=([\d.]+)", log)
    assert len(wanted) == 2
    for name, value in wanted:
        assert float(scored[name]) == pytest.approx(float(value), rel=1e-5), name
    assert os.readlink(tmp_path / "x-best.params").startswith("x-ema-")


def test_another_optimizer_begins_anew_and_wants_a_rate():
    """Its states, and the count that corrects their bias; the schedule goes on."""
    settings = {"optimizer": "nag", "mom": 0.9, "freeze": "none"}
    run_of = {"settings": settings, "batches": 7, "updates": 10, "lr": 0.1, "lr_epoch": 0}
    states = {"w:0": np.ones(2), "w~": np.ones(2), "w+0": np.ones(2)}
    generation = Generation(Place(1, 3), "", {}, states, run_of, 1)

    def usable(generation, method):
        now = {**settings, "optimizer": method.optimizer, "mom": method.mom}
        return usable_states(generation, Place(1, 3), now, method, Updates(7, method.accumulate))

    assert usable(generation, Method()) == (states, 0)
    adam = Method("adam", accumulate=2)
    assert Updates(7, 2).per_epoch == 4
    assert usable(generation, adam) == ({"w~": states["w~"]}, 5)
    # And is gone on with, also where a batch has become a third and an epoch three times as long.
    settings_of_adam = {**settings, "optimizer": "adam", "accumulate": 2}
    run_of = {**run_of, "settings": settings_of_adam, "updates": 6, "first_update": 3}
    generation = Generation(Place(1, 3), "", {}, states, run_of, 1)
    assert usable(generation, adam) == (states, 3 * 5 // 6)

    words = ["--retrain", "--optimizer=adam"]
    with pytest.raises(ModelError, match="--optimizer adam, but the run's rate is for nag"):
        resume_point(Plan.of(words), generation_of_nag(), {}, 7, Notices())
    point = resume_point(Plan.of([*words, "--lr=0.001"]), generation_of_nag(), {}, 7, Notices())
    assert point[1:] == (0.001, 1)


def generation_of_nag():
    """A checkpoint that is older than the choice of an optimizer."""
    return Generation(
        Place(1), "", {}, {}, {"settings": {}, "batches": 7, "lr": 0.1, "lr_epoch": 0}, 1
    )


# Averages


def test_the_average_is_that_of_the_formula():
    """Of more arrays than one operator takes."""
    rng = np.random.RandomState(0)
    values = {f"w{i}": rng.normal(size=3) for i in range(120)}
    values.update({f"m{i}": rng.normal(size=2) for i in range(60)})
    arrays = {name: mx.nd.array(value) for name, value in values.items()}
    average = Average(
        0.3,
        {name: array for name, array in arrays.items() if name[0] == "w"},
        {name: array for name, array in arrays.items() if name[0] == "m"},
    )
    for n in (1, 2, 3, 4, 5):
        decay = min(0.3, (1 + n) / (10 + n))
        for name, array in arrays.items():
            array += n
            values[name] = decay * values[name] + (1 - decay) * array.asnumpy()
        average.update()
    state = average.state(lambda _, array: array)
    for name, value in values.items():
        assert np.allclose(state[f"{name}~"], value, rtol=1e-5, atol=1e-6), name


def failing_after(function, calls):
    count = iter(range(calls))

    def call(*arguments):
        if next(count, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device", "x")
        return function(*arguments)

    return call


def test_an_average_is_there_where_its_generation_is(tmp_path, monkeypatch):
    symbol = small_symbol().tojson()
    params = {"arg:w": np.ones(3, "f4"), "aux:m": np.zeros(2, "f4")}
    states = {"~": np.array([7]), "w~": np.full(3, 2, "f4"), "m~": np.full(2, 3, "f4")}
    checkpoints = AveragedCheckpoints(tmp_path / "x")
    averages = Checkpoints(tmp_path / "x-ema")
    for epoch in (1, 2, 3):
        checkpoints.save(Place(epoch), symbol, params, states, {})
    assert averages.load(Place(2)).params["arg:w"].tolist() == [2, 2, 2]
    assert averages.load(Place(2)).params["aux:m"].tolist() == [3, 3]
    checkpoints.set_best(Place(1))
    assert os.readlink(tmp_path / "x-best.params") == "x-ema-0001.params"
    assert checkpoints.best() == (str(tmp_path / "x-ema"), Place(1))
    checkpoints.remove([Place(1)])
    # Epoch 3 again, without an average: the one of before is not of it.
    checkpoints.save(Place(3), symbol, params, {}, {})
    assert averages.places() == [Place(2)]
    # Killed between the two: the average alone is left, and goes with the next that are removed.
    averages.save(Place(4), symbol, params, {}, {"average_of": "x"})
    checkpoints.remove([])
    assert averages.places() == [Place(2)]
    # It is written first: where its generation can't be, it is there.
    monkeypatch.setattr(ndarray_file, "dump", failing_after(ndarray_file.dump, 3))
    with pytest.raises(ModelError, match="No space left"):
        checkpoints.save(Place(5), symbol, params, states, {})
    monkeypatch.undo()
    assert averages.load(Place(5)).run["average_of"] == "x"
    assert checkpoints.newest()[0].place == Place(3)
    # Another run's are left alone.
    other = AveragedCheckpoints(tmp_path / "z")
    Checkpoints(tmp_path / "z-ema").save(Place(1), symbol, params, {}, {})
    other.save(Place(1), symbol, params, {}, {})
    other.remove([Place(1)])
    assert Checkpoints(tmp_path / "z-ema").places() == [Place(1)]
    with pytest.raises(ModelError, match=r"z-ema-0001\.params is not an average of"):
        other.lock_averages()
