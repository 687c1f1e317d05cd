"""Validation during a run: each image once, whatever the batch."""

import json
import re
import shutil

import mxnet as mx
import numpy as np
import pytest

from model.checkpoint import Checkpoints, Place
from tests.runs import figures, start
from tests.script.conftest import EPOCHS, arguments


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
        given += changed if len(changed) > 1 else ["--gpus=", *changed]
        given += ["--model-prefix=x", "--log-file=late.log", "--retrain"]
        process = start(copy, *given)
        assert process.returncode == 0, process.stderr
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
