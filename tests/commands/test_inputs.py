"""Files that are no files: every command says so in one line, at once."""

import os
import shutil

import pytest

from tests.commands.conftest import TRAIN, call

CHECKPOINT = ("m-symbol.json", "m-0001.params", "m-0001.states", "m-0001.json")
PLAIN = ("p-symbol.json", "p-0001.params")
DRY = f"train_xception {TRAIN} --dry-run"
READS = {
    "model.evaluate m 1 --data-val rec/val.rec": (*CHECKPOINT, "rec/val.rec", "rec/val.idx"),
    "model.evaluate p 1 --data-val rec/val.rec --image-shape 3,32,32": PLAIN,
    "model.predict m 1 images/a/0.png": (*CHECKPOINT, "images/a/0.png"),
    "model.quantize m 1 q --calibrate rec/train.rec": (*CHECKPOINT, "rec/train.rec"),
    "model.convert keras k.h5 out": ("k.h5",),
    "model.convert sliced p 1 out": ("p-0001.params",),
    "model.convert to-keras m 1 out.h5": CHECKPOINT,
    "model.convert onnx m 1 out.onnx": CHECKPOINT,
    "data.pack list.lst out --resize 36": ("list.lst",),
    "data.pack images packed --resize 36": ("packed/pack.json",),
    "data.verify rec/val.rec": ("rec/val.rec", "rec/val.idx", "rec/classes.txt"),
    "data.cifar10.prepare source --out out": ("source",),
    "data.imagenet.prepare --train source --val source --out out": ("source",),
    "log.plot_curves m.log": ("m.log",),
    "log.plot_curves m-metrics.jsonl": ("m-metrics.jsonl",),
    f"{DRY} --overwrite": ("rec/train.rec", "rec/val.rec", "rec/train.idx", "rec/classes.txt"),
    f"{DRY} --overwrite --pretrained=m,1": CHECKPOINT,
    f"{DRY} --overwrite --pretrained=p,1": PLAIN,
    f"{DRY} --retrain --num-epochs 2": CHECKPOINT,
    f"train_xception {TRAIN} --retrain --num-epochs 2": ("m-metrics.jsonl", "m-config.json"),
}


def fifo(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def folder(path):
    path.mkdir()


def sparse(path):
    path.touch()
    os.truncate(path, 200 << 30)


@pytest.mark.parametrize("command", READS)
def test_what_is_no_file_is_one_line(place, capsys, command):
    for name in READS[command]:
        for make in (fifo, device, folder, sparse):
            path = place / name
            kept = path.exists() and path.rename(place / "kept")
            make(path)
            code, out, error = call(place, command, capture=capsys)
            if command.startswith("data.verify"):  # what it finds is its output
                error = error or f": error: {out.splitlines()[0]}\n"
            case = f"{command}: {name}: {make.__name__}: {code}\n{error}"
            assert code in (1, 2) and error.count("\n") == 1 and ": error: " in error, case
            assert os.path.basename(name).split(".")[0] in error, case
            shutil.rmtree(path) if make is folder else path.unlink()
            if kept:
                kept.rename(path)
