"""Which checkpoints a run writes, keeps and replaces, and on what disk."""

import os
import shutil

import mxnet as mx
import numpy as np

from model.checkpoint import Checkpoints, Place
from tests.disks import tmpfs
from tests.runs import digest, refused
from tests.script.conftest import EPOCHS, arguments


def test_checkpoints_are_not_overwritten_unasked(run, records, tmp_path):
    given = [*records.thin, "--model-prefix=m/x", "--num-epochs=1"]
    assert run(*given).returncode == 0
    first = digest(tmp_path, "m/x", 1)
    refused = run(*given)
    assert refused.returncode == 2 and "--retrain" in refused.stderr
    assert digest(tmp_path, "m/x", 1) == first
    assert run(*given, "--overwrite", "--seed=1").returncode == 0
    assert digest(tmp_path, "m/x", 1) != first


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


def test_numbers_that_are_none_are_not_resumed(run, records, through, tmp_path):
    generation = Checkpoints(through / "x").load(Place(2))
    params = {**generation.params, "arg:fc1_bias": np.full(10, np.nan, np.float32)}
    Checkpoints(tmp_path / "x").save(
        Place(2), generation.symbol_json, params, generation.states, generation.run
    )
    said = refused(run(*arguments(records), "--model-prefix=x", "--num-epochs=3", "--retrain"))
    assert "x-0002.params: arg:fc1_bias has numbers that are NaN or infinite" in said


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
    assert "are replaced as this run reaches them" in process.stdout
    assert (tmp_path / "x-best.params").resolve().exists()
    assert os.readlink(tmp_path / "x-best.params") in ("x-0003.params", "x-0004.params")


def test_a_damaged_checkpoint_is_passed_over(run, records, through, tmp_path):
    shutil.copytree(through, tmp_path, dirs_exist_ok=True)
    newest = tmp_path / "x-0004.params"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    given = [*arguments(records), "--model-prefix=x", "--retrain"]
    by_number = run(*given, "--model-load-epoch=4")
    assert "x-0004.params: damaged" in refused(by_number)
    process = run(*given)
    assert "skipped x-0004.params: damaged" in process.stdout
    assert digest(tmp_path, "x", EPOCHS) == digest(through, "x", EPOCHS)


def test_a_read_only_folder_is_refused(run, records, tmp_path):
    with tmpfs(tmp_path / "small", "ro") as folder:
        process = run(*arguments(records), f"--model-prefix={folder}/x")
        assert "Read-only file system" in refused(process)


def test_a_full_disk_leaves_the_checkpoint_before(run, records, through, tmp_path):
    """450 KB hold one checkpoint and not two. Where no file system may be mounted, a limit on the
    size of a file stands for it (test_a_write_that_fails_leaves_the_generation_before)."""
    with tmpfs(tmp_path / "small", "size=450k") as folder:
        given = [*arguments(records), f"--model-prefix={folder}/x", "--log-file=x.log"]
        full = run(*given)
        assert "No space left on device" in refused(full, code=1)
        assert "won't fit" in full.stdout
        assert Checkpoints(folder / "x").newest()[0].place == Place(1)
        assert digest(folder, "x", 1) == digest(through, "x", 1)
        assert "a checkpoint needs" in refused(run(*given, "--retrain"))


def test_a_sliced_checkpoint_is_to_be_converted(run, records, tmp_path):
    name = "arg:Entry_flow_b2_sepconv1_depthwise_kernel_0_weight"
    mx.nd.save(str(tmp_path / "old-0050.params"), {name: mx.nd.zeros((1, 1, 3, 3))})
    for more in ([], ["--model-load-epoch=50"]):
        process = run(*records.arguments, "--model-prefix=old", "--retrain", *more)
        assert "python -m model.convert sliced old 50 NEW_PREFIX" in refused(process)
