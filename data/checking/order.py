"""Whether the batches of an epoch have images of many classes, as they should."""

from typing import Iterator

import numpy as np

from data.formats.recordset import Records
from data.parts import SHUFFLED_BYTES, Takes, part_of_records, parts_of, readers_of
from log.notices import Notices


def check_order(
    records: Records, workers: int, readers: int, batch_size: int, notices: Notices
) -> None:
    """Warn if the records are in the order of the classes: ImageRecordIter shuffles a few megabytes
    at a time, so that batches have few classes. The arguments are those of `labels_of_batches`."""
    if records.size // workers <= SHUFFLED_BYTES:
        return  # shuffled as a whole
    batches = labels_of_batches(records, workers, readers, batch_size)
    classes = np.array([len(np.unique(labels)) for labels in batches])
    shuffled = np.random.RandomState(0).permutation(records.labels)
    expected = np.mean(
        [len(np.unique(shuffled[i * batch_size :][:batch_size])) for i in range(len(classes))]
    )
    found, few = np.mean(classes), np.mean(classes <= 2)
    if found < expected / 2:
        notices.warn(
            f"{records.path}: in the order of the classes, and MXNet shuffles "
            f"{SHUFFLED_BYTES >> 20} MB at a time: a batch has images of {found:.1f} classes "
            f"instead of {expected:.1f}, and {few:.0%} of the batches of one or two: training "
            "suffers: pack with data.pack, or shuffle the list for im2rec"
        )


def labels_of_batches(
    records: Records, workers: int, readers: int, batch_size: int
) -> Iterator[np.ndarray]:
    """Yield the labels of each batch of an epoch of the first worker, whose images are shuffled as
    `data.iterators.EpochIter` does, with other random numbers. readers : that are wanted."""
    random = np.random.RandomState(0)
    readers = readers_of(records.size, workers, readers)
    parts = parts_of(records.size, workers, readers)
    part_of = part_of_records(records, workers * parts)
    labels = []
    for part in range(parts):
        numbers = np.flatnonzero(part_of == part)
        window = (records.offsets[numbers] - records.offsets[numbers[:1]]) // SHUFFLED_BYTES
        shuffled = np.lexsort((random.uniform(size=len(window)), window))
        labels.append(records.labels[numbers[shuffled]])
    order = random.permutation(parts).tolist()
    for takes in Takes(order, list(map(len, labels)), readers, batch_size):
        yield np.concatenate(
            [labels[take.part][take.start : take.start + take.count] for take in takes]
        )
