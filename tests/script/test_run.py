"""A run as its user sees it: what it says, and the files that it leaves."""

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
from argparse import Namespace

import mxnet as mx
import pytest

import train_xception
from log.notices import Notices
from model.plan import Plan
from model.training.start import Start
from tests.runs import command, entries, metrics, refused
from tests.script.conftest import EPOCHS, LOGS


def test_a_run_leaves_what_the_readme_says(through):
    expected = {"x-lock", "x-symbol.json", "x-best.params"} | LOGS
    expected |= {f"x-{e:04d}.{k}" for e in range(1, 5) for k in ("params", "states", "json")}
    assert set(os.listdir(through)) == expected
    symbol, arg_params, aux_params = mx.model.load_checkpoint(str(through / "x"), EPOCHS)
    assert arg_params["fc1_weight"].shape == (10, 32)
    assert set(symbol.list_auxiliary_states()) == set(aux_params)
    text = (through / "x.log").read_text()
    for name in ("accuracy", "top_k_accuracy_5", "cross-entropy"):
        assert f"Epoch[3] Train-{name}=" in text and f"Epoch[3] Validation-{name}=" in text
    assert "Batch [0-5]\tSpeed:" in text and "no GPU" not in text
    events = [(line["event"], line["epoch"], line["batch"]) for line in metrics(through)]
    of_an_epoch = [("interval", 6), ("interval", 11), ("epoch", 12), ("validation", 12)]
    assert events == [(what, epoch, n) for epoch in range(EPOCHS) for what, n in of_an_epoch]
    last = [line for line in metrics(through) if line["epoch"] == EPOCHS - 1]
    assert [line["lr"] for line in last] == [0.1 * 0.1] * 3 + [None]
    for line, part in zip(last[2:], ("Train", "Validation")):
        assert f"Epoch[3] {part}-accuracy={line['top1']:f}\n" in text
        assert f"Epoch[3] {part}-cross-entropy={line['loss']:f}\n" in text
    (start,) = json.loads((through / "x-config.json").read_text())["starts"]
    assert start["arguments"]["seed"] == 0 and start["versions"]["mxnet"] == "1.9.1"


def test_a_terminal_has_a_live_line_below_the_lines(records, tmp_path):
    ours, theirs = pty.openpty()
    # 40 rows of 130 columns.
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 130, 0, 0))
    given = command(*records.arguments, "--model-prefix=x", "--log-file=x.log", "--num-epochs=2")
    process = subprocess.Popen(given, cwd=tmp_path, stdout=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # that is how its end is told
        while chunk := os.read(ours, 4096):
            shown += chunk
    os.close(ours)
    assert process.wait() == 0
    # What is written over is gone; a line that stays ends in a newline.
    drawn = [part for part in re.split("[\r\n]+", shown.decode()) if part.strip()]
    stays = [line for line in drawn if not line.startswith("epoch ")]
    assert [line.strip() for line in stays] == (tmp_path / "x.log").read_text().splitlines()
    live = re.findall(
        r"epoch 2/2 \|\S+ *\| (\d+)/12, left: epoch 00:\d\d, run 00:\d\d, [\d.]+ images/s, "
        r"loss [\d.]+, top-1 0\.\d+, lr 0.1 *\r",
        shown.decode(),
    )
    assert live and int(live[-1]) > 6
    assert drawn[-1] in stays


def test_quiet(run, records, tmp_path):
    given = [*records.arguments, "--model-prefix=x", "--log-file=x.log", "--num-epochs=1"]
    process = run(*given, "--quiet")
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert "Validation-accuracy" in (tmp_path / "x.log").read_text()
    # The network of the defaults.
    assert entries(tmp_path, "x", 1)["arg:fc1_weight"].shape == (10, 1024)
    process = run(*given, "--quiet")
    assert refused(process) and not process.stdout


def test_a_dry_run_writes_nothing(records, tmp_path, monkeypatch, capsys):
    given = [*records.arguments, "--dry-run", f"--model-prefix={tmp_path}/m/x"]
    given += [f"--log-file={tmp_path}/l/x.log"]
    assert train_xception.main(given) == 0
    said = capsys.readouterr().out
    assert re.search(r"needs about \d+ MB of memory", said) and "each checkpoint takes" in said
    assert "96 images of 10 classes" in said and "ready for epoch 0" in said
    assert not list(tmp_path.iterdir())
    # What would stop the run stops it too.
    (tmp_path / "l").touch()
    assert train_xception.main(given) == 2
    monkeypatch.setattr("model.training.memory.host_memory", lambda: (20 << 20, 20 << 20))
    assert train_xception.main(given) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "Not a directory" in errors[0]
    assert "there are 20 MB: a smaller --batch-size" in errors[1]
    assert [path.name for path in tmp_path.iterdir()] == ["l"]


def test_a_quiet_dry_run_says_warnings_alone(capsys):
    images = Namespace(next=lambda: Namespace(data=[mx.nd.zeros(1)]))
    notices = Notices()
    notices.info("a line")
    notices.warn("another")
    run = Namespace(
        plan=Plan.of(["--quiet"]), log_file="x.log", start=Start.anew(0.1), notices=notices
    )
    train_xception.show(run, images)
    assert capsys.readouterr() == ("", "warning: another\n")


def test_a_run_says_what_memory_it_will_need(through):
    predicted = int(re.search(r"needs about (\d+) MB", (through / "x.log").read_text())[1])
    lines = (through / "x-metrics.jsonl").read_text().splitlines()
    found = max(json.loads(line)["memory_mb"] for line in lines)
    assert found == pytest.approx(predicted, rel=0.35)


def test_summary(run):
    process = run("--summary", "--filters=original", "--padding=keras", "--image-shape=3,299,299")
    assert process.returncode == 0, process.stderr
    params, macs = re.search(r"^all +([\d,]+) +([\d,]+)$", process.stdout, re.M).groups()
    # Chollet 2017 gives 22,855,952 parameters; 8.4 GFLOPs are published, a multiply-add as one.
    assert params == "22,855,952"
    assert round(int(macs.replace(",", "")) / 1e9, 1) == 8.4
    assert "Middle_flow_block_7  728x19x19" in process.stdout


@pytest.mark.parametrize("what", ["training", "input"])
def test_benchmark_prints_one_figure_and_writes_nothing(run, records, tmp_path, what):
    images = ["--batch-size=8", "--image-shape=3,32,32", "--num-classes=10", "--gpus="]
    if what == "input":
        images += ["--data-type=digits", f"--data-dir={records.folder}"]
    process = run(f"--benchmark={what}", "--benchmark-batches=20", *images)
    assert process.returncode == 0, process.stderr
    (line,) = re.findall(r"^(?:training, float32|input, .*), 8x3x32x32.*", process.stdout, re.M)
    speed, milliseconds, memory = map(
        float,
        re.search(r"([\d.]+) images/s, ([\d.]+) ms a batch.*memory (\d+) MB", line).groups(),
    )
    assert speed * milliseconds == pytest.approx(8000, rel=0.05)
    assert memory > 50
    assert not list(tmp_path.iterdir())


def test_divergence_stops_before_it_is_saved(run, records, tmp_path):
    process = run(*records.arguments, "--model-prefix=x", "--num-epochs=2", "--lr=1e20")
    assert re.search(r"NaN or infinite at epoch 0, batch \d", refused(process, code=1))
    assert not list(tmp_path.glob("x-*.params"))
