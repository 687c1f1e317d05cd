"""data.formats.recordfile.scan and data.inspect: what is checked about records before a run."""

import numpy as np
import pytest

from data import DataError, inspect
from data.formats import recordfile
from tests.data.files import MAGIC, PNG, record, write


def test_scan_counts_and_finds_the_labels(tmp_path):
    path = write(tmp_path / "some.rec", record(4.0), record(2.0), record(7.0, b"123"))
    assert recordfile.scan(path).labels.tolist() == [4, 2, 7]


def test_scan_reads_a_label_that_is_an_array_of_one(tmp_path):
    """im2rec's other way to store it: behind the header, whose own label is then 0."""
    path = write(tmp_path / "array.rec", record([5.0]), record([3.0]))
    assert recordfile.scan(path).labels.tolist() == [5, 3]


@pytest.mark.parametrize(
    "image",
    [b"abcd" + MAGIC + b"efgh", MAGIC, MAGIC * 3 + b"a", PNG + b"\0" * (-len(PNG) % 4) + MAGIC],
    ids=["within", "all", "three", "at the end"],
)
def test_scan_counts_a_split_record_once(tmp_path, image):
    """RecordIO splits a record at each aligned magic word; the last part may be empty."""
    split = record(1.0, image)
    path = write(tmp_path / "split.rec", record(0.0), split, record(3.0), split)
    assert path.read_bytes().count(MAGIC) > 4
    assert recordfile.scan(path).labels.tolist() == [0, 1, 3, 1]
    assert [found.record for found in recordfile.walk(path)] == [
        record(0.0),
        split,
        record(3.0),
        split,
    ]


def bad_record_file(path, kind):
    if kind == "directory":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "short text":
        path.write_bytes(b"hello")
    elif kind == "text":
        path.write_bytes(b"not a record file\n" * 10)
    elif kind == "two labels":
        write(path, record(1.0), record([1.0, 2.0]))
    elif kind in ("0.5", "nan", "inf"):
        write(path, record(1.0), record(float(kind)), record(2.0))
    elif kind != "missing":
        whole = write(path, record(1.0), record(2.0)).read_bytes()
        path.write_bytes(whole[: int(kind)] if int(kind) < 0 else whole + b"\0" * int(kind))


@pytest.mark.parametrize(
    "kind",
    ["missing", "directory", "empty", "short text", "text", "two labels", "0.5", "nan", "inf"]
    + ["-1", "-4", f"-{len(record(2.0))}", f"-{len(record(2.0)) + 4}", "4", "64"],
)
def test_scan_refuses(tmp_path, kind):
    """A number: so many bytes are missing from the end, or are too many there."""
    path = tmp_path / "bad.rec"
    bad_record_file(path, kind)
    with pytest.raises(DataError) as error:
        recordfile.scan(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def scanned(*labels, path="a.rec"):
    return recordfile.Records(path, np.zeros(len(labels)), np.array(labels, "f4"))


@pytest.mark.parametrize(("labels", "wrong"), [((3, -1), "label -1"), ((0, 5, 2), "label 5")])
def test_check_labels_refuses(labels, wrong):
    with pytest.raises(DataError, match=rf"a\.rec: record 1: {wrong} .* from 0 to 4$"):
        inspect.check_labels(scanned(*labels), num_classes=5)


def test_check_labels_accepts_the_first_and_the_last_class():
    inspect.check_labels(scanned(0, 4), num_classes=5)
