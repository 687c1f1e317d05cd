"""What data.pack takes for classes, for training images and for validation images."""

import fcntl
import itertools
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from data import DataError, pack
from data.formats import classes
from data.formats.lists import read_list
from data.packing import job
from data.packing.copies import first_of_copies
from data.packing.sources import ImageFile, Item, find_images
from tests.data.files import read_all
from tests.data.test_pack import JPEG, write_folder

_number = itertools.count()


def pictures(*folders, count=4) -> dict:
    """Files, each another one, for folders with these paths."""
    return {
        f"{folder}/{i}.jpg": JPEG + b"%d" % next(_number)
        for folder in folders
        for i in range(count)
    }


def packed(tmp_path, capsys, *arguments):
    """Return (exit code, what was printed, {part: {names of files: names of classes}})."""
    out = tmp_path / "out"
    sizes = ["--resize=16", "--val-resize=16", "--num-thread=1"]
    code = pack.main([*map(str, arguments), str(out), *sizes])
    said = capsys.readouterr()
    parts = {}
    for part in ("train", "val"):
        if (out / f"{part}.rec").exists():
            names = classes.class_names(out / "train.rec")
            rows = [line.split("\t") for line in (out / f"{part}.lst").read_text().splitlines()]
            labels = {number: int(label) for number, label, _ in read_all(out / f"{part}.rec")}
            parts[part] = {rows[i][2]: names[label] for i, label in labels.items()}
    return code, said.out + said.err, parts


# Folders


def test_the_folder_that_a_zip_file_unpacks_into_is_not_a_class(tmp_path, capsys):
    files = pictures("animals/cat", "animals/dog")
    files.update({"__MACOSX/animals/cat/._0.jpg": b"", "animals/.ipynb_checkpoints/0.jpg": JPEG,
                  "animals/desktop.ini": b"", "read me.txt": b""})  # fmt: skip
    write_folder(tmp_path / "in", files)
    code, said, parts = packed(tmp_path, capsys, tmp_path / "in")
    assert code == 0 and "only folder, animals, is not one class" in said
    assert set(parts["train"].values()) == set(parts["val"].values()) == {"cat", "dog"}
    assert sum(map(len, parts.values())) == 8


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "Valid"), ("train", "val", "x")])
def test_folders_named_train_and_val_are_what_they_say(tmp_path, capsys, names):
    training, validation, *others = names
    files = pictures(f"zip/{training}/a", f"zip/{training}/b", f"zip/{training}/c")
    files.update(pictures(f"zip/{validation}/c", f"zip/{validation}/a", "zip/test/a", count=2))
    files.update(pictures(*(f"zip/{name}/y" for name in others)))
    write_folder(tmp_path / "in", files)
    code, said, parts = packed(tmp_path, capsys, tmp_path / "in")
    assert code == 0
    assert f"training images in {training}, validation images in {validation}" in said
    assert "not packed: test" in said
    assert parts["train"] == {f"{c}/{i}.jpg": c for c in "abc" for i in range(4)}
    assert parts["val"] == {f"{c}/{i}.jpg": c for c in "ac" for i in range(2)}


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (("train/a", "test/a"), "and --val FOLDER"),
        (("val/a", "test/a"), "and --val FOLDER"),
        (("train/a", "val/a", "valid/a"), "and --val FOLDER"),
        (("train", "val"), "train/CLASS/IMAGE"),
    ],
)
def test_parts_of_a_data_set_are_not_classes(tmp_path, capsys, folders, says):
    write_folder(tmp_path / "in", pictures(*folders))
    code, said, parts = packed(tmp_path, capsys, tmp_path / "in")
    assert code == 2 and says in said and said.count("\n") == 1 and not parts


def test_classes_may_have_names_of_parts(tmp_path, capsys):
    """Means of transport; and folders within classes."""
    write_folder(tmp_path / "in", pictures("train", "bus", "test/2019", "test/2020"))
    _, _, parts = packed(tmp_path, capsys, tmp_path / "in", "--val-fraction=0")
    assert set(parts["train"].values()) == {"train", "bus", "test"}


def test_one_class_is_said(tmp_path, capsys):
    write_folder(tmp_path / "in", pictures("cat"))
    code, said, _ = packed(tmp_path, capsys, tmp_path / "in")
    assert code == 0 and "warning: one class, cat" in said


def test_a_class_of_which_no_image_can_be_read_is_said(tmp_path, capsys):
    files = pictures("a", "c")
    files.update({"b/1.HEIC": b"\0\0\0\x18ftypheic", "b/2.jpg": b"nothing"})
    write_folder(tmp_path / "in", files)
    code, said, _ = packed(tmp_path, capsys, tmp_path / "in", "--val-fraction=0")
    assert code == 0 and "warning: class 1, b: none of its 2 images can be read" in said


def test_folders_in_folders_in_folders(tmp_path, capsys):
    """Deeper than Python's recursion, and than a path may be long."""
    write_folder(tmp_path / "in", pictures("a", "b"))
    (tmp_path / "in" / "a" / "self.jpg").symlink_to("self.jpg")
    before = os.getcwd()
    try:
        os.chdir(tmp_path / "in" / "a")
        for _ in range(1200):
            os.mkdir("deeper")
            os.chdir("deeper")
        Path("x").mkdir()
    finally:
        os.chdir(before)
    for i in range(3):
        below = tmp_path / "in" / "a" / "deeper" / "/".join(["deeper"] * 3 * i)
        (below / f"{i}.jpg").write_bytes(JPEG + b"deep %d" % i)
    code, said, parts = packed(tmp_path, capsys, tmp_path / "in", "--val-fraction=0")
    # Python's own way to delete folders, as pytest's, recurses.
    subprocess.run(["rm", "-rf", tmp_path / "in"], check=True)
    assert code == 0 and "a/self.jpg: a broken link" in said
    assert sum(name.startswith("a/deeper/") for name in parts["train"]) == 3


# Lists


def listed(tmp_path, *rows) -> Path:
    lst = tmp_path / "my.lst"
    lst.write_text("".join(f"{row}\n" for row in rows))
    return lst


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["0\t100000000\ta/0.jpg"], "line 1: its label is 100000000: classes are numbered"),
        (["0\t1\ta/0.jpg", "1\t1e30\ta/1.jpg"], "line 2: its label is 1e30"),
        (["0\tinf\ta/0.jpg"], "line 1: its label is 'inf', not a whole"),
        (["0\tnan\ta/0.jpg"], "line 1: its label is 'nan', not a whole"),
        (["0\t-1\ta/0.jpg"], "line 1: its label is '-1', not a whole"),
        (["0\tcat\ta/0.jpg"], "line 1: its label is 'cat', not a whole"),
        (["0\t1\t2\ta/0.jpg"], "line 1: 2 labels"),
        (["0\ta/0.jpg\t1"], "line 1: label and path are swapped"),
        (["0 1 a/0.jpg"], "line 1: not a number, a label and a path with tabs"),
        (["0\t1\ta/0\0.jpg"], "line 1: 'a/0\\\\x00.jpg' is not a path"),
        (["0\t3\ta/0.jpg", "0\t5\ta/1.jpg", "1\t4\tb/0.jpg"], "number and label are swapped"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, rows, says):
    with pytest.raises(DataError, match=says):
        read_list(listed(tmp_path, *rows))


@pytest.mark.parametrize("path", ["/a/0.jpg", "a\\0.jpg", "a/0.jpg  ", " a/0.jpg", "\\a\\0.jpg"])
def test_paths_as_other_programs_write_them(tmp_path, path):
    write_folder(tmp_path, {"a/0.jpg": b"right", "b/ 1 .jpg": b"spaces", "b/x\\y": b"backslash"})
    rows = [f"0\t0\t{path}", "1\t1\tb/ 1 .jpg", "2\t1\tb/x\\y", f"3\t1\t{tmp_path}/a/0.jpg"]
    found = find_images(listed(tmp_path, *rows), None)
    assert [item.read() for item in found.items] == [b"right", b"spaces", b"backslash", b"right"]


def test_labels_that_begin_at_1_are_said(tmp_path, capsys):
    write_folder(tmp_path, pictures("a", "b"))
    rows = [f"{i}\t{1 + i // 4}\t{'ab'[i // 4]}/{i % 4}.jpg" for i in range(8)]
    code, said, _ = packed(tmp_path, capsys, listed(tmp_path, *rows))
    assert code == 0 and "warning: labels begin at 1, not at 0" in said


def test_a_list_that_numbers_classes_otherwise_is_refused(tmp_path, capsys):
    """Folders 0 to 11 sort as 0 1 10 11 2 ..., lists count them."""
    names = [str(i) for i in range(12)]
    write_folder(tmp_path / "in", pictures(*names, count=2))
    write_folder(tmp_path / "val", pictures(*names, count=2))
    in_order = sorted(names)
    for numbering, expected in ((names, 2), (in_order, 0)):
        rows = [f"{i}\t{numbering.index(name)}\t{name}/0.jpg" for i, name in enumerate(names)]
        (tmp_path / "val" / "val.lst").write_text("\n".join(rows))
        arguments = [tmp_path / "in", "--val", tmp_path / "val" / "val.lst"]
        code, said, parts = packed(tmp_path, capsys, *arguments)
        assert code == expected
        if code:
            assert "2/0.jpg has the label 2, which is '10'" in said and "10 of 12 images" in said
        else:
            assert all(name == path.split("/")[0] for path, name in parts["val"].items())


# Copies


def test_copies_are_found(tmp_path):
    same, other, tail = b"x" * 10000, b"x" * 5000 + b"y" + b"x" * 4999, b"x" * 9999 + b"z"
    write_folder(tmp_path, {"0": same, "1": other, "2": tail, "3": same, "4": b"", "5": b""})
    (tmp_path / "6").symlink_to("1")
    os.link(tmp_path / "2", tmp_path / "7")
    names = ["0", "1", "2", "3", "4", "5", "6", "7", "nowhere", "0"]
    items = [Item(0, name, ImageFile(tmp_path / name)) for name in names]
    assert first_of_copies(items) == [0, 1, 2, 0, 4, 5, 1, 2, 8, 0]


@pytest.mark.parametrize("seed", range(5))
def test_copies_are_on_one_side(seed):
    """Also those in two classes. Without copies the split is that of before."""
    items = [(label, f"{label}/{i}") for label in range(3) for i in range(20)]
    # 0 and 1, 2 and 3 ...; 20 is a copy of 0, 40 of 1.
    copies = [i - i % 2 for i in range(60)]
    copies[20] = copies[21] = copies[40] = copies[41] = 0
    training, validation = job.split(items, 0.2, seed, copies)
    assert sorted(training + validation) == sorted(items)
    first = {item: copies[i] for i, item in enumerate(items)}
    assert not {first[item] for item in training} & {first[item] for item in validation}
    for label in range(3):
        assert 2 <= sum(item[0] == label for item in validation) <= 6
    assert job.split(items, 0.2, seed, list(range(60))) == job.split(items, 0.2, seed)


@pytest.mark.parametrize(("count", "chosen"), [(1, 0), (2, 1), (5, 1)])
def test_a_class_of_copies_keeps_something_to_train_on(count, chosen):
    """`count` images with three copies each."""
    items = [(0, f"{i}") for i in range(3 * count)]
    training, validation = job.split(items, 0.1, 0, [i // 3 for i in range(3 * count)])
    assert len(validation) == 3 * chosen and len(training) == 3 * (count - chosen)


def test_rows_of_one_file_are_said(tmp_path, capsys):
    write_folder(tmp_path, pictures("a", "b", count=10))
    rows = [f"{i}\t{i % 2}\t{'ab'[i % 2]}/{i // 2 % 10}.jpg" for i in range(40)]
    rows.append("40\t1\ta/3.jpg")
    code, said, parts = packed(tmp_path, capsys, listed(tmp_path, *rows))
    assert code == 0 and "warning: 1 images are in two classes, the first a/3.jpg = a/3.jpg" in said
    assert "21 images are copies of others" in said
    assert len(parts["val"]) > 1 and not set(parts["train"]) & set(parts["val"])


def test_validation_images_that_are_training_images_are_said(tmp_path, capsys):
    files = pictures("a", "b")
    write_folder(tmp_path / "in", files)
    write_folder(tmp_path / "val", {"a/other.jpg": files["a/2.jpg"], **pictures("b")})
    code, said, _ = packed(tmp_path, capsys, tmp_path / "in", "--val", tmp_path / "val")
    assert code == 0
    assert (
        "warning: 1 validation images are training images too, the first a/other.jpg = a/2.jpg"
        in (said)
    )


def test_smaller_classes_are_repeated(tmp_path, capsys):
    """In training, after the split: no image is in both parts."""
    write_folder(tmp_path / "in", {**pictures("a", count=20), **pictures("b", "c", count=5)})
    code, said, parts = packed(tmp_path, capsys, tmp_path / "in", "--balance")
    assert code == 0 and "each class has 18 training images, 54 instead of 26" in said
    rows = [row.split("\t") for row in (tmp_path / "out" / "train.lst").read_text().splitlines()]
    count = Counter(name for _, _, name in rows)
    assert Counter(label for _, label, _ in rows) == {"0": 18, "1": 18, "2": 18}
    assert {count[name] for name in parts["train"] if name[0] in "bc"} == {4, 5}
    assert Counter(name[0] for name in parts["val"]) == {"a": 2, "b": 1, "c": 1}
    assert not set(parts["train"]) & set(parts["val"])
    assert len({label for _, label, _ in rows[:10]}) > 1  # shuffled


# Two at once


def test_a_second_packer_is_kept_out(tmp_path, capsys):
    write_folder(tmp_path / "in", pictures("a", "b"))
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / "pack.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, said, parts = packed(tmp_path, capsys, tmp_path / "in")
        assert code == 2 and "another process is packing into it" in said and not parts
    assert packed(tmp_path, capsys, tmp_path / "in")[0] == 0


# Sizes


def test_small_images_are_stored_as_they_are(tmp_path, capsys):
    """40 pixels: to store 480 takes 144 times as many. Explicit sizes are taken."""
    write_folder(tmp_path / "in", pictures("a", "b"))
    out = tmp_path / "small"
    assert pack.main([str(tmp_path / "in"), str(out)]) == 0
    said = capsys.readouterr().out
    assert "stored with 40; --resize 480 enlarges them" in said
    for part in ("train", "val"):
        assert {image.shape for _, _, image in read_all(out / f"{part}.rec")} == {(40, 60, 3)}
    assert pack.main([str(tmp_path / "in"), str(tmp_path / "large"), "--resize=96"]) == 0
    shapes = {image.shape for _, _, image in read_all(tmp_path / "large" / "train.rec")}
    assert (
        shapes == {(96, 144, 3)}
        and "warning: train: the median short side of a sample is 40 " in capsys.readouterr().out
    )
