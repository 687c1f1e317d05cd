"""What the benchmarks compute beside times."""

import subprocess
import sys

import mxnet as mx
import pytest

from model.network.cost import training_flops
from tests.benchmark.finetune import train, write_digits
from tests.benchmark.peers.environments import PeerError
from tests.benchmark.speed import (
    ATTEMPTS,
    DISTURBED,
    PLAIN,
    Workload,
    project,
    run,
    table,
    torch,
    undisturbed,
)
from tests.runs import ROOT


def test_the_flops_of_a_training_step():
    x = mx.sym.Convolution(
        mx.sym.Variable("data"), num_filter=8, kernel=(3, 3), stride=(2, 2), pad=(1, 1),
        no_bias=True, name="conv",
    )  # fmt: skip
    x = mx.sym.Convolution(
        x, num_filter=8, num_group=8, kernel=(3, 3), pad=(1, 1), no_bias=True, name="depthwise"
    )
    x = mx.sym.Pooling(x, global_pool=True, pool_type="avg")
    x = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(x, num_hidden=7, name="fc"), name="softmax")
    multiplications = 8 * 5 * 5 * (3 * 9) + 8 * 5 * 5 * 9 + 7 * 8
    assert training_flops(x, 10) == 3 * 2 * multiplications


def test_the_table_compares_in_the_same_type():
    def figures(who, images_s):
        found = {"images_s": images_s, "peak_mb": 100}
        return {"who": who.name, "dtype": who.dtype, **found}

    results = [
        figures(project("float32"), 20),
        figures(project("bfloat16"), 40),
        figures(torch("eager", "float32"), 10),
        figures(PLAIN, 5),
        figures(torch("eager", "bfloat16"), 16),
        {"who": "PyTorch compiled", "dtype": "float32", "error": "no C++ compiler"},
    ]
    text = table(Workload("training", "reduced", 224, 16), results)
    assert "| PyTorch eager | float32 | 20.0 | 10.0 | 2.00 | 100 : 100 |" in text
    assert "| PyTorch eager | bfloat16 | 40.0 | 16.0 | 2.50 | 100 : 100 |" in text
    assert "| PyTorch compiled | float32 | | not run: no C++ compiler | | |" in text
    assert "2.00 of the fastest float32 peer, PyTorch eager." in text
    assert "2.50 of the fastest bfloat16 peer, PyTorch eager." in text


def test_what_other_processes_disturb_is_measured_again():
    measured = []

    def measurement():
        # Not waited for, the busy process is none of the measurement's.
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)"])
        measured.append(len(measured))
        return {"number": measured[-1]}

    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        found = undisturbed(measurement)
    finally:
        busy.kill()
        busy.wait()
    assert len(measured) == ATTEMPTS
    assert DISTURBED < found["others"] <= 1 and found["number"] in measured


def test_a_worker_that_fails_is_said_in_its_last_line():
    with pytest.raises(PeerError, match=r"^ValueError: no network$"):
        run([sys.executable, "-c", "raise ValueError('no network')"])


def test_rows_that_there_are_not():
    process = subprocess.run(
        [sys.executable, "-m", "tests.benchmark.speed", "--rows", "batch 7"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1 and "'batch 7'" in process.stderr


def test_fine_tuning_begins_with_records_that_a_run_reads(tmp_path):
    write_digits(tmp_path / "high", range(5, 10))
    figures = train(tmp_path, "high", "x", "--num-epochs=1")
    assert set(figures["Validation", "accuracy"]) == {1}
