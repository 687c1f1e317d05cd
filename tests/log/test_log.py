"""log/: lines and curves."""

import re
import resource
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import cv2
import pytest

from log import LogError
from log.curves import read_log, read_run
from log.metrics import Event, Line, MetricsFile, read_metrics
from log.pictures import plot_curves
from log.plot_curves import draw_text, main
from tests.runs import ROOT

# As MXNet's fit and Speedometer wrote them in 2017, and as they are now.
LOG_OF_2017 = """\
2017-09-01 10:00:00,000 Node[0] Epoch[0] Batch [50]\tSpeed: 101.20 samples/sec\tTrain-accuracy=0.01
2017-09-01 10:10:00,000 Node[0] Epoch[0] Train-accuracy=0.050000
2017-09-01 10:10:00,001 Node[0] Epoch[0] Train-top_k_accuracy_5=0.150000
2017-09-01 10:10:00,002 Node[0] Epoch[0] Time cost=600.000
2017-09-01 10:11:00,000 Node[0] Epoch[0] Validation-accuracy=0.061000
2017-09-01 10:20:00,000 Node[0] Epoch[1] Train-accuracy=0.100000
2017-09-01 10:21:00,000 Node[0] Epoch[1] Validation-accuracy=0.120000
"""
LOG_RESUMED = """\
2026-11-23 10:00:00,000 Epoch[0] Train-accuracy=0.500000
2026-11-23 10:00:00,000 Epoch[0] Train-cross-entropy=2.000000
2026-11-23 10:00:00,000 Epoch[0] Learning-rate=0.1
2026-11-23 10:00:00,000 Epoch[0] Validation-accuracy=0.400000
2026-11-23 10:00:01,000 Epoch[1] Train-accuracy=0.600000
2026-11-23 11:00:00,000 Epoch[1] Train-accuracy=0.700000
2026-11-23 11:00:00,000 Epoch[1] Train-cross-entropy=1.000000
2026-11-23 11:00:00,000 Epoch[1] Learning-rate=1e-05
2026-11-23 11:00:00,000 Epoch[1] Validation-accuracy=0.800000
"""


@pytest.fixture
def logs(tmp_path):
    (tmp_path / "old.log").write_text(LOG_OF_2017)
    (tmp_path / "new.log").write_text(LOG_RESUMED)
    return tmp_path


def test_logs_of_2017_and_of_resumed_runs_are_read(logs):
    old = read_log(logs / "old.log")
    assert old["Train", "accuracy"] == {1: 0.05, 2: 0.1}
    assert old["Validation", "accuracy"] == {1: 0.061, 2: 0.12}
    new = read_log(logs / "new.log")
    assert new["Train", "accuracy"] == {1: 0.5, 2: 0.7}
    assert new["Learning-rate"] == {1: 0.1, 2: 1e-5}


@pytest.mark.parametrize("names", [["old.log"], ["new.log"], ["old.log", "new.log"]])
def test_curves_are_drawn(logs, names):
    out = logs / "curves.png"
    assert main([str(logs / name) for name in names] + ["--out", str(out)]) == 0
    picture = cv2.imread(str(out))
    assert picture.shape[1] > 700
    # Something is drawn in a colour of its own.
    assert (abs(picture[..., 0].astype(int) - picture[..., 2]) > 60).any()


LINES = [
    Line(Event.INTERVAL, 0, 10, 20),
    Line(Event.EPOCH, 0, 20, 20),
    Line(Event.VALIDATION, 0, 20, 20),
    Line(Event.INTERVAL, 1, 10, 20),
    Line(Event.INTERVAL, 1, 15, 20),
]


@pytest.mark.parametrize(
    ("place", "kept"),
    [
        ((0, 0, 20, False), 0),
        ((0, 9, 20, False), 0),
        ((0, 10, 20, False), 1),
        ((1, 0, 20, False), 2),  # killed between the checkpoint and its validation
        ((1, 0, 20, True), 3),
        ((1, 10, 20, False), 4),
        ((1, 19, 40, False), 3),  # another size of the batch since
        ((2, 0, 20, True), 5),
    ],
)
def test_a_run_that_goes_on_keeps_the_lines_up_to_there(tmp_path, place, kept):
    path = tmp_path / "x-metrics.jsonl"
    path.write_bytes(b"".join(line.text() for line in LINES) + b'{"event": "interval", "ep')
    metrics = MetricsFile(path, *place)
    metrics.write(replace(LINES[0], epoch=7))
    metrics.close()
    assert metrics.kept == LINES[:kept]
    assert read_metrics(path) == [*LINES[:kept], replace(LINES[0], epoch=7)]


def test_figures_that_a_full_disk_does_not_take_leave_whole_lines(tmp_path, capsys):
    path = tmp_path / "x-metrics.jsonl"
    metrics = MetricsFile(path, 0, 0, 20, False)
    metrics.write(LINES[0])
    size = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, size[1]))
    try:
        metrics.write(LINES[1])
        metrics.write(LINES[2])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, size)
        signal.signal(signal.SIGXFSZ, previous)
    metrics.write(LINES[3])
    metrics.close()
    assert read_metrics(path) == [LINES[0], LINES[3]]
    assert capsys.readouterr().err.count("lines are missing") == 1


@pytest.mark.parametrize(
    "damaged",
    ["{]", "[" * 10_000, "[]", '{"event": "interval", "epoch": 0, "batch": 1}',
     '{"event": "interval", "epoch": 0, "batch": 1, "batches": 0}',
     '{"event": "interval", "epoch": "0", "batch": 1, "batches": 2}',
     '{"event": "interval", "epoch": 0, "batch": 1, "batches": 2, "loss": []}'],
)  # fmt: skip
def test_a_damaged_line_is_not_passed_over(tmp_path, damaged):
    path = tmp_path / "x-metrics.jsonl"
    path.write_bytes(LINES[0].text() + damaged.encode() + b"\n" + LINES[3].text())
    with pytest.raises(LogError, match="line 2 is damaged"):
        MetricsFile(path, 1, 15, 20, False)


def test_svg_and_the_default_name(logs):
    assert main([str(logs / "new.log"), "--out", str(logs / "x.svg")]) == 0
    assert "<svg" in (logs / "x.svg").read_text()
    assert main([str(logs / "new.log")]) == 0
    assert (logs / "new.png").exists()


def test_an_axis_of_two_powers_of_ten_has_more_labels_than_these(tmp_path):
    run = {(part, "accuracy"): {1: 0.2, 2: 0.97} for part in ("Train", "Validation")}
    text = plot_curves({"x": run}, tmp_path / "x.svg").read_text()
    assert {"0.04", "0.06", "0.1", "0.2", "0.4", "0.6"} <= set(re.findall("<!-- (.*?) -->", text))


def figures_of(place, loss):
    epoch, batch = place
    figures = {"loss": loss, "top1": 1 - loss / 3, "lr": 0.1 / (1 + epoch)}
    return Line(Event.INTERVAL, epoch, batch, 20, **figures)


def test_figures_within_an_epoch(logs):
    lines = [figures_of((0, 10), 2.0), figures_of((1, 5), 1.0)]
    lines.insert(1, replace(figures_of((0, 20), 1.5), event=Event.EPOCH))
    lines.insert(2, replace(figures_of((0, 20), 1.2), event=Event.VALIDATION, lr=None))
    (logs / "new-metrics.jsonl").write_bytes(b"".join(line.text() for line in lines))
    # The name alone means the finer figures.
    run = read_run(logs / "new")
    assert run["Train", "cross-entropy"] == {0.5: 2.0, 1.25: 1.0}
    assert run["Validation", "cross-entropy"] == {1: 1.2}
    assert run["Learning-rate"] == {0.5: 0.1, 1.25: 0.05}
    assert read_run(logs / "new.log")["Train", "accuracy"] == {1: 0.5, 2: 0.7}
    assert main([str(logs / "new"), str(logs / "old")]) == 0
    assert (logs / "curves.png").exists()
    shown = draw_text({"new": run}, 80, 36)
    assert "cross-entropy" in shown and "validation" in shown and 20 <= shown.count("\n") <= 36


def test_live_draws_again_what_has_changed(tmp_path):
    path, out = tmp_path / "x-metrics.jsonl", tmp_path / "x.png"
    path.write_bytes(figures_of((0, 10), 2.0).text())
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "log.plot_curves", str(tmp_path / "x"), "--live",
         "--every=0.1", "--out", str(out)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    # Where nothing is drawn, its output ends.
    patience = threading.Timer(240, process.kill)
    patience.start()
    try:
        assert str(out) in process.stdout.readline()
        first = out.read_bytes()
        with open(path, "ab") as file:
            file.write(figures_of((0, 20), 1.0).text())
        assert str(out) in process.stdout.readline()
        assert out.read_bytes() != first
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        patience.cancel()
        process.kill()
        process.wait()
    assert {each.name for each in tmp_path.iterdir()} == {path.name, out.name}


@pytest.mark.parametrize("name", ["missing.log", "empty.log"])
def test_what_cannot_be_drawn_is_one_line(logs, name):
    (logs / "empty.log").write_text("nothing\n")
    process = subprocess.run(
        [sys.executable, "-m", "log.plot_curves", str(logs / name)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert name in process.stderr and process.stderr.count("\n") == 1
