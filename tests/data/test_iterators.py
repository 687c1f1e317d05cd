"""data.iterators: an epoch holds the records, each once, and can be entered anywhere."""

import functools
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from data import DataError, inspect, iterators, parts
from data.formats import classes, recordset
from data.packing import writer
from tests.data.files import PNG, record, write
from tests.runs import ROOT

IMAGES = 22
BATCH = 4


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Arguments for 22 images of noise, the label of each its number; shuffled, cropped."""
    path = tmp_path_factory.mktemp("numbered") / "numbered.rec"
    rng = np.random.RandomState(0)
    noise = rng.randint(0, 256, (IMAGES, 32, 32, 3)).astype(np.uint8)
    write(path, *[record(float(i), writer.encode_png(image), i) for i, image in enumerate(noise)])
    args = {"path_imgrec": str(path), "data_shape": (3, 28, 28), "batch_size": BATCH}
    return iterators.training_args(args, {"rand_crop": True, "rand_mirror": True})


@pytest.fixture(params=[1, 3], ids=["one reader", "three readers"])
def epochs(request, monkeypatch):
    """EpochIter with so many readers, however few the records are."""
    monkeypatch.setattr(parts, "READER_BYTES", 1 << 10)
    monkeypatch.setattr(parts, "PART_BYTES", 16 << 10)
    return functools.partial(iterators.EpochIter, readers=request.param)


def rest_of_epoch(iterator) -> list:
    """Return all that is to know of each batch up to the end of the epoch."""
    return [
        {
            "place": (batch.epoch, batch.number),
            "seed": batch.seed,
            "labels": batch.label[0].asnumpy().tolist(),
            "pixels": batch.data[0].asnumpy().tobytes(),
            "pad": batch.pad,
        }
        for batch in iterator
    ]


def seen(batches) -> list:
    return [label for batch in batches for label in batch["labels"][: BATCH - batch["pad"]]]


def test_every_epoch_has_every_image_once(epochs, numbered):
    iterator = epochs(numbered, seed=5)
    orders = []
    for epoch in range(3):
        batches = rest_of_epoch(iterator)
        assert [batch["place"] for batch in batches] == [(epoch, i) for i in range(6)]
        assert [batch["pad"] for batch in batches] == [0] * 5 + [2]
        assert all(len(batch["labels"]) == BATCH for batch in batches)
        orders.append(seen(batches))
        assert sorted(orders[-1]) == list(range(IMAGES))
        iterator.reset()
    assert len({tuple(order) for order in orders}) == 3


def test_an_epoch_can_be_had_without_those_before_it(epochs, numbered):
    iterator = epochs(numbered, seed=5)
    for epoch in range(3):
        reached = rest_of_epoch(iterator)
        assert rest_of_epoch(epochs(numbered, seed=5, epoch=epoch)) == reached
        iterator.reset()


def test_reset_within_an_epoch_goes_to_the_next(epochs, numbered):
    iterator = epochs(numbered, seed=5)
    iterator.next()
    iterator.reset()
    assert rest_of_epoch(iterator) == rest_of_epoch(epochs(numbered, seed=5, epoch=1))


@pytest.mark.parametrize("number", [1, 4, 6])
def test_an_epoch_can_be_entered_at_a_batch(epochs, numbered, number):
    """And what follows that epoch is the same too. 6 is the end of the epoch: nothing is left."""
    whole = epochs(numbered, seed=5, epoch=1)
    entered = epochs(numbered, seed=5, epoch=1, number=number)
    assert rest_of_epoch(entered) == rest_of_epoch(whole)[number:]
    for iterator in (whole, entered):
        iterator.reset()
    assert rest_of_epoch(entered) == rest_of_epoch(whole)


def test_another_seed_is_another_order(epochs, numbered):
    runs = [rest_of_epoch(epochs(numbered, seed=seed)) for seed in (0, 1, 2**40)]
    for key in ("labels", "pixels", "seed"):
        assert len({str([batch[key] for batch in run]) for run in runs}) == 3


def test_augmentation_follows_from_seed_and_epoch(epochs, numbered):
    """The images in order, so that crops and mirrors alone differ; not by the number of threads."""

    def pixels(seed, epoch, threads):
        args = {**numbered, "shuffle": False, "preprocess_threads": threads}
        batches = rest_of_epoch(epochs(args, seed=seed, epoch=epoch))
        assert sorted(seen(batches)) == list(range(IMAGES))
        return b"".join(batch["pixels"] for batch in batches)

    places = [(0, 0), (0, 1), (1, 0)]
    assert len({pixels(*place, threads=1) for place in places}) == 3
    for place in places:
        assert pixels(*place, threads=1) == pixels(*place, threads=2)


def test_seeds_of_batches_differ(epochs, numbered):
    seeds = [
        batch["seed"]
        for epoch in range(3)
        for part in range(2)
        for batch in rest_of_epoch(
            epochs({**numbered, "num_parts": 2, "part_index": part}, epoch=epoch)
        )
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_pixels_belong_to_their_labels(epochs, numbered):
    """Also where nobody waits for a batch before the next one is asked for."""
    args = {**numbered, "rand_crop": False, "rand_mirror": False}
    one_by_one = iterators.EpochIter({**args, "shuffle": False, "batch_size": 1})
    sums = {int(batch.label[0].asscalar()): batch.data[0].sum().asscalar() for batch in one_by_one}
    for epoch in range(3):
        found = [
            (batch.label[0].copy(), batch.data[0].sum(axis=(1, 2, 3)))
            for batch in epochs(args, epoch=epoch)
        ]
        for labels, of_images in found:
            expected = [sums[int(label)] for label in labels.asnumpy()]
            assert of_images.asnumpy().tolist() == pytest.approx(expected, rel=1e-6)


def test_a_short_batch_is_filled_up(epochs, numbered):
    """With other images of the epoch; several readers: with those of the batch before."""
    batches = rest_of_epoch(epochs(numbered, seed=5))
    assert batches[-1]["pad"] == 2
    if epochs.keywords["readers"] > 1:
        assert batches[-1]["labels"][2:] == batches[-2]["labels"][2:]
    assert not set(batches[-1]["labels"][2:]) & set(batches[-1]["labels"][:2])
    # More than there are images: with its own.
    (batch,) = epochs({**numbered, "batch_size": 30})
    labels = batch.label[0].asnumpy().tolist()
    assert batch.pad == 8 and sorted(labels[:22]) == list(range(IMAGES))
    assert set(labels[22:]) <= set(range(IMAGES))


def test_a_worker_with_fewer_images_begins_anew(epochs, numbered):
    """In the middle of its second time, too, an epoch can be entered."""
    whole = rest_of_epoch(epochs(numbered, seed=5, epoch=1, batches=9))
    assert [batch["pad"] for batch in whole] == [0] * 5 + [2] + [0] * 3
    assert whole[6]["labels"] != whole[0]["labels"]
    assert len(set(seen(whole[6:]))) == 3 * BATCH
    for number in (5, 6, 7, 9):
        entered = epochs(numbered, seed=5, epoch=1, number=number, batches=9)
        assert rest_of_epoch(entered) == whole[number:]


def test_what_is_read_ahead_is_told_when_it_is_asked_for(numbered, tmp_path):
    """MXNet itself raises while it is set up where what it has read ahead is no image."""
    path = tmp_path / "bad.rec"
    write(path, *[record(float(i), b"no image", i) for i in range(IMAGES)])
    args = {**numbered, "path_imgrec": str(path)}
    for _ in range(5):
        iterator = iterators.EpochIter(args)
        with pytest.raises(DataError, match="epoch 0, batch 1: a record can't be read: record"):
            iterator.next()
    with pytest.raises(mx.base.MXNetError):
        mx.io.ImageRecordIter(**args)


@pytest.mark.parametrize("epoch", [0, 1])
def test_parts_together_have_every_image_once(epochs, numbered, epoch):
    parts = [
        seen(rest_of_epoch(epochs({**numbered, "num_parts": 3, "part_index": part}, epoch=epoch)))
        for part in range(3)
    ]
    assert all(parts)
    assert sorted(label for part in parts for label in part) == list(range(IMAGES))


def test_what_a_checkpoint_says_of_its_images(tmp_path):
    rec = tmp_path / "val.rec"
    writer = mx.recordio.MXRecordIO(str(rec), "w")
    for height, width in [(20, 30), (25, 20), (20, 20), (21, 40)]:
        image = np.zeros((height, width, 3), np.uint8)
        writer.write(
            mx.recordio.pack_img(mx.recordio.IRHeader(0, 0.0, 0, 0), image, img_fmt=".png")
        )
    writer.close()
    sides = inspect.check_sample(recordset.scan(rec))
    assert sides == (20, 20, 21) and sides.common is None
    assert classes.class_names(rec) is None
    (tmp_path / "classes.txt").write_bytes("été\nhiver\n".encode())
    assert classes.class_names(rec) == ["été", "hiver"]
    (tmp_path / "classes.txt").write_bytes("été".encode("latin-1"))
    with pytest.raises(DataError, match=r"classes.txt: not UTF-8"):
        classes.class_names(rec)


# Files


@pytest.mark.parametrize("name", ["a#b", "a?b", "a;b", "a b", "a*b", "a[1]", "a(1)", "数", "a%20b"])
def test_names_that_mean_something_else_to_mxnet(numbered, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(numbered["path_imgrec"], folder / f"{name}.rec")
    copied = {**numbered, "path_imgrec": str(folder / f"{name}.rec")}
    expected = rest_of_epoch(iterators.EpochIter(numbered))
    assert rest_of_epoch(iterators.EpochIter(copied)) == expected


def several(folder, *sizes) -> list:
    """Files with so many records, the labels counting on."""
    count = itertools.count()
    files = []
    for i, size in enumerate(sizes):
        numbers = list(itertools.islice(count, size))
        payloads = [record(float(n), PNG, n) for n in numbers]
        files.append(str(write(folder / f"{'ba#c'[i]}.rec", *payloads)))
    return files


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_several_files_are_one_set(tmp_path, parts):
    """Named one by one, or a folder, without the copies of --skip-bad-records."""
    files = several(tmp_path, 7, 5, 4)
    write(tmp_path / "a.clean.rec", record(99.0))
    scanned = recordset.scan(";".join(files))
    assert scanned.labels.tolist() == list(range(16))
    assert scanned.place(8) == (files[1], 1, recordset.scan(files[1]).offsets[1])
    assert recordset.record_files(tmp_path) == sorted(files)
    args = {"data_shape": (3, 32, 32), "batch_size": 1, "num_parts": parts}
    for path, labels in ((";".join(files), range(16)), (tmp_path, None)):
        found = []
        for part in range(parts):
            images = iterators.EpochIter({**args, "path_imgrec": path, "part_index": part})
            found.append([int(batch.label[0].asscalar()) for batch in images])
        assert [len(part) for part in found] == iterators.part_sizes(path, parts)
        everything = [label for part in found for label in part]
        assert everything == list(labels) if labels else sorted(everything) == list(range(16))


def test_files_of_a_set_have_the_same_classes(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    files = f"{tmp_path}/a/x.rec;{tmp_path}/b/x.rec"
    assert recordset.names_of_classes(files) is None
    (tmp_path / "a" / "classes.txt").write_text("cat\ndog\n")
    assert recordset.names_of_classes(files) == ["cat", "dog"]
    (tmp_path / "a" / "y.rec").write_bytes(b"")
    assert recordset.names_of_classes(tmp_path / "a") == ["cat", "dog"]
    (tmp_path / "b" / "classes.txt").write_text("dog\ncat\n")
    with pytest.raises(DataError, match=r"b/x\.rec has other classes than .*a/x\.rec"):
        recordset.names_of_classes(files)


def test_a_bad_record_of_several_files_is_named(epochs, tmp_path):
    files = several(tmp_path, 3, 3)
    write(Path(files[1]), record(3.0), record(4.0, b"no image"), record(5.0))
    args = {"path_imgrec": ";".join(files), "data_shape": (3, 32, 32), "batch_size": 6}
    with pytest.raises(DataError, match=rf"{files[1]}: record 1 at byte \d+: not an image"):
        epochs(args).next()


@pytest.mark.parametrize("change", ["cut off", "appended", "other bytes", "gone"])
@pytest.mark.parametrize("when", [0, 3, 6, "between epochs"])
def test_files_that_change_are_noticed(numbered, tmp_path, change, when):
    """Before the next batch; after the last one, before the end of the epoch; between epochs, with
    the first batch, where a run with a checkpoint to write is ready for it."""
    path = tmp_path / "x.rec"
    content = Path(numbered["path_imgrec"]).read_bytes()
    path.write_bytes(content)
    images = iterators.EpochIter({**numbered, "path_imgrec": str(path)})
    for _ in range(6 if when == "between epochs" else when):
        images.next()
    if change == "gone":
        path.unlink()
    elif change == "cut off":
        os.truncate(path, len(content) - 4)
    else:
        path.write_bytes(content + content if change == "appended" else bytes(len(content)))
        os.utime(path, ns=(0, 0))
    if when == "between epochs":
        images.reset()
    with pytest.raises(DataError, match=r"x\.rec: changed while it was read"):
        images.next()


def test_epochs_leave_no_memory_behind(digits):
    """A process of its own, 12 epochs: not one batch an epoch more than after the first 5."""
    script = """
from data.iterators import EpochIter
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
images = EpochIter({"path_imgrec": REC, "data_shape": (3, 256, 256), "batch_size": 90})
sizes = []
for _ in range(12):
    for batch in images:
        batch.data[0].wait_to_read()
    images.reset()
    sizes.append(resident())
print((sizes[-1] - sizes[4]) / (90 * 3 * 256 * 256 * 4))
"""
    process = subprocess.run(
        [sys.executable, "-c", script.replace("REC", repr(str(digits / "val.rec")))],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(process.stdout.split()[-1]) < 5  # three an epoch were 21


# Seconds of CPU time that a process takes in a second in which nothing is asked of it.
IDLE = """
import sys, time
import mxnet
from data.readers import FirstToLast
reader = FirstToLast(eval(sys.argv[1]))
reader.next()
time.sleep(0.2)
began = time.process_time()
time.sleep(1)
print(time.process_time() - began)
"""


def test_a_reader_leaves_no_threads_that_spin(numbered):
    """ImageRecordIter asks OpenMP for a team when it is made, and never uses it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "active"}
    done = subprocess.run(
        [sys.executable, "-c", IDLE, repr({**numbered, "preprocess_threads": 1})],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(done.stdout) < 0.5
