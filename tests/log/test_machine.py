"""log.machine: the cores that a process may use, in a container too."""

import os

import pytest

from data import pack, verify
from log.machine import usable_cores
from model import devices


@pytest.mark.parametrize(
    "files, cores",
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "250000\n"}, 8),
    ],
)
def test_usable_cores(files, cores, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores


def test_usable_cores_of_this_machine():
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


def test_a_limit_of_the_container_holds_for_threads_of_all_commands(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    (tmp_path / "cpu.max").write_text("300000 100000\n")
    monkeypatch.setattr(usable_cores, "__defaults__", (tmp_path,))
    assert pack.parse_arguments(["images", "out"]).num_thread == 3
    assert verify.parse_arguments([str(tmp_path / "cpu.max")]).num_thread == 3
    monkeypatch.setattr(os, "environ", {})
    devices.prepare_environment()
    assert os.environ["OMP_NUM_THREADS"] == "3"
