"""requirements.txt and `python -m model.devices`, on a machine without a GPU or driver."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What requirements.txt installs: ./run.sh test makes it.
VENV = ROOT / ".venv-cuda"

# The functions of the driver that libmxnet.so is linked to, and those that model/devices.py
# calls; every one fails with CUDA_ERROR_NO_DEVICE.
DRIVER = """
#define FUNCTIONS(f) \\
  f(cuDeviceGet) f(cuDevicePrimaryCtxRetain) f(cuGetErrorString) f(cuGraphKernelNodeGetParams) \\
  f(cuGraphNodeGetType) f(cuLaunchKernel) f(cuModuleGetFunction) f(cuModuleLoadData) \\
  f(cuModuleLoadDataEx) f(cuModuleUnload) f(cuInit) f(cuDeviceGetCount) f(cuDeviceGetAttribute)
#define NO_DEVICE(name) int name(void) { return 100; }
FUNCTIONS(NO_DEVICE)
"""

# Run by the environment's Python.
USE = """
import ctypes, mxnet as mx, numpy as np
from mxnet.test_utils import assert_almost_equal

assert mx.__version__ == "1.9.1"
for feature in ("CUDA", "CUDNN", "NCCL", "OPENCV", "DIST_KVSTORE"):
    assert mx.runtime.Features().is_enabled(feature), feature
assert mx.context.num_gpus() == 0

# What cuDNN and NVRTC load only when they are used is found too.
cudnn, nvrtc = ctypes.CDLL("libcudnn.so.8"), ctypes.CDLL("libnvrtc.so.11.2")
for part in ("OpsInfer", "OpsTrain", "CnnInfer", "CnnTrain"):
    assert getattr(cudnn, f"cudnn{part}VersionCheck")() == 0  # or aborts
program, source = ctypes.c_void_p(), b"__global__ void f(float *x) { x[0] = 1; }"
assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"f.cu", 0, None, None) == 0
options = (ctypes.c_char_p * 1)(b"--gpu-architecture=compute_80")
assert nvrtc.nvrtcCompileProgram(program, 1, options) == 0

image, kernel = np.random.rand(2, 3, 8, 8), np.random.rand(4, 3, 3, 3)
out = mx.nd.Convolution(
    mx.nd.array(image), mx.nd.array(kernel), kernel=(3, 3), num_filter=4, no_bias=True
)
expected = sum(
    np.einsum("nchw,kc->nkhw", image[:, :, i : i + 6, j : j + 6], kernel[:, :, i, j])
    for i in range(3) for j in range(3)
)
assert_almost_equal(out.asnumpy(), expected, rtol=1e-5)

import symbol_xception
net = symbol_xception.get_xception_symbol(10, filter_list=(8, 8, 8, 12, 12, 16, 16))
with mx.gpu(0):
    assert mx.current_context() == mx.gpu(0)
    assert net.infer_shape(data=(4, 3, 64, 64))[1] == [(4, 10)]
    half = symbol_xception.get_xception_symbol(10, dtype="float16")
    assert half.infer_type(data="float32")[1] == [np.float32]

module = mx.mod.Module(net, context=mx.cpu())
module.bind([("data", (4, 3, 64, 64))], [("softmax_label", (4,))])
module.init_params(mx.init.Xavier())
module.init_optimizer(optimizer="nag")
before = module.get_params()[0]["fc1_weight"].asnumpy()
module.forward_backward(
    mx.io.DataBatch([mx.nd.random.uniform(0, 255, (4, 3, 64, 64))], [mx.nd.array(range(4))])
)
module.update()
after = module.get_params()[0]["fc1_weight"].asnumpy()
assert np.isfinite(after).all() and (after != before).any()
print("used")
"""


@pytest.fixture
def venv():
    """The environment as pip has left it: without the links of `python -m model.devices`."""
    stamp = VENV / "installed-cuda"
    if not stamp.exists():
        pytest.skip("no .venv-cuda: ./run.sh test installs it")
    with open(ROOT / "requirements.txt") as requirements:
        wanted = subprocess.run(["cksum"], stdin=requirements, capture_output=True, text=True)
    assert stamp.read_text() == wanted.stdout, "requirements.txt has changed: ./run.sh test"
    (mxnet,) = VENV.glob("lib/python3*/site-packages/mxnet")
    for path in mxnet.iterdir():
        if path.is_symlink():  # a wheel has none
            path.unlink()
    return VENV


@pytest.mark.slow
def test_cuda_build_is_usable_from_any_script(venv, tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler to make a stand-in for the driver with")
    driver, elsewhere = tmp_path / "driver", tmp_path / "elsewhere"
    driver.mkdir()
    elsewhere.mkdir()
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", driver / "libcuda.so.1"],
        input=DRIVER.encode(),
        check=True,
    )
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    env["LD_LIBRARY_PATH"] = str(driver)

    def python(*args, cwd=elsewhere, **more):
        command = [venv / "bin/python", *args]
        return subprocess.run(
            command,
            cwd=cwd,
            env=dict(env, **more),
            text=True,
            capture_output=True,
        )

    without = python("-c", "import mxnet")
    assert without.returncode == 1
    assert ".so" in without.stderr.splitlines()[-1]

    refused = python(ROOT / "train_xception.py")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "run python -m model.devices" in refused.stderr

    for _ in range(2):  # the second finds every link there
        linked = python("-m", "model.devices", cwd=ROOT)
        assert linked.returncode == 0, linked.stderr
        assert linked.stdout.endswith("libraries linked next to libmxnet.so\n")

    used = python("-c", USE, PYTHONPATH=str(ROOT))
    assert used.returncode == 0, used.stderr
    assert used.stdout == "used\n"

    devices = python("-c", "from model import devices; print(devices.gpus())", cwd=ROOT)
    assert devices.stdout == "[]\n", devices.stderr
