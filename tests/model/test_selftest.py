"""python -m model.selftest: each check passes where all is well, and fails for a fault that is
planted. In this process, on CPU contexts, with networks of few filters."""

import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest

from model.selftest import (
    __main__ as selftest,
)
from model.selftest import (
    children,
    compute,
    machine,
    memory_use,
    networks,
    resuming,
    runs,
    several,
    speed,
    training,
)
from model.selftest.checks import CHECKS, Check
from model.selftest.setup import Result, RunFailed, Setup, reason_of
from model.training.memory import Need
from model.training.module import ResumableModule
from tests.runs import ROOT, start


@pytest.fixture
def setup(tmp_path):
    return Setup("cpu", (0, 1), str(tmp_path), batch_size=2, image_size=32, small=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One padding is enough to see a fault; the script starts where mxnet is loaded."""
    monkeypatch.setattr(compute, "_PADDINGS", ("half",))
    run = runs.run

    def run_warm(arguments, environment=None, stop_after=None):
        if environment or stop_after:
            return run(arguments, environment, stop_after)
        ended = start(ROOT, *arguments)
        if ended.returncode:
            raise RunFailed(ended.stderr.strip())
        return ended.stdout

    monkeypatch.setattr(runs, "run", run_warm)


def by_name(results):
    return {result.name: result for result in results}


def here(check, setup, waiting):
    """Run a check in this process. What it prints is no part of the report."""
    with redirect_stdout(io.StringIO()):
        return [result for _, part in check.setups(setup) for result in check.run(part)]


def page(capsys, words, run_check=here) -> tuple:
    """Return (exit code, {name: line of the report}, the whole report)."""
    code = selftest.main(["--small", *words.split()], run_check)
    report = capsys.readouterr().out
    lines = [line for line in report.splitlines() if line[:4] in ("pass", "FAIL", "-   ")]
    return code, {line[6:].split("  ")[0]: line for line in lines}, report


@pytest.fixture
def no_machine(monkeypatch):
    monkeypatch.setattr(selftest, "describe_machine", lambda *_: [("machine", "a test's")])


# What a device computes


@pytest.fixture
def faulty_device(monkeypatch):
    """A weight of cpu(1) is another one."""
    init_params = ResumableModule.init_params

    def init_and_spoil(self, *args, **kwargs):
        init_params(self, *args, **kwargs)
        if self._context == [mx.cpu(1)]:
            block = self._exec_group.param_arrays[8]
            block[0][:] = block[0] * 1.5

    monkeypatch.setattr(ResumableModule, "init_params", init_and_spoil)


def test_a_device_that_fails_is_named_and_the_others_go_on(faulty_device, no_machine, capsys):
    code, lines, report = page(capsys, "--cpus 2 --only compute,several")
    assert code == 1
    for what in ("float32", "float32 --memonger"):
        assert lines[f"cpu(0) {what}"].startswith("pass"), report
        assert lines[f"cpu(1) {what}"].startswith("FAIL"), report
    assert lines["cpu(0) dropout"].startswith("pass") and lines["cpu(1) dropout"][:4] == "pass"
    assert re.search(r"worst \S+: \w+_(gamma|beta|weight)\)", lines["cpu(1) float32"])
    assert lines["what follows"].endswith("not run: not on cpu(1)")
    assert lines["kvstore local/device"].endswith("not run: a single device")
    assert report.splitlines()[-1] == "2 of 6 failed: cpu(1) float32; cpu(1) float32 --memonger"


def test_moving_statistics():
    """A variance is of the batch or, as cuDNN's, of a sample; a mean is of the batch; both change
    once."""
    before, of_batch, images = np.full(5, 4.0), np.full(5, 2.0), 4
    momentum = compute._MOMENTUM
    params = {"aux:x_moving_var": before, "aux:x_moving_mean": before}

    def off(name, batch, momentum=momentum):
        once = momentum * before + (1 - momentum) * batch
        right = compute._MOMENTUM * before + (1 - compute._MOMENTUM) * of_batch
        steps = [
            networks.Step(np.zeros((images, 10)), {}, {f"x_moving_{name}": each})
            for each in (once, right)
        ]
        return compute._statistics_off(*steps, params)

    for layer_size in (1, 2, 7):
        count = images * layer_size**2
        assert off("var", of_batch * count / (count - 1)) < 1e-9
        assert off("mean", of_batch * count / (count - 1)) > 0.001
    for name in ("var", "mean"):
        assert off(name, of_batch) < 1e-9
        assert off(name, of_batch * 1.7) > 0.1
        assert off(name, of_batch, momentum**2) > 0.1
        assert off(name, np.full(5, np.nan)) == np.inf


def test_dropout_that_does_not_follow_the_seed_fails(monkeypatch):
    monkeypatch.setattr(mx.random, "seed", lambda seed: None)
    found = compute._check_dropout("cpu(0) dropout", mx.cpu(0))
    assert found.passed is False and "same seed" in found.figure


def test_tolerances_of_float16_are_not_those_of_a_wrong_weight():
    """The relation between them: what a wrong weight does is far above what rounding does."""
    assert compute.TOLERANCES.keys() == {"float32", "TF32", "float16"}
    exact = {"a": np.ones(100), "b": np.full(100, 2.0), "rounding": np.full(100, 1e-9)}
    near = {name: array * 1.02 for name, array in exact.items()}
    near["rounding"] = -exact["rounding"]
    off = networks.differences(near, exact)
    assert off.within(0.1, 0.5) and off.together == pytest.approx(0.02)
    wrong = networks.differences({**near, "b": -exact["b"]}, exact)
    assert not wrong.within(0.1, 0.6) and wrong.name == "b" and "b" in wrong.text(0.1, 0.6)


# Several devices


def test_a_kvstore_that_loses_a_key_fails_and_one_that_is_not_there(setup, monkeypatch):
    pushpull = mx.kvstore.KVStore.pushpull

    def lose(self, key, value, out=None, priority=0):
        if key != "fc1_weight" or self.type != "device":
            pushpull(self, key, value, out, priority)

    monkeypatch.setattr(mx.kvstore.KVStore, "pushpull", lose)
    monkeypatch.setattr(Setup, "on_gpus", True)
    local, device, nccl = several.check(setup)
    assert local.passed, local
    assert device.name == "kvstore device, 2 devices"
    assert device.passed is False and "worst 1e+00: fc1_weight" in device.figure
    assert nccl.passed is False and "USE_NCCL=1" in nccl.figure


def test_devices_are_left_out_unless_all_fail(setup):
    def failed(*names):
        return [Result(f"{name} float32", False, "") for name in names]

    results = []
    assert selftest.without_failed(setup, failed("cpu(0)", "cpu(1)"), results) == setup
    assert not results
    assert selftest.without_failed(setup, failed("cpu(0)"), results).ids == (1,)
    assert [result.figure for result in results] == ["not run: not on cpu(0)"]


def test_what_can_not_be_tried_is_no_failure(setup, monkeypatch, no_machine, capsys):
    code, lines, report = page(capsys, "--cpus 1 --only tf32")
    assert (code, lines) == (0, {}) and report.endswith("\nnothing was tried\n")
    monkeypatch.setattr(Setup, "on_gpus", True)
    monkeypatch.setattr(compute, "gpus", lambda: [(7, 0)])
    (result,) = compute.check_as_used(setup.only(0))
    assert result == Result("cpu(0) TF32", None, "not run: from compute capability 8.0 on")


def test_what_mxnet_raises_is_its_reason():
    stack = (
        "[bt] (3) lib.so: SetDeviceError\nx.h:7: Check failed: e == cudaSuccess: CUDA: invalid\n"
    )
    for error in (mx.base.MXNetError(stack), RuntimeError(f"simple_bind error.\n{stack}")):
        assert reason_of(error) == "x.h:7: Check failed: e == cudaSuccess: CUDA: invalid"
    assert reason_of(KeyError("a\nb")) == "KeyError: 'a\\nb'"


# Memory


@pytest.mark.parametrize(
    "need, passed",
    [(None, True), (Need(1 << 40, 1 << 41), False), (Need(0, 1 << 20), False)],
)
def test_a_wrong_prediction_of_memory_fails(need, passed, setup, monkeypatch):
    # Tests before this one may have taken more memory than it takes.
    monkeypatch.setattr(memory_use, "peak_bytes", memory_use.memory.resident)
    if need:
        monkeypatch.setattr(memory_use, "_train", lambda *_: None)
        monkeypatch.setattr(memory_use.memory, "needed", lambda *args, **kwargs: need)
    (result,) = memory_use.check(setup)
    assert result.passed is passed, result


@pytest.mark.parametrize("used, passed", [(300, True), (200, False), (4000, False)])
def test_the_memory_of_gpus(used, passed, setup, monkeypatch):
    """Of each of them: 300 MB and, of the second, `used`; 250 are predicted."""
    mb, free = 1 << 20, [[9000, 9000], [8700, 9000 - used]]
    monkeypatch.setattr(Setup, "on_gpus", True)
    monkeypatch.setattr(memory_use, "_train", lambda *_: None)
    monkeypatch.setattr(memory_use, "free_bytes", lambda _: [each * mb for each in free.pop(0)])
    monkeypatch.setattr(memory_use.memory, "needed", lambda *_, **__: Need(0, 0, 250 * mb))
    (result,) = memory_use.check(setup)
    assert result.passed is passed and f"{used} MB" in result.figure


# Runs of the script


def test_training_that_learns_nothing_fails(setup, monkeypatch):
    run = runs.run
    more = ["--lr=1e-6", "--num-epochs=1"]
    monkeypatch.setattr(runs, "run", lambda words, *_: run([*words, *more]))
    (result,) = training.check(setup.only(0))
    assert result.passed is False and "after 10 steps" in result.figure, result


def test_a_resumed_run_that_differs_fails(setup, monkeypatch):
    run = runs.run

    def forget_the_seed(words, *more):
        return run([*words, "--seed=1"] if "--retrain" in words else words, *more)

    monkeypatch.setattr(runs, "run", forget_the_seed)
    (result,) = resuming.check(setup)
    assert result.passed is False and "differs by" in result.figure, result


@pytest.mark.parametrize("resumed, passed", [(1.0, True), (1.00005, True), (1.1, False)])
def test_a_gpu_may_differ_as_two_of_its_runs_do(resumed, passed, setup, monkeypatch):
    weights = {"whole": 1.0, "stopped": 1.0, "again": 1.00001}

    def run(_, name, environment, stop=False):
        assert environment == resuming.DETERMINISTIC or "deterministic" not in name
        return {"w": np.full(9, weights[name.split("-")[-1]])}

    monkeypatch.setattr(resuming, "_run", run)
    assert resuming.check(setup) == [Result("stop and resume", True, "bit-equal", "bit-equal")]
    weights["stopped"] = resumed
    monkeypatch.setattr(Setup, "on_gpus", True)
    results = resuming.check(setup)
    assert [result.passed for result in results] == [passed, passed], results


def test_devices_that_are_slower_together_fail(setup, monkeypatch):
    passed, figure = speed._input(setup, {1: 1e9})
    assert passed and figure.endswith("the limit is the input pipeline")
    speeds = {"--cpus=1": 100, "--cpus=2": 40}
    asked = []

    def run(words, *_):
        asked.append(words)
        (devices,) = [word for word in words if word.startswith("--cpus")]
        return f"training: {speeds[devices]} images/s, 1.0 ms a batch\n"

    monkeypatch.setattr(runs, "run", run)
    one, two, reading = speed.check(setup)
    assert one.passed and two.passed is False and "0.40 x one device" in two.figure
    assert reading.passed and "up to 100.0: the limit is training" in reading.figure, reading
    assert "--batch-size=4" in asked[1], "2 images on each of 2 devices"
    speeds["--cpus=1"] = 0
    assert not any(result.passed for result in speed.check(setup)[::2])
    assert speed.counts(8) == [1, 2, 4, 8] and speed.counts(3) == [1, 2, 3]


def test_a_run_that_fails_is_its_error_line(setup, monkeypatch):
    run = runs.run
    monkeypatch.setattr(runs, "run", lambda words, *_: run([*words, "--data-train=gone.rec"]))
    (result,) = training.check(setup.only(0))
    assert result.passed is False
    assert result.figure.startswith("train_xception.py: error: gone.rec is missing")


# Processes, report, exit code


def ask(monkeypatch, setup, body, limit=60, waiting=lambda: None):
    """Return the results of a check whose process runs `body`."""
    monkeypatch.setattr(children, "_MODULE", ["-c", body])
    check = Check("x", "compute:check", "this or that", each=True, limit=limit)
    return children.run_in_child(check, setup, waiting)


def test_a_process_that_dies_or_hangs_is_a_line(setup, monkeypatch):
    crash = "import os, sys; print('CUDA: an illegal access'); sys.stdout.flush(); os.abort()"
    for device, result in enumerate(ask(monkeypatch, setup, crash)):
        assert result.passed is False and result.name == f"cpu({device}) this or that"
        assert result.figure == "its process ended by SIGABRT: CUDA: an illegal access"
    waited = []
    hang = "import subprocess, time; subprocess.Popen(['sleep', '77']); time.sleep(99)"
    only = setup.only(0)
    (result,) = ask(monkeypatch, only, hang, 0.5, lambda: waited.append(1))
    assert result.figure == "no answer within 0.5 s" and waited
    (result,) = ask(monkeypatch, only, "raise SystemExit('no such wheel')")
    assert result.figure == "its process ended with 1: no such wheel"


def test_a_check_in_a_process_of_its_own(setup):
    (check,) = [check for check in CHECKS if check.name == "memory"]
    (result,) = children.run_in_child(check, setup, lambda: None)
    assert result.passed and "predicted" in result.figure, result


def test_a_whole_report(capsys):
    code, lines, report = page(capsys, "--cpus 2 --only several,training")
    assert code == 0 and set(map(lambda line: line[:4], lines.values())) == {"pass"}, report
    head = report.split("\n\n")[0].splitlines()
    assert head[0].startswith("xception  self-test 20")
    assert head[1] == "command   python -m model.selftest --small --cpus 2 --only several,training"
    names = [line.split()[0] for line in head if not line.startswith(" ")]
    assert names == [
        "xception",
        "command",
        "machine",
        "software",
        "mxnet",
        "loaded",
        "variables",
        "set",
        "took",
    ]
    assert str(ROOT) not in report and str(sys.prefix) not in report
    assert report.splitlines()[-1] == "all 3 passed"


def test_arguments_are_checked_before_anything_is_tried():
    for words, line in (
        ("--gpus 0 --cpus 1", "--gpus and --cpus: give one of them"),
        ("--only compute,all", "argument --only: must be of compute,tf32"),
        ("--gpus 0", "the driver shows no GPU"),
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "model.selftest", *words.split()],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        assert ended.returncode == 2 and ended.stdout == ""
        assert ended.stderr.startswith(f"model.selftest: error: {line}")
        assert ended.stderr.count("\n") == 1


def test_what_is_said_of_a_machine(tmp_path):
    said = machine.variables(
        {"NCCL_DEBUG": "INFO", "CUDA_HOME": "/home/me/cuda", "HOME": "/home/me", "MXNET_X": "1"}
    )
    assert said == ["CUDA_HOME=(set)", "MXNET_X=1", "NCCL_DEBUG=INFO"]
    maps = tmp_path / "maps"
    maps.write_text(
        "7f-8f r-xp 0 08:01 1 /home/me/lib/libcudnn.so.8\n7f-8f r-xp 0 0:1 1 /x/libc.so\n"
    )
    assert machine.loaded(str(maps)) == ["libcudnn.so.8"]
    assert machine._cudnn_form(lambda: 8906) == "8.9.6"
    assert machine._of_thousands(11080) == "11.8"


def test_setups_survive_json(setup):
    assert Setup.from_json(setup.to_json()) == setup
    assert json.loads(setup.to_json())["kind"] == "cpu"
    gpus = replace(setup, kind="gpu", ids=(2, 3))
    assert gpus.flags() == ["--gpus=2,3"] and gpus.flags(1) == ["--gpus=2"]
    assert gpus.names == ["gpu(2)", "gpu(3)"]
