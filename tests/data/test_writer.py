"""data.packing.writer: record files that are whole, though writing them was interrupted."""

import os
from pathlib import Path

import pytest

from data import DataError
from data.packing import writer
from tests.data.files import BLUE, GREEN, RED, files_in, jpeg, read_all


def pack_items(*contents):
    return [
        (i, f"{i}.JPEG", (lambda content=content: content)) for i, content in enumerate(contents)
    ]


@pytest.mark.parametrize("num_thread", [1, 2])
def test_unreadable_image_is_named_and_left_out(tmp_path, capsys, num_thread):
    rec = tmp_path / "images.rec"
    items = pack_items(jpeg(BLUE, 0), b"no image", jpeg(RED, 0))
    writer.pack_files(rec, items, resize=32, quality=90, num_thread=num_thread)
    assert [(number, label) for number, label, _ in read_all(rec)] == [(0, 0), (2, 2)]
    printed = capsys.readouterr().out
    assert "1.JPEG: not an image" in printed
    assert "2 images, 1 left out" in printed


def test_interrupted_between_its_two_files_and_repeated(tmp_path, monkeypatch):
    """The index has its name, the records not yet: nothing is lost, nothing is zeroed."""
    items = pack_items(jpeg(BLUE, 0), jpeg(GREEN, 1))
    whole, rec = tmp_path / "whole" / "images.rec", tmp_path / "broken" / "images.rec"
    writer.pack_files(whole, items, 32, 90, 2)
    replace = os.replace

    def interrupted(source, target):
        if Path(target) == rec:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", interrupted)
        writer.pack_files(rec, items, 32, 90, 2)
    assert not rec.exists()
    writer.pack_files(rec, items, 32, 90, 2)
    assert files_in(rec.parent) == files_in(whole.parent)


@pytest.fixture
def half_packed(tmp_path):
    """An interrupted `pack_files`: its items, and its .rec file's path."""
    rec = tmp_path / "images.rec"
    items = pack_items(jpeg(BLUE, 0), jpeg(GREEN, 1))

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.pack_files(rec, [items[0], (1, "1.JPEG", stop)], 32, 90, 2, chunk=1)
    return items, rec


def test_progress_of_another_list_is_refused(half_packed):
    items, rec = half_packed
    with pytest.raises(DataError, match=r"images\.rec\.progress"):
        writer.pack_files(rec, items, 48, 90, 2, chunk=1)
    with pytest.raises(DataError, match=r"images\.rec\.progress"):
        writer.pack_files(rec, list(reversed(items)), 32, 90, 2, chunk=1)


def test_progress_without_its_records_is_refused(half_packed):
    """Somebody has deleted the part: going on behind it would leave a hole of zeros."""
    items, rec = half_packed
    (rec.parent / "images.rec.part").unlink()
    with pytest.raises(DataError, match=r"images\.rec\.progress"):
        writer.pack_files(rec, items, 32, 90, 2, chunk=1)
