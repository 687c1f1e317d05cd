"""Own JSON files, damaged or of another form: one line, or skipped, never a traceback."""

import json
import re

import pytest

from model.checkpoint.format import _digest
from tests.commands.conftest import TRAIN, call

RETRAIN = f"train_xception {TRAIN} --dry-run --retrain --num-epochs 2"
EVALUATE = "model.evaluate m 1 --data-val rec/val.rec"
READS = {
    "m-0001.json": (EVALUATE, RETRAIN),
    "m-symbol.json": (EVALUATE, RETRAIN),
    "p-symbol.json": (
        "model.evaluate p 1 --data-val rec/val.rec --image-shape 3,32,32",
        f"train_xception {TRAIN} --dry-run --overwrite --pretrained=p,1",
        "model.convert onnx p 1 x.onnx --image-size 32",
    ),
    "m-metrics.jsonl": (
        f"train_xception {TRAIN} --retrain --num-epochs 2",
        "log.plot_curves m-metrics.jsonl",
    ),
    "m-config.json": (f"train_xception {TRAIN} --retrain --num-epochs 2",),
    "packed/pack.json": ("data.pack images packed --resize 36",),
    "new/train.rec.progress": ("data.pack images new --resize 36 --val-fraction 0",),
}
DAMAGE = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[: len(content) // 2],
    "deep": lambda content: b"[" * 10_000 + b"]" * 10_000 + b"\n",
    "binary": lambda content: bytes(range(256)) * 8 + b"\n",
    "null": lambda content: b"null\n",
}
# Lines before a torn one count.
FINE = {("m-metrics.jsonl", "empty"), ("m-metrics.jsonl", "cut off")}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged(place, capsys, name, damage):
    path = place / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(DAMAGE[damage](path.read_bytes() if path.exists() else b'{"job": {'))
    for command in READS[name]:
        code, _, error = call(place, command, capture=capsys)
        if (name, damage) in FINE and code == 0:
            continue
        assert code in (1, 2), (command, error)
        assert error.count("\n") == 1 and re.search(r": error: .*\w", error), (command, error)


@pytest.mark.parametrize("damage", DAMAGE)
def test_retrain_passes_over_a_damaged_checkpoint(place, capsys, damage):
    for kind in ("json", "params", "states"):
        (place / f"m-0002.{kind}").write_bytes((place / f"m-0001.{kind}").read_bytes())
    content = (place / "m-0002.json").read_bytes()
    (place / "m-0002.json").write_bytes(DAMAGE[damage](content))
    code, out, error = call(place, f"{RETRAIN[:-1]}3", capture=capsys)
    assert (code, error) == (0, "")
    assert "skipped m-0002.json: " in out and "resumes from m-0001.params" in out


@pytest.mark.parametrize(
    "edit",
    [
        'd.pop("format")', 'd.pop("count")', 'd["count"] = "x"', 'd["files"] = None',
        'd["files"]["params"] = 1', 'd.pop("run")', 'd["run"] = None', 'd["run"]["settings"] = []',
        's["image_shape"] = [3, 10**9, 10**9]', 's["image_shape"] = "3,32,32"',
        's["rgb_mean"] = [0, 0]', 's["rgb_mean"] = [0, 0, float("nan")]',
        's["rgb_std"] = [1, 0, 1]', 's["classes"] = "abc"', 's["classes"] = [1, 2]',
        's["short_side"] = 0', 's["pretrained"] = ["x"]', 's["accumulate"] = 0',
        'd["run"]["validation"] = 0.5', 'd["run"]["validation"] = {}',
        'd["run"]["best"] = {"epoch": 1}', 'd["run"]["best"] = [1]', 'd["run"]["lr"] = -1',
        'd["run"]["lr"] = "0.1"', 'd["run"]["lr_epoch"] = 0.5', 'd["run"]["batches"] = 0',
        'd["run"]["figures"] = [[]]', 'd["run"]["figures"] = []', 'd["run"]["updates"] = None',
    ],
)  # fmt: skip
def test_entries_of_another_form_under_a_right_checksum(place, capsys, edit):
    sign(place / "m-0001.json", edit)
    for command in (EVALUATE, RETRAIN):
        code, _, error = call(place, command, capture=capsys)
        assert code == 2 and error.count("\n") == 1, (command, error)
        assert "m-0001.json: " in error


@pytest.mark.parametrize(
    "edit",
    [
        's.clear()', 'd["run"] = {}', 'd["run"].pop("lr")', 'd["run"].pop("best")',
        'd["run"].pop("figures")', 'd["run"]["lr_epoch"] = None',
        'd["run"]["first_update"] = 1; d["run"].pop("updates")',
    ],
)  # fmt: skip
def test_a_run_that_lacks_an_entry_is_not_resumed(place, capsys, edit):
    sign(place / "m-0001.json", edit)
    code, _, error = call(place, RETRAIN, capture=capsys)
    assert code == 2 and error.count("\n") == 1
    assert "m-0001.json: not a run that can be resumed: " in error


def sign(path, edit):
    """Change a description, d, of a run with settings s; its checksum is right."""
    described = json.loads(path.read_text())
    described.pop("sha256")
    exec(edit, {"d": described, "s": described["run"]["settings"]})
    path.write_text(json.dumps({**described, "sha256": _digest(described)}))
