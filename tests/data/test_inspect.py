"""data.formats.recordset.scan and data.inspect: what is checked about records before a run."""

import re

import numpy as np
import pytest

from data import DataError, inspect
from data.formats import recordfile, recordset
from log.notices import Notices
from tests.data.files import MAGIC, PNG, record, write


def test_scan_counts_and_finds_the_labels(tmp_path):
    path = write(tmp_path / "some.rec", record(4.0), record(2.0), record(7.0, b"123"))
    assert recordset.scan(path).labels.tolist() == [4, 2, 7]


def test_scan_reads_a_label_that_is_an_array_of_one(tmp_path):
    """im2rec's other way to store it: behind the header, whose own label is then 0."""
    path = write(tmp_path / "array.rec", record([5.0]), record([3.0]))
    assert recordset.scan(path).labels.tolist() == [5, 3]


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
    assert recordset.scan(path).labels.tolist() == [0, 1, 3, 1]
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
        recordset.scan(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", [1, 2, 3, 4])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_scan_refuses_parts_out_of_order(tmp_path, number, part):
    """MXNet ends the process where it comes to one."""
    path = write(tmp_path / "bad.rec", *(record(float(i)) for i in range(3)))
    content = bytearray(path.read_bytes())
    content[number * len(content) // 3 + 7] |= part << 5
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"part of a split record|the rest of its last"):
        recordset.scan(path)


def scanned(*labels, path="a.rec"):
    return recordset.Records(path, np.zeros(len(labels)), np.array(labels, "f4"))


@pytest.mark.parametrize(("labels", "wrong"), [((3, -1), "label -1"), ((0, 5, 2), "label 5")])
def test_check_labels_refuses(labels, wrong):
    with pytest.raises(DataError, match=rf"a\.rec: record 1: {wrong} is outside 0 to 4$"):
        inspect.check_labels(scanned(*labels), num_classes=5)


def test_check_labels_accepts_the_first_and_the_last_class():
    inspect.check_labels(scanned(0, 4), num_classes=5)


# What is said about the records of a run


def noticed(check, *args) -> list:
    notices = Notices()
    check(*args, notices)
    return list(map(str, notices))


@pytest.mark.parametrize(
    ("labels", "num_classes", "names", "says"),
    [
        ((0, 0, 0), 1, None, "warning: a.rec: one class"),
        ((0, 1, 2), 3, None, None),
        ((1, 2, 3, 1), 4, None, "warning: a.rec: no image of class 0: .* labels that begin at 1"),
        ((0, 2, 2), 3, ["a", "b", "c"], r"warning: a.rec: no image of class 1 \(b\): "),
        ((0, 6), 7, None, "no image of class 1, 2, 3 and 2 others"),
        ((0, 1), 5, None, "a.rec: labels up to 1 only, of 5 classes"),
    ],
)
def test_classes_without_images_are_said(labels, num_classes, names, says):
    found = noticed(inspect.check_classes, scanned(*labels), num_classes, names)
    assert len(found) == (says is not None)
    assert not found or re.match(says if says[0] in "wa" else f".*{says}", found[0])


@pytest.mark.parametrize(
    ("train", "val", "says"),
    [
        ((480, 480, 480), (256, 256, 256), None),
        ((129, 129, 129), (129, 129, 129), "whose short side is 129"),
        (
            (900, 1300, 1800),
            (950, 1200, 1700),
            r"the centre 64x64 .*950 to 1700 \(not resized\).* --resize 137 --val-resize 73$",
        ),
        ((900, 1300, 1800), None, "sides are 900 to 1800"),
        ((31, 31, 31), (31, 31, 31), "short side is 31 are enlarged .* 3,31,31 computes 4 times"),
    ],
)
def test_sizes_that_do_not_fit_are_said(train, val, says):
    shape = (3, 224, 224) if train[0] == 480 else (3, 64, 64)
    sides = [each and inspect.Sides(*each) for each in (train, val)]
    images = inspect.Images("a.rec", None, 1, 1, 1, None, *sides)
    found = noticed(inspect.check_crop, shape, images)
    assert len(found) == (says is not None)
    assert not found or re.search(says, found[0])
