"""The command line of train_xception.py: what it says of its flags, and of wrong ones."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.datasets import DATASETS
from model.plan import Plan
from tests.runs import ROOT, command, refused


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
    plan = Plan.of([])
    args = plan.arguments
    for flag, default in FLAGS_OF_2017.items():
        assert args[flag[2:].replace("-", "_")] == default, flag
    assert args["model_prefix"] == "model/xception-imagenet-0-0"
    assert (plan.training.num_epochs, plan.training.lr_steps) == (125, (20, 40, 60, 80, 90, 110))
    levels = [Plan.of([f"--aug-level={i}"]).data.data_train for i in (1, 2, 3)]
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
    assert says in refused(process)
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
        ("--data-val=TRAIN", "has the same content as the training file"),
        ("--cpus=3 --batch-size=8", "can't be divided among 3 devices"),
        ("--batch-size=97", "more than the 96 training images: give a smaller one, and --lr in"),
        ("--retrain", "no checkpoint"),
        ("--pretrained=nowhere,3", "nowhere has no checkpoint of epoch 3\n"),
        ("--model-prefix=/proc/x/y", "no checkpoint could be written"),
    ],
)
def test_what_cannot_be_trained_is_one_line(run, records, arguments, says):
    arguments = arguments.replace("TRAIN", str(records.train)).split()
    gpus = [a for a in records.arguments if "--cpus" not in arguments[0] or a != "--gpus="]
    process = run(*gpus, *arguments)
    assert says in refused(process)


def test_tensorboard_without_its_package_is_one_line(run, tmp_path):
    (tmp_path / "tensorboardX.py").write_text("raise ImportError('no tensorboardX')")
    process = run("--tensorboard", PYTHONPATH=str(tmp_path))
    assert "no tensorboardX: pip install tensorboardX==" in refused(process)


def test_float16_is_for_gpus(run, records):
    process = run(*records.arguments, "--dtype=float16")
    assert "for GPUs only" in refused(process)
