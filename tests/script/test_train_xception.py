"""train_xception.py as its user runs it: real images, real processes, real kills."""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import pickle
import pty
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from argparse import Namespace
from functools import partial, partialmethod
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_xception
from data.datasets import DATASETS
from model import ModelError
from model.checkpoint import Checkpoints, Place, ndarray_file
from model.devices import has_bfloat16
from model.network.layers import architecture
from model.training.average import AveragedCheckpoints
from tests.conftest import ROOT, command, mounted_tmpfs, save_network, start_until

# The documented command line


def test_help_is_quick_grouped_and_says_every_default():
    began = time.perf_counter()
    process = subprocess.run(command("--help"), capture_output=True, text=True)
    seconds = time.perf_counter() - began
    for title in (
        "devices:",
        "data:",
        "network:",
        "fine-tuning:",
        "training:",
        "checkpoints and log:",
    ):
        assert f"\n{title}\n" in process.stdout
    described = re.split(r"\n  (?=-)", process.stdout[process.stdout.index("devices:") :])[1:]
    assert len(described) > 35
    for flag in described:
        switch = flag.startswith(("--memonger", "--retrain", "--overwrite"))
        assert switch or "(default" in flag, flag
    assert "None" not in process.stdout
    # What makes it quick, rather than how quick it was.
    code = "import sys, train_xception; sys.exit('mxnet' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    print(f"--help answered in {seconds:.2f} s")


FLAGS_OF_2017 = {
    "--gpus": None,
    "--data-dir": "./data/imagenet/",
    "--data-type": "imagenet",
    "--list-dir": "./",
    "--lr": None,
    "--mom": 0.9,
    "--bn-mom": 0.9,
    "--wd": 0.0001,
    "--batch-size": 256,
    "--workspace": 512,
    "--num-classes": None,
    "--aug-level": 2,
    "--num-examples": None,
    "--kv-store": "device",
    "--model-load-epoch": 0,
    "--frequent": 50,
    "--memonger": False,
    "--retrain": None,
}


def test_flags_of_2017_have_their_defaults():
    import train_xception

    args = vars(train_xception.parse_arguments([]))
    for flag, default in FLAGS_OF_2017.items():
        assert args[flag[2:].replace("-", "_")] == default, flag
    assert args["model_prefix"] == "model/xception-imagenet-0-0"
    assert (args["num_epochs"], args["lr_steps"]) == (125, (20, 40, 60, 80, 90, 110))
    levels = [train_xception.parse_arguments([f"--aug-level={i}"]).data_train for i in (1, 2, 3)]
    assert [Path(path).name for path in levels] == [
        "train_256_q90.rec",
        "train_480_q90.rec",
        "train_480_q90.rec",
    ]
    assert "rand_mirror" not in str(DATASETS["digits"].augmentation)


WRONG = [
    ("--model-load-epoch=3", "needs --retrain"),
    ("--gpus=0,x", "--gpus"),
    ("--gpus=0,0", "twice"),
    ("--gpus=0 --cpus=2", "one of them"),
    ("--dropout=1", "[0, 1)"),
    ("--batch-size=0", ">= 1"),
    ("--lr=-1", "above 0"),
    ("--lr-steps=3,2", "rising"),
    ("--lr-factor=2", "at most 1"),
    ("--image-shape=1,28,28", "3,height,width"),
    ("--rgb-mean=1,2", "three numbers"),
    ("--rgb-std=1,0,1", "above 0"),
    ("--retrain --overwrite", "one of them"),
    ("--freeze=entry", "needs --pretrained"),
    ("--pretrained=model/x", "PREFIX,EPOCH"),
    ("--head-lr-mult=0", "above 0"),
    ("--kv-store=nowhere", "--kv-store"),
    ("--data-dir=nowhere", "python -m data.imagenet.prepare"),
    ("--data-type=digits --data-dir=nowhere", "python -m data.digits.prepare"),
    ("--epochs 3", "unrecognized arguments: --epochs 3: did you mean --num-epochs?\n"),
    ("--batchsize=3", "unrecognized arguments: --batchsize=3: did you mean --batch-size?\n"),
    ("--colour=red", "unrecognized arguments: --colour=red\n"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG)
def test_wrong_arguments_are_one_line(run, arguments, says):
    process = run(*arguments.split())
    assert process.returncode == 2
    assert says in process.stderr and process.stderr.count("\n") == 1
    assert not process.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--num-examples=1281167", "holds 96 images, not 1281167"),
        ("--num-classes=5", "label 9"),
        ("--data-val=run.sh", "run.sh is missing"),
        (f"--data-val={ROOT / 'run.sh'}", "not a .rec file"),
        ("--data-train=s3://bucket/train.rec", "built without S3, HDFS and HTTP"),
        ("--data-val=hdfs://host/val.rec", "built without S3, HDFS and HTTP"),
        ("--data-val=TRAIN", "what was trained on"),
        ("--cpus=3 --batch-size=8", "can't be divided over 3 devices"),
        ("--batch-size=97", "more than the 96 training images"),
        ("--retrain", "no checkpoint"),
        ("--pretrained=nowhere,3", "nowhere has no checkpoint of epoch 3\n"),
        ("--model-prefix=/proc/x/y", "no checkpoint could be written"),
    ],
)
def test_what_cannot_be_trained_is_one_line(run, records, arguments, says):
    arguments = arguments.replace("TRAIN", str(records.train)).split()
    gpus = [a for a in records.arguments if "--cpus" not in arguments[0] or a != "--gpus="]
    process = run(*gpus, *arguments)
    assert process.returncode == 2
    assert says in process.stderr and process.stderr.count("\n") == 1


# The run of the documentation


def test_crops_much_smaller_than_the_images_are_said():
    def said(shape, short_side):
        lines = []
        train_xception.check_crop(shape, short_side, lines.append)
        return lines

    (line,) = said((3, 64, 96), 256)
    assert line.startswith("warning: validation sees the middle 64x96 pixels")
    assert "short side is 256" in line and line.endswith("--resize 137 --val-resize 73")
    for shape, short_side in (((3, 224, 224), 256), ((3, 128, 128), 256), ((3, 64, 64), None)):
        assert said(shape, short_side) == []


def figures(log) -> list:
    """The lines of a log that have figures, without times and speeds, each once."""
    lines = [line.split(" ", 2)[2].strip() for line in Path(log).read_text().splitlines()]
    lines = [re.sub(r"Speed: \S+ samples/sec\s+", "", line) for line in lines]
    lines = [line for line in lines if line.startswith("Epoch") and "Time cost" not in line]
    return list(dict.fromkeys(lines))


def metrics(folder, name="x") -> list:
    """The lines of the figures of a run, without what is of the machine and the moment."""
    lines = (folder / f"{name}-metrics.jsonl").read_text().splitlines()
    ours = ("images_s", "seconds", "memory_mb")
    return [{k: v for k, v in json.loads(line).items() if k not in ours} for line in lines]


def digest(folder, name, epoch) -> list:
    return [
        hashlib.sha256((folder / f"{name}-{epoch:04d}.{kind}").read_bytes()).hexdigest()
        for kind in ("params", "states")
    ]


EPOCHS = 4
LOGS = {"x.log", "x-metrics.jsonl", "x-config.json"}


@pytest.fixture(scope="module")
def through(records, tmp_path_factory):
    """A run of 4 epochs that nothing interrupts, of the thin network; its folder."""
    folder = tmp_path_factory.mktemp("through")
    done = subprocess.run(
        command(*arguments(records), "--model-prefix=x", "--log-file=x.log"), cwd=folder
    )
    assert done.returncode == 0
    return folder


def arguments(records):
    # A step of the learning rate within; --frequent 5 in an epoch of 12 batches.
    return [*records.thin, f"--num-epochs={EPOCHS}", "--lr-steps=2"]


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
    assert process.returncode == 2 and not process.stdout and process.stderr.count("\n") == 1


def test_tensorboard_without_its_package_is_one_line(run, tmp_path):
    (tmp_path / "tensorboardX.py").write_text("raise ImportError('no tensorboardX')")
    process = run("--tensorboard", PYTHONPATH=str(tmp_path))
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert "no tensorboardX: pip install tensorboardX==" in process.stderr


def test_a_dry_run_writes_nothing(records, tmp_path, monkeypatch, capsys):
    import train_xception

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
    args = Namespace(log_file="x.log", num_epochs=1, quiet=True)
    train_xception.dry_run(
        args, {"start": Place(0), "images": images}, ["a line", "warning: another"]
    )
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


def test_validation_counts_every_image_once(through, records):
    """40 images in batches of 8 and by hand, from the files alone: the same accuracy."""
    from data.iterators import EpochIter

    symbol, arg_params, aux_params = mx.model.load_checkpoint(str(through / "x"), EPOCHS)
    module = mx.mod.Module(symbol)
    module.bind([("data", (7, 3, 16, 16))], [("softmax_label", (7,))], for_training=False)
    module.set_params(arg_params, aux_params)
    right, counted = 0, 0
    images = EpochIter(
        {"path_imgrec": str(records.val), "data_shape": (3, 16, 16), "batch_size": 7,
         "label_name": "softmax_label", "verbose": False}
    )  # fmt: skip
    for batch in images:
        module.forward(batch, is_train=False)
        valid = 7 - batch.pad
        guess = module.get_outputs()[0].asnumpy()[:valid].argmax(axis=1)
        right += int(np.sum(guess == batch.label[0].asnumpy()[:valid]))
        counted += valid
    assert counted == 40
    line = f"Epoch[{EPOCHS - 1}] Validation-accuracy={right / 40:f}"
    assert line in (through / "x.log").read_text()


def test_validation_figures_do_not_depend_on_the_batch(through, records, tmp_path):
    """The same network, validated late with batches that don't divide 40, and on 3 devices."""
    wanted = [line for line in figures(through / "x.log") if line.startswith("Epoch[3] Validation")]
    for changed in (["--batch-size=7"], ["--batch-size=9", "--cpus=3"]):
        copy = tmp_path / f"late{len(changed)}"
        shutil.copytree(through, copy)
        Checkpoints(copy / "x").annotate(Place(EPOCHS), validation=None)
        assert json.loads((copy / "x-0004.json").read_text())["run"]["validation"] is None
        given = [a for a in arguments(records) if a != "--gpus="]
        process = subprocess.run(
            command(*given, *(changed if len(changed) > 1 else ["--gpus=", *changed]),
                    "--model-prefix=x", "--log-file=late.log", "--retrain"),
            cwd=copy,
        )  # fmt: skip
        assert process.returncode == 0
        found = figures(copy / "late.log")
        assert [line.rsplit("=", 1)[0] for line in found] == [w.rsplit("=", 1)[0] for w in wanted]
        for line, other in zip(found, wanted):
            assert float(line.rsplit("=", 1)[1]) == pytest.approx(float(other.rsplit("=", 1)[1]))


def test_sets_smaller_than_a_batch(run, records, digits, tmp_path):
    """40 validation images and a batch of 96: MXNet itself fails above twice the records."""
    few = tmp_path / "few.rec"
    source = mx.recordio.MXRecordIO(str(records.val), "r")
    target = mx.recordio.MXRecordIO(str(few), "w")
    for _ in range(7):
        target.write(source.read())
    target.close()
    process = run(*records.thin, "--batch-size=96", "--num-epochs=1", f"--data-val={few}")
    assert process.returncode == 0, process.stderr
    accuracy = float(re.search(r"Validation-accuracy=([\d.]+)", process.stdout)[1])
    assert accuracy * 7 == pytest.approx(round(accuracy * 7), abs=1e-4)


def test_checkpoints_are_not_overwritten_unasked(run, records, tmp_path):
    given = [*records.thin, "--model-prefix=m/x", "--num-epochs=1"]
    assert run(*given).returncode == 0
    first = digest(tmp_path, "m/x", 1)
    refused = run(*given)
    assert refused.returncode == 2 and "--retrain" in refused.stderr
    assert digest(tmp_path, "m/x", 1) == first
    assert run(*given, "--overwrite", "--seed=1").returncode == 0
    assert digest(tmp_path, "m/x", 1) != first


def test_retrain_with_a_learning_rate_of_its_own(run, records, through, tmp_path):
    """The issue's own sequence: 2 epochs, then a third from epoch 1 at 0.001."""
    shutil.copytree(through, tmp_path, dirs_exist_ok=True)
    again = run(
        *arguments(records), "--model-prefix=x", "--log-file=y.log", "--num-epochs=3", "--retrain",
        "--model-load-epoch=1", "--lr=0.001",
    )  # fmt: skip
    assert again.returncode == 0
    text = (tmp_path / "y.log").read_text()
    assert "Epoch[1] Learning-rate=0.001" in text and "Epoch[2] Learning-rate=0.0001" in text
    assert "--lr: 0.001 from epoch 1 on; the run began with 0.1" in text
    # The newest is now the third of this run, not the fourth of the one before.
    process = run(*arguments(records), "--model-prefix=x", "--log-file=z.log", "--retrain")
    assert "goes on from x-0003.params" in process.stdout
    assert "Epoch[3] Learning-rate=0.0001" in process.stdout


def test_retrain_auto_starts_or_goes_on(records, through, tmp_path, monkeypatch, capsys):
    """One command for the first start and every restart, with an --lr too."""
    import train_xception

    monkeypatch.chdir(tmp_path)
    shutil.copytree(through, tmp_path, dirs_exist_ok=True)

    def says(*more):
        given = [*arguments(records), "--retrain=auto", "--num-epochs=9", "--dry-run", *more]
        assert train_xception.main(given) == 0
        return capsys.readouterr().out

    said = says("--model-prefix=y")
    assert "no checkpoint yet: starts anew" in said and "ready for epoch 0;" in said
    began = json.loads((through / f"x-{EPOCHS:04d}.json").read_text())["run"]["lr"]
    for more in ((), (f"--lr={began}",)):
        said = says("--model-prefix=x", *more)
        assert f"ready for epoch {EPOCHS};" in said and "--lr:" not in said
    assert f"--lr: 0.003 from epoch {EPOCHS} on" in says("--model-prefix=x", "--lr=0.003")


def test_changed_arguments_are_said(run, records, through, tmp_path):
    shutil.copytree(through, tmp_path, dirs_exist_ok=True)
    process = run(*arguments(records), "--model-prefix=x", "--retrain", "--wd=0.001", "--dropout=0")
    assert "wd 0.0001 -> 0.001" in process.stdout and "dropout 0.2 -> 0.0" in process.stdout
    process = run(*arguments(records), "--model-prefix=x", "--retrain", "--filters=original")
    assert process.returncode == 2 and "has the shape" in process.stderr
    process = run(*arguments(records), "--model-prefix=x", "--retrain", "--num-classes=11")
    assert process.returncode == 2 and "fc1_weight" in process.stderr


def test_several_devices_and_memonger(run, records, tmp_path):
    """Two CPU contexts train over the kvstore; memonger changes no bit of it."""
    given = [a for a in records.thin if a != "--gpus="]
    for name, more in (("plain", ["--cpus=2"]), ("less", ["--cpus=2", "--memonger"]), ("one", [])):
        process = run(*given, *more, f"--model-prefix={name}", "--num-epochs=1")
        assert process.returncode == 0, process.stderr
        assert ("cpu(0), cpu(1);" in process.stdout) == bool(more)
    assert digest(tmp_path, "plain", 1) == digest(tmp_path, "less", 1)
    assert digest(tmp_path, "plain", 1) != digest(tmp_path, "one", 1)
    # A checkpoint of 2 devices goes on with 1.
    process = run(*given, "--model-prefix=plain", "--num-epochs=2", "--retrain")
    assert process.returncode == 0 and "devices 2 -> 1" in process.stdout


def test_several_workers_write_one_checkpoint(records, tmp_path):
    """A scheduler, a server and two workers on loopback: rank 0 alone writes and validates, and
    both make the same number of updates, though their parts of the records need not be equal."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ,
        "DMLC_NUM_WORKER": "2",
        "DMLC_NUM_SERVER": "1",
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_PS_ROOT_PORT": str(port),
        "DMLC_NODE_HOST": "127.0.0.1",
        "DMLC_INTERFACE": "lo",
        "OMP_NUM_THREADS": "1",
    }
    given = [*arguments(records), "--num-epochs=1", "--model-prefix=x", "--log-file=x.log"]
    jobs = {"scheduler": [sys.executable, "-c", "import mxnet"]}
    jobs["server"] = jobs["scheduler"]
    jobs["worker"] = jobs["worker "] = command(*given, "--kv-store=dist_sync")
    processes = [
        subprocess.Popen(
            job, cwd=tmp_path, env={**shared, "DMLC_ROLE": role.strip()},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for role, job in jobs.items()
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes[2:]]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes[2:]] == [0, 0], outputs
    assert sorted("Saved checkpoint" in text for text in outputs) == [False, True]
    assert sorted("Validation-accuracy" in text for text in outputs) == [False, True]
    # The second worker has a log file, and says nothing else.
    assert sorted("6 batches an epoch" in text for text in outputs) == [False, True]
    assert "6 batches an epoch" in (tmp_path / "x-1.log").read_text()
    names = {"x-symbol.json", "x-0001.params", "x-0001.states", "x-0001.json"}
    assert set(os.listdir(tmp_path)) == names | {"x-best.params", "x-lock"} | LOGS | {"x-1.log"}


# Stopping and going on


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
    resumed = subprocess.run(command(*given, "--retrain"), cwd=tmp_path)
    assert resumed.returncode == 0
    assert digest(tmp_path, "x", EPOCHS) == digest(through, "x", EPOCHS)
    assert figures(tmp_path / "x.log") == figures(through / "x.log")
    assert metrics(tmp_path) == metrics(through)
    starts = json.loads((tmp_path / "x-config.json").read_text())["starts"]
    assert [start["epoch"] for start in starts] == [0, 1]
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    for what, curve in (("interval", "training"), ("validation", "validation")):
        points = [(event.step, event.value) for event in board.Scalars(f"loss/{curve}")]
        lines = [line for line in metrics(tmp_path) if line["event"] == what]
        assert points == [(line["update"], pytest.approx(line["loss"])) for line in lines]
    assert not list(tmp_path.glob("x-*-*.params"))


def test_float32_goes_on_in_bfloat16_and_back(run, records, through, tmp_path):
    """Checkpoints are float32, whatever the run computes in, and each way is exact again."""
    if not has_bfloat16():
        process = run(*records.arguments, "--dtype=bfloat16", "--num-epochs=1")
        assert "this CPU has no instructions for it: float32" in process.stdout
        return
    shutil.copytree(through, tmp_path, dirs_exist_ok=True)
    given = [*arguments(records), "--retrain", "--dtype=bfloat16"]
    for name in ("b", "c"):
        for path in through.glob("x-[0s]*"):
            shutil.copy(path, tmp_path / path.name.replace("x-", f"{name}-"))
    # b in one go; c with a stop between, once in float32 to show that it would make a difference.
    for name, *more in (
        ["b", "--model-load-epoch=1"],
        ["c", "--model-load-epoch=1", "--num-epochs=2"],
        ["c"],
    ):
        text = run(*given, f"--model-prefix={name}", *more)
        assert text.returncode == 0, text.stderr
    assert digest(tmp_path, "b", EPOCHS) == digest(tmp_path, "c", EPOCHS)
    assert digest(tmp_path, "b", EPOCHS) != digest(through, "x", EPOCHS)
    content = ndarray_file.parse((tmp_path / "b-0004.params").read_bytes())
    assert {str(array.dtype) for array in content.values()} == {"float32"}
    back = run(*given, "--model-prefix=b", "--model-load-epoch=3", "--dtype=float32")
    assert back.returncode == 0 and "dtype bfloat16 -> float32" in back.stdout


def test_auto_takes_what_is_faster_and_keeps_to_it(run, records, tmp_path):
    given = [*records.thin, "--dtype=auto", "--model-prefix=x", "--log-file=x.log"]
    first = run(*given, "--num-epochs=1")
    assert first.returncode == 0, first.stderr
    if not has_bfloat16():
        assert "--dtype auto: float32: no bfloat16 on this CPU" in first.stdout
        return
    pattern = r"--dtype auto: (\S+): float32 ([\d.]+) images/s, bfloat16 ([\d.]+) images/s"
    taken, *speeds = re.search(pattern, first.stdout).groups()
    assert taken == ("float32" if float(speeds[0]) >= float(speeds[1]) else "bfloat16")
    assert json.loads((tmp_path / "x-0001.json").read_text())["run"]["settings"]["dtype"] == taken
    again = run(*given, "--num-epochs=2", "--retrain")
    assert again.returncode == 0 and f"--dtype auto: {taken}, as in the checkpoint" in again.stdout


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


def test_float16_is_for_gpus(run, records):
    process = run(*records.arguments, "--dtype=float16")
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert "for GPUs only" in process.stderr


def test_a_second_signal_ends_at_once(records, tmp_path):
    """Both signals are there when the batch ends: no checkpoint is written for either."""
    given = command(*arguments(records), "--model-prefix=x", "--log-file=x.log")
    process = subprocess.Popen(given, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "Epoch[0] Batch [0-5]" in line:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            break
    rest = process.stdout.read()
    assert process.wait() in (130, 143)
    assert "stopped by" not in rest and not list(tmp_path.glob("x-*.params"))


# Each state that the files of checkpoints can be left in, as moments for tests/moments.py; batches
# 2, 4 ... of 12 have one, and each run goes on from what the one before has left.
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
            process = subprocess.Popen(
                command(*given), cwd=tmp_path, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            if killed < kills():
                # The first line comes when all is ready to train.
                first = process.stdout.readline()
                time.sleep(drawn.uniform(0, 1))
                process.kill()
        out, err = process.communicate()
        if process.returncode == -signal.SIGKILL:
            killed += 1
            places += "goes on from" in (out if window else first + out)
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


def test_a_damaged_checkpoint_is_passed_over(run, records, through, tmp_path):
    shutil.copytree(through, tmp_path, dirs_exist_ok=True)
    newest = tmp_path / "x-0004.params"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    given = [*arguments(records), "--model-prefix=x", "--retrain"]
    by_number = run(*given, "--model-load-epoch=4")
    assert by_number.returncode == 2
    assert "x-0004.params: damaged" in by_number.stderr and by_number.stderr.count("\n") == 1
    process = run(*given)
    assert "passed over x-0004.params: damaged" in process.stdout
    assert digest(tmp_path, "x", EPOCHS) == digest(through, "x", EPOCHS)


# `--retrain auto` behind a kill within the first checkpoint


def numbered_run(number, ema=False):
    """What `save` takes of a run whose network is another for each `number`."""
    symbol = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=number, name="fc1")
    states = {"w": np.full(3, number, "f4")}
    if ema:
        states.update({"~": np.array([1]), "w~": np.full(3, number, "f4")})
    return symbol.tojson(), {"arg:w": np.full(3, number, "f4")}, states, {"number": number}


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
    train_xception.begin(checkpoints, Namespace(ema=ema), dry_run=False)
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
    """Return (what `--retrain auto` goes on from, what it says)."""
    said = []
    checkpoints = AveragedCheckpoints(prefix)
    train_xception.begin(checkpoints, Namespace(ema=ema), dry_run=False)
    args = Namespace(retrain=retrain, model_prefix=prefix, model_load_epoch=0, overwrite=False)
    return train_xception.find_generation(args, checkpoints, said.append), said


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
    """It starts anew or goes on from the generation that is whole, with the network of that."""
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
            assert len(said) == 1 and said[0].startswith("no checkpoint yet: starts anew"), said
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
    assert "starts anew, and passes over what was never finished: x-0001\n" in process.stdout
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


# Records that can't be read


@pytest.fixture(scope="module")
def fat(records, tmp_path_factory):
    """The training records in 48 MB, which MXNet reads in two pieces, the second from about record
    64 on; with a folder of the same in which the image of record 90 is no image."""
    folder = tmp_path_factory.mktemp("fat")
    source = mx.recordio.MXRecordIO(str(records.train), "r")
    for name in ("good", "bad"):
        (folder / name).mkdir()
        source.reset()
        target = mx.recordio.MXRecordIO(str(folder / name / "train.rec"), "w")
        for number in range(96):
            header, image = mx.recordio.unpack(source.read())
            image = b"no image" if name == "bad" and number == 90 else image
            target.write(mx.recordio.pack(header._replace(id2=0), image + bytes(500_000)))
        target.close()
        shutil.copy(records.val, folder / name)
    return folder


def test_a_bad_record_is_named_and_the_run_goes_on_from_there_exactly(run, records, fat, tmp_path):
    given = [*arguments(records), "--num-epochs=2", "--model-prefix=x", "--log-file=x.log"]
    whole = [*given, f"--data-dir={fat / 'good'}", "--model-prefix=y", "--log-file=y.log"]
    assert run(*whole).returncode == 0
    process = run(*given, f"--data-dir={fat / 'bad'}")
    assert process.returncode == 1
    offset = 90 * ((fat / "bad" / "train.rec").stat().st_size // 96)
    assert process.stderr.count("\n") == 1
    place = re.search(r"record 90 at byte (\d+): no image that OpenCV can decode", process.stderr)
    assert abs(int(place[1]) - offset) < 100_000
    assert "--skip-bad-records" in process.stderr
    (saved,) = tmp_path.glob("x-0000-*.params")
    batches = int(saved.stem.split("-")[-1])
    assert f"stopped at epoch 0, batch {batches}; the same command with --retrain" in process.stdout
    assert 1 <= batches < 12
    # With the record repaired it ends in the bits of a run that met none.
    assert run(*given, f"--data-dir={fat / 'good'}", "--retrain").returncode == 0
    assert digest(tmp_path, "x", 2) == digest(tmp_path, "y", 2)
    assert figures(tmp_path / "x.log") == figures(tmp_path / "y.log")


def test_a_record_that_goes_bad_between_two_epochs(records, through, tmp_path):
    """None of the second epoch's can be read: the checkpoint is the first's, though not due."""
    training = tmp_path / "train.rec"
    shutil.copy(records.train, training)
    given = [
        *arguments(records), f"--data-train={training}", "--model-prefix=x", "--log-file=x.log",
        "--checkpoint-epochs=9",
    ]  # fmt: skip
    process = start_until("line Epoch[0] Batch [0-5]", tmp_path, *given)
    # MXNet has read all of this small file.
    training.write_bytes(training.read_bytes().replace(b"\x89PNG", b"GONE"))
    process.send_signal(signal.SIGCONT)
    rest, error = process.communicate()
    assert process.returncode == 1 and error.count("\n") == 1
    assert "epoch 1, batch 1: a record can't be read: record 0 at byte 0: " in error
    assert "stopped at epoch 1;" in rest
    assert [path.name for path in tmp_path.glob("x-0*.params")] == ["x-0001.params"]
    shutil.copy(records.train, training)
    assert subprocess.run(command(*given, "--retrain"), cwd=tmp_path).returncode == 0
    assert digest(tmp_path, "x", EPOCHS) == digest(through, "x", EPOCHS)


def test_a_bad_validation_record_costs_no_epoch(run, records, fat, tmp_path):
    given = [*arguments(records), "--model-prefix=x", "--checkpoint-epochs=4"]
    process = run(*given, f"--data-val={fat / 'bad' / 'train.rec'}")
    assert process.returncode == 1 and "record 90 at byte" in process.stderr
    assert [path.name for path in tmp_path.glob("x-0*.params")] == ["x-0001.params"]


def test_bad_records_are_left_out_if_wished(run, records, fat, tmp_path):
    """And an interrupted run goes on exactly, with the same records."""
    shutil.copytree(fat / "bad", tmp_path / "bad")
    given = [*arguments(records), f"--data-dir={tmp_path / 'bad'}", "--num-epochs=2"]
    given += ["--skip-bad-records", "--log-file=x.log"]
    whole = run(*given, "--model-prefix=x")
    assert whole.returncode == 0, whole.stderr
    assert "train.rec: 1 bad records left out, the first record 90 at byte" in whole.stdout
    assert "95 images of 10 classes, 12 batches an epoch" in whole.stdout
    assert run(*given, "--model-prefix=y", "--num-epochs=1").returncode == 0
    again = run(*given, "--model-prefix=y", "--retrain")
    assert "1 bad records left out" in again.stdout
    assert digest(tmp_path, "x", 2) == digest(tmp_path, "y", 2)


def test_divergence_stops_before_it_is_saved(run, records, tmp_path):
    process = run(*records.arguments, "--model-prefix=x", "--num-epochs=2", "--lr=1e20")
    assert process.returncode == 1
    assert re.search(r"NaN or infinite at epoch 0, batch \d", process.stderr)
    assert process.stderr.count("\n") == 1
    assert not list(tmp_path.glob("x-*.params"))


def test_going_back_takes_the_best_that_is_left(run, records, through, tmp_path):
    shutil.copytree(through, tmp_path, dirs_exist_ok=True)
    checkpoints = Checkpoints(tmp_path / "x")
    # Epoch 2 was the best, and --keep has deleted it since.
    for epoch in (3, 4):
        checkpoints.annotate(
            Place(epoch),
            best={"epoch": 2, "accuracy": 0.99},
            validation={"accuracy": epoch / 100},
        )
    checkpoints.remove([Place(2)])
    process = run(
        *arguments(records), "--model-prefix=x", "--retrain", "--model-load-epoch=3"
    )  # fmt: skip
    assert process.returncode == 0
    assert "are replaced as this run comes to them" in process.stdout
    assert (tmp_path / "x-best.params").resolve().exists()
    assert os.readlink(tmp_path / "x-best.params") in ("x-0003.params", "x-0004.params")


def test_momentum_may_be_given_up_and_taken_up_again(run, records, through, tmp_path):
    shutil.copytree(through, tmp_path, dirs_exist_ok=True)
    given = [*arguments(records), "--model-prefix=x", "--retrain"]
    without = run(*given, "--model-load-epoch=3", "--mom=0")
    assert without.returncode == 0 and "mom 0.5 -> 0.0" in without.stdout
    assert ndarray_file.parse((tmp_path / "x-0004.states").read_bytes()) == {}
    assert run(*given, "--num-epochs=5").returncode == 0
    assert ndarray_file.parse((tmp_path / "x-0005.states").read_bytes())


def test_housekeeping(run, records, tmp_path):
    process = run(
        *records.thin,
        "--model-prefix=x",
        "--num-epochs=6",
        "--checkpoint-epochs=2",
        "--keep=1",
    )
    assert process.returncode == 0
    kept = sorted(path.name for path in tmp_path.glob("x-0*.params"))
    best = os.readlink(tmp_path / "x-best.params")
    assert kept == sorted({"x-0006.params", best})


def test_a_read_only_folder_is_refused(records, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    if not mounted_tmpfs(folder, "ro"):
        pytest.skip("may not mount a file system here")
    try:
        given = command(*arguments(records), f"--model-prefix={folder}/x")
        process = subprocess.run(given, cwd=tmp_path, capture_output=True, text=True)
        assert process.returncode == 2
        assert "Read-only file system" in process.stderr and process.stderr.count("\n") == 1
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_checkpoint_before(records, through, tmp_path):
    """450 KB hold one checkpoint and not two. Where no file system may be mounted, a limit
    on the size of a file stands for it (tests/model/test_model.py)."""
    folder = tmp_path / "small"
    folder.mkdir()
    if not mounted_tmpfs(folder, "size=450k"):
        pytest.skip("may not mount a file system here; test_model.py has a limit on file size")
    try:
        given = command(*arguments(records), f"--model-prefix={folder}/x", "--log-file=x.log")
        full = subprocess.run(given, cwd=tmp_path, capture_output=True, text=True)
        assert full.returncode == 1
        assert "No space left on device" in full.stderr and full.stderr.count("\n") == 1
        assert "won't fit" in full.stdout
        assert Checkpoints(folder / "x").newest()[0].place == Place(1)
        assert digest(folder, "x", 1) == digest(through, "x", 1)
        refused = subprocess.run(
            [*given, "--retrain"], cwd=tmp_path, capture_output=True, text=True
        )
        assert refused.returncode == 2 and "a checkpoint needs" in refused.stderr
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# Fine-tuning


def entries(folder, name, epoch) -> dict:
    return ndarray_file.parse((folder / f"{name}-{epoch:04d}.params").read_bytes())


def test_pretrained_weights_are_where_it_starts(run, records, through, tmp_path):
    """With a learning rate that changes nothing, these weights come out; with --head-lr-mult,
    another classifier."""
    pretrained = f"--pretrained={through / 'x'},2"
    tiny = [*records.arguments, pretrained, "--num-epochs=1", "--lr=1e-30", "--wd=0"]
    before = entries(through, "x", 2)
    for name, more, same_head, says in (
        ("same", [], True, "with its classifier of 10 classes"),
        ("head", ["--head-lr-mult=1e28"], False, "with its classifier of 10 classes"),
        ("new", ["--num-classes=12"], False, "with a new classifier of 12 classes: it has one of"),
    ):
        process = run(*tiny, *more, f"--model-prefix={name}", f"--log-file={name}.log")
        assert process.returncode == 0, process.stderr
        assert process.stdout.count("starts from") == 1 and says in process.stdout
        after = entries(tmp_path, name, 1)
        for entry, array in before.items():
            if "fc1" in entry:
                assert (after[entry].shape == array.shape) == (name != "new")
                assert np.array_equal(after[entry], array) == same_head, entry
            elif entry.startswith("arg:"):
                assert np.array_equal(after[entry], array), entry


@pytest.mark.parametrize("freeze", ["entry", "all-but-head"])
def test_frozen_layers_stay_and_resume_is_exact(run, records, through, tmp_path, freeze):
    fine_tuning = [*records.arguments, f"--freeze={freeze}", "--head-lr-mult=3", "--num-epochs=2"]
    pretrained = f"--pretrained={through / 'x'},2"
    process = run(*fine_tuning, pretrained, "--model-prefix=a", "--log-file=a.log")
    assert process.returncode == 0, process.stderr
    before, after = entries(through, "x", 2), entries(tmp_path, "a", 2)
    for entry, array in before.items():
        frozen = "fc1" not in entry and (freeze == "all-but-head" or "Entry_flow" in entry)
        assert np.array_equal(after[entry], array) == frozen, entry
    # Nothing in the saved network tells that it was trained with a part of it frozen.
    assert (tmp_path / "a-symbol.json").read_bytes() == (through / "x-symbol.json").read_bytes()

    # Stopped within the second epoch, and gone on with, without --pretrained.
    for ending in ("symbol.json", "0001.params", "0001.states", "0001.json"):
        shutil.copy(tmp_path / f"a-{ending}", tmp_path / f"b-{ending}")
    process = run(*fine_tuning, "--model-prefix=b", "--log-file=b.log", "--retrain")
    assert process.returncode == 0, process.stderr
    assert "changed since" not in process.stdout
    assert digest(tmp_path, "b", 2) == digest(tmp_path, "a", 2)


def test_momentum_begins_anew_where_the_frozen_part_changes(run, records, through, tmp_path):
    arguments = [*records.arguments, "--model-prefix=x", "--num-epochs=2"]
    pretrained = f"--pretrained={through / 'x'},2"
    assert run(*arguments[:-1], "--num-epochs=1", pretrained, "--freeze=entry").returncode == 0
    process = run(*arguments, "--retrain")
    assert process.returncode == 0, process.stderr
    assert "changed since that checkpoint: freeze entry -> none" in process.stdout


def test_fine_tuning_keeps_the_network_and_its_pixels(run, records, tmp_path):
    """Keras' padding and epsilon, filters of nobody's, and [-1, 1]: as the checkpoint says."""
    filters = (4, 4, 6, 6, 8, 8, 10)
    settings = {"rgb_mean": [127.5] * 3, "rgb_std": [127.5] * 3, "image_shape": [3, 32, 32]}
    save_network(tmp_path / "k", filters, settings, padding="keras", bn_eps=1e-3)
    process = run(*records.arguments, "--pretrained=k,0", "--model-prefix=x", "--num-epochs=1")
    assert process.returncode == 0, process.stderr
    saved = json.loads((tmp_path / "x-0001.json").read_text())["run"]["settings"]
    assert (saved["padding"], saved["bn_eps"]) == ("keras", 1e-3)
    assert (saved["filters"], saved["rgb_std"]) == (list(filters), [127.5] * 3)
    assert architecture(mx.sym.load(str(tmp_path / "x-symbol.json")))["padding"] == "keras"

    process = run(*records.arguments, "--pretrained=k,0", "--filters=original", "--model-prefix=y")
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert "k,0: arg:Entry_flow_b1_conv1_conv2d_weight has the shape (2, 3, 3, 3)" in process.stderr
    # Converted weights say nothing of a learning rate.
    process = run(*records.arguments, "--retrain", "--model-prefix=k")
    assert process.returncode == 2 and "give --lr" in process.stderr


def test_a_sliced_checkpoint_is_to_be_converted(run, records, tmp_path):
    name = "arg:Entry_flow_b2_sepconv1_depthwise_kernel_0_weight"
    mx.nd.save(str(tmp_path / "old-0050.params"), {name: mx.nd.zeros((1, 1, 3, 3))})
    for more in ([], ["--model-load-epoch=50"]):
        process = run(*records.arguments, "--model-prefix=old", "--retrain", *more)
        assert process.returncode == 2 and process.stderr.count("\n") == 1
        assert "python -m model.convert sliced old 50 NEW_PREFIX" in process.stderr
