"""model/devices.py, alone and through the script."""

import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import pytest

from log.notices import Notices
from model import ModelError, devices
from model.plan import Plan
from model.training import hardware
from model.training.hardware import choose_contexts

ROOT = Path(__file__).parents[2]

# A driver that shows one GPU for each number in FAKE_GPUS, its compute capability times ten.
DRIVER = r"""
#include <stdlib.h>
#include <string.h>
static int ready = 0;
static const char *gpus(void) { const char *s = getenv("FAKE_GPUS"); return s ? s : ""; }
int cuInit(unsigned flags) { ready = !flags && *gpus(); return ready ? 0 : 100; }
int cuDeviceGetCount(int *count) {
  *count = (strlen(gpus()) + 1) / 3;
  return ready ? 0 : 3;
}
int cuDeviceGet(int *device, int ordinal) { *device = ordinal + 40; return ready ? 0 : 3; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  int capability = atoi(gpus() + 3 * (device - 40));
  *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : -1;
  return ready ? 0 : 3;
}
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """The environment in which GPUs, as in "80 90", are found."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler to make a stand-in for the driver with")
    folder = tmp_path_factory.mktemp("driver")
    library = str(folder / "libcuda.so.1")
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", library]
    subprocess.run(command, input=DRIVER.encode(), check=True)
    return lambda gpus: {"LD_LIBRARY_PATH": str(folder), "FAKE_GPUS": gpus}


# CPU threads


def test_environment_is_set_where_the_user_has_not(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(devices, "usable_cores", lambda: 7)
    monkeypatch.setattr(devices, "cuda_of_driver", lambda: 0)
    devices.prepare_environment()
    assert os.environ == {
        "OMP_NUM_THREADS": "7",
        "OMP_WAIT_POLICY": "active",
        "MXNET_SUBGRAPH_VERBOSE": "0",
        "MXNET_CUDNN_AUTOTUNE_DEFAULT": "2",
        "MXNET_GPU_PARALLEL_RAND_COPY": "1",
    }
    monkeypatch.setattr(os, "environ", {})
    devices.prepare_environment(only_reads=True)
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    for contexts, threads in ((3, "2"), (8, "1")):
        monkeypatch.setattr(os, "environ", {})
        devices.prepare_environment(contexts)
        assert os.environ["OMP_NUM_THREADS"] == threads
    theirs = {
        "OMP_NUM_THREADS": "3",
        "OMP_WAIT_POLICY": "passive",
        "MXNET_SUBGRAPH_VERBOSE": "1",
        "MXNET_CUDNN_AUTOTUNE_DEFAULT": "0",
        "MXNET_GPU_PARALLEL_RAND_COPY": "4",
    }
    monkeypatch.setattr(os, "environ", dict(theirs))
    devices.prepare_environment()
    assert os.environ == theirs


@pytest.mark.parametrize("cuda, environment", [(12020, {}), (0, {"DMLC_ROLE": "worker"})])
def test_threads_do_not_spin_beside_gpus_or_other_workers(cuda, environment, monkeypatch):
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(devices, "cuda_of_driver", lambda: cuda)
    devices.prepare_environment()
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.parametrize("version, fusion", [(0, None), (11040, "0"), (11080, None), (12020, None)])
def test_fusion_is_off_where_the_driver_is_older_than_nvrtc(version, fusion, monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(devices, "cuda_of_driver", lambda: version)
    devices.prepare_environment()
    assert os.environ.get("MXNET_USE_FUSION") == fusion
    monkeypatch.setattr(os, "environ", {"MXNET_USE_FUSION": "1"})
    devices.prepare_environment()
    assert os.environ["MXNET_USE_FUSION"] == "1"


def test_nvrtc_is_the_release_that_drivers_are_compared_with():
    (release,) = re.findall(
        r"nvidia-cuda-nvrtc-cu11==(\d+\.\d+)", (ROOT / "requirements.txt").read_text()
    )
    major, minor = map(int, release.split("."))
    assert 1000 * major + 10 * minor == devices._CUDA_OF_NVRTC


# GPUs


@pytest.mark.parametrize(
    "gpus, found",
    [
        ("80 90", [(8, 0), (9, 0)]),
        ("35", [(3, 5)]),
        ("", []),  # a driver without a GPU
    ],
)
def test_gpus_that_the_driver_shows(gpus, found, driver):
    seen = subprocess.run(
        [sys.executable, "-c", "from model import devices; print(devices.gpus())"],
        cwd=ROOT,
        env={**os.environ, **driver(gpus)},
        capture_output=True,
        text=True,
    )
    assert (seen.stdout, seen.stderr) == (f"{found}\n", "")


def test_no_driver_no_gpus(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(devices.ctypes, "CDLL", missing)
    assert devices.gpus() == []


@pytest.mark.parametrize(
    "wanted, found", [((), []), ((0, 1), [(5, 0), (8, 9)]), ((1,), [(9, 0), (8, 6)])]
)
def test_gpus_that_mxnet_runs_on(wanted, found, monkeypatch):
    monkeypatch.setattr(devices, "has_cuda", lambda: True)
    devices.check_gpus(wanted, found)


@pytest.mark.parametrize(
    "wanted, found, message",
    [
        ((0,), [], r"GPU 0 does not exist.*none \(is the driver loaded\?\)"),
        ((0, 2), [(8, 0), (8, 0)], r"GPU 2 does not exist.*: 2, numbered from 0"),
        ((0,), [(9, 0)], r"GPU 0 has compute capability 9\.0;.* --gpus= for the CPU"),
        ((0, 1), [(8, 0), (12, 0)], r"GPU 1 has compute capability 12\.0;"),
        ((0,), [(3, 5)], r"GPU 0 has compute capability 3\.5;"),
    ],
)
def test_gpus_that_mxnet_does_not_run_on(wanted, found, message):
    with pytest.raises(ModelError, match=message) as error:
        devices.check_gpus(wanted, found)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("threads", "contexts", "cores", "warned"),
    [
        ("2", 1, 2, None),
        ("1", 4, 2, None),  # teams of a single thread wait for nobody
        ("4", 1, 2, "OMP_NUM_THREADS=4, but 2 usable cores: "),
        ("2", 2, 3, "OMP_NUM_THREADS=2 for each of 2 devices, but 3 usable cores: "),
    ],
)
def test_more_threads_than_cores_are_a_warning(threads, contexts, cores, warned, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr(hardware, "usable_cores", lambda: cores)
    notices = Notices()
    choose_contexts(Plan.of(["--gpus=", f"--cpus={contexts}"]), notices)
    assert [notice.level for notice in notices] == [logging.WARNING] * bool(warned)
    assert not warned or notices[0].text.startswith(warned)


def test_nccl_is_refused_on_cpus():
    plan = Plan.of(["--cpus=2", "--kv-store=nccl", "--batch-size=4"])
    with pytest.raises(ModelError, match=r"^--kv-store nccl: for GPUs only"):
        choose_contexts(plan, Notices())
    alone = Plan.of(["--gpus=", "--kv-store=nccl"])  # with a single device there is no kvstore
    assert choose_contexts(alone, Notices()) == (mx.cpu(0),)


# The script


@pytest.fixture
def arguments(records):
    """Arguments that train for an epoch and leave the choice of a device open."""
    if mx.runtime.Features().is_enabled("CUDA"):
        pytest.skip("an mxnet built with CUDA wants more of a driver than the stand-in has")
    open_choice = [argument for argument in records.arguments if argument != "--gpus="]
    return [*open_choice, "--num-epochs=1", "--model-prefix=x", "--log-file=x.log"]


@pytest.mark.parametrize(
    "gpus, ids, message",
    [
        (
            "",
            "0",
            r"GPU 0 does not exist; .*: none \(is the driver loaded\?\); --gpus= for the CPU",
        ),
        ("80", "1", r"GPU 1 does not exist; .*: 1, numbered from 0; --gpus= for the CPU"),
        ("80 90", "0,1", r"GPU 1 has compute capability 9\.0; .*"),
        ("89", "0", r"GPU 0: this mxnet is built without CUDA: install requirements\.txt"),
    ],
)
def test_script_refuses_gpus_in_one_line(gpus, ids, message, driver, arguments, run, tmp_path):
    ended = run(*arguments, f"--gpus={ids}", **driver(gpus))
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert re.fullmatch(f"train_xception\\.py: error: {message}\n", ended.stderr), ended.stderr
    assert not list(tmp_path.iterdir()), "it wrote something"


@pytest.mark.parametrize(
    "given", ["model.evaluate x 1 --data-val=x.rec --gpus=0", "model.predict x 1 x.png --gpu=0"]
)
def test_other_commands_refuse_gpus_alike(given, driver, arguments):
    """The one of the stand-in is fine; `arguments` is for an mxnet without CUDA."""
    ended = subprocess.run(
        [sys.executable, "-m", *given.split()],
        cwd=ROOT, env={**os.environ, **driver("80")}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 2 and ended.stdout == ""
    message = "GPU 0: this mxnet is built without CUDA: install requirements.txt"
    assert ended.stderr == f"{given.split()[0]}: error: {message}\n"


@pytest.mark.parametrize(
    "gpus, message",
    [("", "no GPU here: training on the CPU"), ("80", "built without CUDA .*: CPU")],
)
def test_script_says_that_it_trains_on_the_cpu(gpus, message, driver, arguments, run):
    ended = run(*arguments, **driver(gpus))
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines() + ended.stderr.splitlines()
    assert len([line for line in lines if re.search(message, line)]) == 1, lines
    assert any("cpu(0)" in line for line in lines), lines


# What is installed


@pytest.fixture
def another_mxnet(tmp_path, monkeypatch):
    """Where to put the mxnet that is imported next."""
    monkeypatch.delitem(sys.modules, "mxnet")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mxnet").mkdir()
    return tmp_path / "mxnet" / "__init__.py"


@pytest.mark.parametrize(
    "error, way_out",
    [
        ("OSError('libcuda.so.1: cannot open\\nmore')", "driver here; .* requirements-cpu.txt"),
        ("OSError('libcudnn.so.8: cannot open')", "python -m model.devices"),
        ("AttributeError('no attribute bool')", "numpy<1.24; install requirements-cpu.txt"),
        ("ModuleNotFoundError('No module named mxnet')", "source .venv/bin/activate first"),
    ],
)
def test_mxnet_that_cannot_be_loaded(error, way_out, another_mxnet):
    another_mxnet.write_text(f"raise {error}")
    with pytest.raises(ModelError, match=f"^mxnet can't be loaded: .*{way_out}") as raised:
        devices.import_mxnet()
    assert "\n" not in str(raised.value)


def test_a_python_without_packages_is_one_line():
    bare = [sys.executable, "-S", str(ROOT / "train_xception.py"), "--dry-run"]
    process = subprocess.run(bare, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == (
        "train_xception.py: error: mxnet can't be loaded: No module named 'mxnet': source "
        ".venv/bin/activate first; ./run.sh setup makes .venv\n"
    )


def test_cuda_libraries_are_linked_beside_mxnet(another_mxnet):
    another_mxnet.write_text("raise AssertionError('imported')")
    site, target = another_mxnet.parent.parent, another_mxnet.parent
    names = ("libcudnn.so.8", "libcudnn_ops_infer.so.8", "libcudart.so.11.0")
    for name in names:
        (site / "nvidia" / name[3:8] / "lib").mkdir(parents=True, exist_ok=True)
        (site / "nvidia" / name[3:8] / "lib" / name).write_text(name)
    (target / names[0]).write_text("the user's own")
    (target / names[1]).symlink_to("gone")
    for _ in range(2):
        assert len(devices.link_libraries()) == 3
        assert [(target / name).read_text() for name in names] == ["the user's own", *names[1:]]
    site.rename(site.with_name("moved"))
    assert (site.with_name("moved") / "mxnet" / names[2]).read_text() == names[2]


def test_requirements_differ_in_mxnet_and_cuda_only():
    def pins(name):
        lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
        return dict(line.split("==") for line in lines if line)

    gpu, cpu = pins("requirements.txt"), pins("requirements-cpu.txt")
    assert gpu.pop("mxnet-cu112") == cpu.pop("mxnet")
    assert {k: v for k, v in gpu.items() if not k.startswith("nvidia-")} == cpu
    assert "numpy" in cpu
