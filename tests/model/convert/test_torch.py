"""From PyTorch and back, against timm."""

import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import zipfile
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from model import ModelError
from model.convert.__main__ import main
from model.convert.torch import layers, pickled, reading, safetensors
from symbol_xception import ORIGINAL_FILTERS
from tests.conftest import ROOT
from tests.model.convert.networks import (
    SMALL,
    entries,
    outputs,
    pictures,
    random_network,
    with_features,
)

TORCH = ROOT / ".venv-torch" / "bin" / "python"
INSTALLED = ROOT / ".venv-torch" / "installed-timm"
SIZES = {71: 2, 96: 2, 97: 1, 150: 1, 299: 1}


def timm_side(task, folder):
    process = subprocess.run(
        [TORCH, Path(__file__).with_name("timm_side.py"), task, folder],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-2000:]


@pytest.fixture(scope="module")
def timm(tmp_path_factory):
    """The folder with what timm has saved, and a.safetensors converted to a."""
    if not INSTALLED.exists():
        pytest.skip("no PyTorch: ./run.sh test installs it")
    folder = tmp_path_factory.mktemp("timm")
    images = {str(size): pictures(number, size) for size, number in SIZES.items()}
    np.savez(folder / "images.npz", **images)
    timm_side("save", folder)
    assert main(["torch", str(folder / "a.safetensors"), str(folder / "a")]) == 0
    return folder


@pytest.mark.parametrize("size", SIZES)
def test_timm_gives_the_same_outputs(timm, size):
    symbol, arg_params, aux_params = mx.model.load_checkpoint(str(timm / "a"), 0)
    images, theirs = np.load(timm / "images.npz"), np.load(timm / "outputs.npz")
    found = outputs(with_features(symbol), arg_params, aux_params, images[str(size)])
    for ours, kind in zip(found, ("softmax", "features")):
        expected = theirs[f"{kind}-{size}"]
        assert np.abs(ours - expected).max() <= 1e-5 * max(1, np.abs(expected).max()), kind
    assert 0.205 < theirs[f"softmax-{size}"].max() < 0.999


def test_every_file_of_torch_gives_the_same_checkpoint(timm, tmp_path, capsys):
    settings = json.loads((timm / "a-0000.json").read_text())["run"]["settings"]
    assert settings["rgb_mean"] == settings["rgb_std"] == [127.5] * 3
    assert settings["image_shape"] == [3, 299, 299] and settings["short_side"] == 333
    expected = entries(timm / "a")
    for name in ("a.pth", "old.pth", "training.pth"):
        assert main(["torch", str(timm / name), str(tmp_path / name)]) == 0
        error = capsys.readouterr().err
        assert "assumed: a softmax" in error and "a short side of 333 (--short-side)" in error
        found = entries(tmp_path / name)
        assert found.keys() == expected.keys()
        for entry, array in expected.items():
            np.testing.assert_array_equal(found[entry], array, err_msg=f"{name}: {entry}")
    halves = [reading.read(timm / name).params for name in ("half.pth", "half.safetensors")]
    for entry, array in halves[0].items():
        np.testing.assert_array_equal(halves[1][entry], array)
        np.testing.assert_allclose(expected[entry], array, rtol=2**-8)


def test_back_to_torch(timm, capsys):
    """timm loads what is written, strictly, and it is what it saved."""
    capsys.readouterr()
    assert main(["to-torch", str(timm / "a"), "0", str(timm / "back.safetensors")]) == 0
    assert "mean 0.5,0.5,0.5, std 0.5,0.5,0.5" in capsys.readouterr().out
    timm_side("load", timm)


# Without PyTorch


def test_names_and_shapes_are_timms():
    """Against those of timm 1.0.31, as a digest."""
    shapes = {name: shape for name, (_, shape) in layers.torch_entries().items()}
    shapes.update({f"{name}.num_batches_tracked": () for name in layers.norms()})
    shapes.update({"fc.weight": (1000, 2048), "fc.bias": (1000,)})
    text = "\n".join(sorted(f"{name} {shape}" for name, shape in shapes.items()))
    digest = "70286d940e5d199df1a7cf8fdb06f3273768493bb68c2e49705bbdcbfbdf69ed"
    assert hashlib.sha256(text.encode()).hexdigest() == digest


@pytest.fixture
def thin(monkeypatch):
    """Have Xceptions of thin filters converted in the place of PyTorch's own."""
    for module in (layers, reading):
        monkeypatch.setattr(module, "ORIGINAL_FILTERS", SMALL)
    monkeypatch.setitem(layers.SYMBOL_ARGUMENTS, "filter_list", SMALL)


@pytest.fixture
def network(thin, tmp_path):
    """The prefix of a checkpoint, and its tensors by PyTorch's names."""
    prefix = str(tmp_path / "x")
    mx.model.save_checkpoint(prefix, 0, *random_network(3, SMALL, padding="torch", bn_eps=1e-5))
    assert main(["to-torch", prefix, "0", str(tmp_path / "x.safetensors")]) == 0
    content = (tmp_path / "x.safetensors").read_bytes()
    tensors = safetensors.parse(content, "x")
    arrays = {name: t.values(name) for name, t in tensors.items() if t.is_float}
    return prefix, arrays


def test_batch_norms_of_another_epsilon(thin, tmp_path):
    """A network that this script trained from the start has its own."""
    symbol, params, aux = random_network(3, SMALL, padding="torch", bn_eps=0.05)
    mx.model.save_checkpoint(str(tmp_path / "x"), 0, symbol, params, aux)
    file = str(tmp_path / "x.safetensors")
    assert main(["to-torch", str(tmp_path / "x"), "0", file]) == 0
    assert main(["torch", file, str(tmp_path / "y")]) == 0
    images = pictures(2, 71)
    (theirs,) = outputs(symbol, params, aux, images)
    symbol, params, aux = mx.model.load_checkpoint(str(tmp_path / "y"), 0)
    assert '"eps": "1e-05"' in symbol.tojson()
    (ours,) = outputs(symbol, params, aux, images)
    assert np.abs(ours - theirs).max() <= 1e-5 and np.abs(ours[0] - ours[1]).max() > 1e-4


def test_without_a_classifier(network, tmp_path):
    _, arrays = network
    arrays = {name: array for name, array in arrays.items() if not name.startswith("fc.")}
    (tmp_path / "y.safetensors").write_bytes(safetensors.dump(arrays, {}))
    assert main(["torch", str(tmp_path / "y.safetensors"), str(tmp_path / "y")]) == 0
    assert mx.sym.load(str(tmp_path / "y-symbol.json")).list_outputs() == ["features_output"]


def rename(name, new):
    return lambda arrays: arrays.update({new: arrays.pop(name)})


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda arrays: arrays.pop("block5.rep.4.pointwise.weight"),
         "block5.rep.4.pointwise.weight is missing"),
        (lambda arrays: arrays.pop("block1.rep.0.conv1.weight"), "no block1.rep.0.conv1.weight"),
        (lambda arrays: arrays.update({"conv3.conv1.weight": np.zeros((12, 1, 5, 5), "<f4")}),
         "conv3.conv1.weight has the shape (12, 1, 5, 5), Xception's has (12, 1, 3, 3)"),
        (lambda arrays: arrays.update({"fc.weight": np.zeros((3, 17), "<f4")}),
         "the classifier's weight has the shape (3, 17), Xception's has (3, 16)"),
        (lambda arrays: arrays.update({"se.weight": np.zeros(3, "<f4")}), "se.weight is not in"),
        (rename("fc.weight", "last_linear.3.weight"), None),
        (rename("fc.weight", "adjust_channel.weight"), "adjust_channel.weight is not in Xception"),
        (lambda arrays: arrays["bn1.bias"].fill(np.nan), "bn1.bias has NaN or infinite values"),
        (lambda arrays: arrays.update({"bn1.bias": np.zeros(4, "<i8")}), "bn1.bias is of <i8"),
        (lambda arrays: [arrays.update({k: arrays[k][:1] for k in ("fc.weight", "fc.bias")})],
         "x.safetensors: fc has one output, which can't be a softmax"),
        (lambda arrays: arrays.update({"b.block1.rep.0.conv1.weight": np.zeros(1, "<f4")}),
         "it has several networks"),
    ],
)  # fmt: skip
def test_tensors_that_are_not_xceptions(network, tmp_path, capsys, edit, says):
    _, arrays = network
    edit(arrays)
    (tmp_path / "x.safetensors").write_bytes(safetensors.dump(arrays, {}))
    capsys.readouterr()
    code = main(["torch", str(tmp_path / "x.safetensors"), str(tmp_path / "new")])
    error = capsys.readouterr().err
    assert code == (2 if says else 0)
    assert (says or "") in error and error.count("\n") == 1


def test_one_sigmoid_becomes_two_classes(network, tmp_path):
    _, arrays = network
    for name in ("fc.weight", "fc.bias"):
        arrays[name] = arrays[name][:1]
    file = str(tmp_path / "y.safetensors")
    Path(file).write_bytes(safetensors.dump(arrays, {}))
    assert main(["torch", file, str(tmp_path / "y"), "--activation=sigmoid"]) == 0
    found = entries(tmp_path / "y")
    for kind in ("weight", "bias"):
        assert not found[f"arg:fc1_{kind}"][0].any()
        np.testing.assert_array_equal(found[f"arg:fc1_{kind}"][1], arrays[f"fc.{kind}"][0])


class Call:
    """Pickled, it has a function called."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def archive(path, content, **members):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", content)
        for name, member in members.items():
            file.writestr(f"a/{name}", member)


def test_a_pickle_can_have_nothing_called(tmp_path, capsys):
    """os.system and its like, by every way into it; nothing is imported, nothing run."""
    mark = tmp_path / "run"
    calls = {
        "posix.system": Call(os.system, f"touch {mark}"),
        "builtins.eval": Call(eval, f"open({str(mark)!r}, 'w')"),
        "builtins.getattr": Call(getattr, "a", "b"),
        "tests.model.convert.test_torch.Call": Call,
    }
    for name, call in calls.items():
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            content = pickle.dumps({"state_dict": call}, protocol)
            name_there = name.replace("builtins", "__builtin__") if protocol < 3 else name
            archive(tmp_path / "x.pth", content)
            (tmp_path / "y.pth").write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + content)
            for file in ("x.pth", "y.pth"):
                assert main(["torch", str(tmp_path / file), str(tmp_path / "new")]) == 2
                error = capsys.readouterr().err
                assert f"{file}: it names {name_there}, and only tensors are read" in error
                assert error.count("\n") == 1
    assert not mark.exists()


def test_files_that_are_not_of_torch(network, tmp_path, capsys):
    whole = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    (tmp_path / "header.safetensors").write_bytes(whole[:200])
    header = b'{"a":{"dtype":"F32","shape":[-1,-1],"data_offsets":[0,4]}}'
    (tmp_path / "negative.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "folder.pth").mkdir()
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as file:
        file.writestr("config.json", "{}")
    archive(tmp_path / "list.pth", pickle.dumps([1, 2]))
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", bytes(1 << 20))
    for name in (*os.listdir(tmp_path), "none.pth"):
        if name.startswith("x"):
            continue
        assert main(["torch", str(tmp_path / name), str(tmp_path / "new")]) == 2, name
        error = capsys.readouterr().err
        assert name in error and error.count("\n") == 1, error
        assert ("compressed" in error) == (name == "bomb.pth")


@pytest.mark.parametrize("numbers", ["I9 (I4 I9 t(I9 I1 t", "I1 (I4 I9 t(I9 I1 t", "I0 (I9 t(I5 t"])
def test_a_tensor_stays_within_its_storage(numbers):
    """Offset, sizes and strides in a file are what whoever wrote it chose."""
    numbers = numbers.replace(" ", "\n")
    storage = "((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI36\ntQ"
    text = f"ctorch._utils\n_rebuild_tensor_v2\n{storage}{numbers}I00\nNtR."
    content = io.BytesIO()
    archive(content, text.encode(), **{"data/0": bytes(144)})
    tensor = pickled.parse(content.getvalue(), "x.pth")
    with pytest.raises(ModelError, match="x is beyond its storage"):
        tensor.values("x")


def test_what_torch_has_no_network_for(tmp_path, capsys):
    mx.model.save_checkpoint(str(tmp_path / "x"), 1, *random_network(7, SMALL))
    assert main(["to-torch", str(tmp_path / "x"), "1", str(tmp_path / "x.safetensors")]) == 2
    wanted = f"its filter_list is {SMALL}, PyTorch's is {ORIGINAL_FILTERS}"
    assert wanted in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()
