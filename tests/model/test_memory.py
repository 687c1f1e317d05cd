"""model/training/memory.py: what a run will need, and what there is."""

import subprocess
import sys

import mxnet as mx
import pytest

from model import ModelError
from model.devices import has_bfloat16
from model.training.memory import Need, check, host_memory, needed
from symbol_xception import get_xception_symbol
from tests.runs import ROOT

GB = 1 << 30


@pytest.fixture
def machine(tmp_path):
    """A machine with 16 GB, 8 of them free, and a control group; (its /proc, its cgroups)."""
    proc, group = tmp_path / "proc", tmp_path / "cgroup" / "outer" / "inner"
    (proc / "self").mkdir(parents=True)
    group.mkdir(parents=True)
    mb = 1 << 10
    (proc / "meminfo").write_text(
        f"MemTotal: {16384 * mb} kB\nMemAvailable: {8192 * mb} kB\n"
        "SwapTotal: 0 kB\nSwapFree: 0 kB\n"
    )
    (proc / "self" / "cgroup").write_text("5:devices:/\n0::/outer/inner\n")
    (group / "memory.max").write_text("max\n")
    return proc, tmp_path / "cgroup"


def test_the_memory_that_there_is(machine):
    proc, cgroup = machine
    assert host_memory(proc, cgroup) == (16 * GB, 8 * GB)
    # A group around it has a limit.
    (cgroup / "outer" / "memory.max").write_text(f"{4 * GB}\n")
    (cgroup / "outer" / "memory.current").write_text(f"{3 * GB}\n")
    (cgroup / "outer" / "memory.stat").write_text(f"anon 5\ninactive_file {2 * GB}\n")
    assert host_memory(proc, cgroup) == (4 * GB, 3 * GB)
    # In a container of cgroups v1, whose path is the host's.
    (proc / "self" / "cgroup").write_text("4:memory:/docker/abc\n")
    (cgroup / "memory").mkdir()
    (cgroup / "memory" / "memory.limit_in_bytes").write_text(f"{2 * GB}\n")
    (cgroup / "memory" / "memory.usage_in_bytes").write_text(f"{GB}\n")
    assert host_memory(proc, cgroup) == (2 * GB, GB)


def test_what_cannot_fit_is_refused_and_what_may_not_is_warned_of():
    need = Need(certain=4 * GB, peak=5 * GB)
    assert check(need, 16 * GB, 6 * GB) is None
    assert "it needs about 5120 MB, and 4096 MB are free" in check(need, 16 * GB, 4 * GB)
    with pytest.raises(ModelError, match=r"more than 4096 MB of memory.* --memonger"):
        check(need, 3 * GB, 3 * GB)
    with pytest.raises(ModelError, match="of each GPU, and 1024 MB are free"):
        check(Need(0, GB, on_device=2 * GB), 16 * GB, 8 * GB, GB)


def test_memory_grows_with_the_batch_and_memonger_needs_less():
    symbol, cpu = get_xception_symbol(10), [mx.cpu()]
    small, large = (needed(symbol, cpu, (n, 3, 96, 96), "float32") for n in (8, 32))
    # Per image: the activations of 224x224 are 92 MB, of which 70 % are certain.
    grown = (large.certain - small.certain) / 24
    assert grown == pytest.approx(0.7 * 92e6 * (96 / 224) ** 2, rel=0.1)
    less = needed(symbol, cpu, (32, 3, 96, 96), "float32", memonger=True)
    assert 0.4 < less.certain / large.certain < 0.7 and less.peak < large.peak


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_training_takes_is_what_was_said(dtype):
    """From 8 images to 72, the peak of a process grows by at least what is certain."""
    if dtype == "bfloat16" and not has_bfloat16():
        pytest.skip("this CPU has no bfloat16")
    cpu, shapes = [mx.cpu()], [(images, 3, 96, 96) for images in (8, 72)]
    symbol = get_xception_symbol(10)
    small, large = (needed(symbol, cpu, shape, dtype) for shape in shapes)
    certain, most = large.certain - small.certain, large.peak - small.peak
    took = peak_of_training(shapes[1], dtype) - peak_of_training(shapes[0], dtype)
    assert certain < took < 1.2 * most


def peak_of_training(shape, dtype) -> int:
    """Return the bytes that a process that trains two steps takes at most."""
    code = (
        "import mxnet as mx\n"
        "from model.training.benchmark import peak_megabytes, seconds_per_step\n"
        "from symbol_xception import get_xception_symbol\n"
        f"seconds_per_step(get_xception_symbol(10), [mx.cpu()], {shape}, {dtype!r})\n"
        "print(peak_megabytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) << 20
