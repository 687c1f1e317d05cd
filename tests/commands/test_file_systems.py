"""File systems without locks or symbolic links, and folders that can't be written to."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from model.checkpoint import Checkpoints
from tests.commands.conftest import TRAIN, call


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_symbolic_links_the_best_parameters_are_a_copy(place, capsys, monkeypatch, number):
    def without(self, target, *_):
        raise OSError(number, "no links here")

    monkeypatch.setattr(Path, "symlink_to", without)
    train = f"train_xception {TRAIN} --pretrained=thin,0 --overwrite --num-epochs"
    code, out, error = call(place, f"{train} 2", capture=capsys)
    assert code == 0, error
    best = place / "m-best.params"
    epoch = (
        Checkpoints(place / "m").load(Checkpoints(place / "m").places()[-1]).run["best"]["epoch"]
    )
    assert not best.is_symlink()
    assert best.read_bytes() == (place / f"m-{epoch:04d}.params").read_bytes()
    assert out.count("no symbolic links here") == 1


def test_without_locks_training_and_packing_warn_and_work(place, capsys, monkeypatch):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    code, out, error = call(
        place, f"train_xception {TRAIN} --retrain --num-epochs 2", capture=capsys
    )
    assert code == 0, error
    assert out.count("m-lock: this file system has no locks") == 1
    code, out, error = call(place, "data.pack images new --resize 36", capture=capsys)
    assert code == 0, error
    assert out.count("no locks") == 1


def test_bad_records_are_left_out_if_nobody_can_write_beside_them(place, capsys, monkeypatch):
    train = place / "rec" / "train.rec"
    content = bytearray(train.read_bytes())
    content[400:440] = bytes(40)  # within the first image
    train.write_bytes(content)
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, *mode: path != Path("rec") and access(path, *mode)
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    before = sorted(os.listdir(place / "rec"))
    command = f"train_xception {TRAIN} --overwrite --num-epochs 1 --skip-bad-records"
    for _ in range(2):
        code, out, error = call(place, command, capture=capsys)
        assert code == 0, error
        assert "1 bad records left out" in out and f"{place}/cache/xception/" in out
        assert sorted(os.listdir(place / "rec")) == before
    assert len(list((place / "cache" / "xception").iterdir())) == 2  # of both files
