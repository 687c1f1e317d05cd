"""data.parts and data.checking.order: how several readers go through an epoch."""

import cv2
import numpy as np
import pytest

from data.checking.order import check_order, labels_of_batches
from data.formats.recordset import Records
from data.iterators import EpochIter
from data.parts import SHUFFLED_BYTES, Takes, images_ahead, part_of_records, parts_of, readers_of
from log.notices import Notices
from tests.data.files import record, write

MB = 1 << 20


def records(labels, size) -> Records:
    """Records of equal length, `size` bytes together."""
    offsets = np.arange(len(labels)) * size // len(labels) & ~3
    return Records("a.rec", offsets, np.asarray(labels, "f4"), (("a.rec", 0),), size)


@pytest.mark.parametrize("seed", range(20))
def test_every_image_is_taken_once_in_whole_batches(seed):
    random = np.random.RandomState(seed)
    sizes = random.randint(0, 30, random.randint(1, 12)).tolist()
    order = random.permutation(len(sizes)).tolist()
    readers, batch_size = random.randint(1, 5), random.randint(1, 40)
    batches = list(Takes(order, sizes, readers, batch_size))
    counts = [sum(take.count for take in takes) for takes in batches]
    assert sum(counts) == sum(sizes) and set(counts[:-1]) <= {batch_size}
    taken = [0] * len(sizes)
    for take in (take for takes in batches for take in takes):
        assert take.start == taken[take.part] and take.count
        taken[take.part] += take.count
    assert taken == sizes


def test_batches_have_images_of_all_readers():
    """And when a part ends its reader takes the next one, in the order that was given."""
    batches = list(Takes([2, 0, 3, 1], [40, 40, 40, 40], readers=2, batch_size=16))
    assert [[(take.part, take.count) for take in takes] for takes in batches] == (
        [[(2, 8), (0, 8)]] * 5 + [[(3, 8), (1, 8)]] * 5
    )


def test_small_sets_have_one_reader():
    assert [readers_of(n * MB, 1, 4) for n in (1, 63, 64, 96, 5000)] == [1, 1, 2, 3, 4]
    assert readers_of(256 * MB, 4, 4) == 2  # each worker has 64 MB
    assert parts_of(100 * MB, 1, 2) == 2 and parts_of(10_000 * MB, 2, 4) == 20


def test_records_in_the_order_of_the_classes_are_said():
    """640 MB, 20 classes: within what a batch is drawn from all classes come, or about two."""
    labels = np.arange(6400) // 320
    for order, says in ((labels, 1), (np.random.RandomState(0).permutation(labels), 0)):
        notices = Notices()
        check_order(records(order, 640 * MB), 1, 2, 32, notices)
        assert len(notices) == says
    check_order(records(labels, 640 * MB), 1, 1, 32, notices)
    says = "images of 1.0 classes instead of 16.1, and 100% of the batches of one or two"
    assert says in notices[0].text
    # Shuffled as a whole, and in four pieces.
    for size, says in ((8, 0), (30, 1)):
        notices = Notices()
        check_order(records(labels, size * MB), 1, 2, 32, notices)
        assert len(notices) == says


def test_what_mxnet_shuffles_at_once(tmp_path):
    """8 MB: an image moves by less than 16 records of half a megabyte, in a file of 24 MB."""
    pixel = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    path, padded = tmp_path / "a.rec", pixel + bytes(MB // 2 - 100)
    write(path, *[record(float(number), padded, number) for number in range(48)])
    args = {"path_imgrec": str(path), "data_shape": (3, 8, 8), "batch_size": 8, "shuffle": True}
    labels = np.concatenate([batch.label[0].asnumpy() for batch in EpochIter(args, seed=0)])
    assert sorted(labels) == list(range(48))
    assert 8 < np.abs(labels - np.arange(48)).max() < SHUFFLED_BYTES // (MB // 2)


def test_the_batches_that_are_simulated_have_every_image_once():
    labels = np.arange(6400)
    for readers in (1, 2, 4):
        found = list(labels_of_batches(records(labels, 640 * MB), 1, readers, 48))
        assert sorted(np.concatenate(found)) == labels.tolist()


def test_images_that_wait():
    some = records(np.zeros(1000), 1000 * MB)
    assert images_ahead(some, 1, 1, 10) == 16 + 30 and images_ahead(some, 1, 2, 10) == 32 + 60
    assert images_ahead(records(np.zeros(1000), 10 * MB), 2, 2, 10) == 500 + 30
    assert part_of_records(some, 4).tolist() == np.repeat(range(4), 250).tolist()
