"""What timm does with Xception, in an environment that has it and no mxnet.

python timm_side.py save FOLDER    files of random networks, and what they make of images
python timm_side.py load FOLDER    loads back.safetensors strictly; what it makes of them
"""

import importlib.abc
import importlib.machinery
import sys
import types
from pathlib import Path

import numpy as np
import torch


class Nothing(type):
    """A class that has every attribute."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


def nothing(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Nothing(name, (), {})


class Torchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules that stand in for torchvision's, which timm imports for its data and which does not
    go with every build of torch. Whatever is taken from them does nothing."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__path__ = []
        module.__version__ = "0"
        module.__getattr__ = nothing
        return module

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, Torchvision())

import safetensors.torch  # noqa: E402
import timm  # noqa: E402


def xception(num_classes, seed):
    """timm's, with random weights and statistics, in inference."""
    torch.manual_seed(seed)
    model = timm.create_model("legacy_xception", pretrained=False, num_classes=num_classes)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.7, 1.3)
            torch.nn.init.normal_(module.bias, 0, 0.1)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, 0, 0.02 / module.in_features**0.5)
        elif isinstance(module, torch.nn.Conv2d):
            inputs = module.weight[0].numel()
            gain = 1 if module.groups > 1 else 2
            torch.nn.init.normal_(module.weight, 0, (gain / inputs) ** 0.5)
    return model.eval()


def outputs(model, folder):
    """Pooled features and probabilities of the images in images.npz, by size."""
    found = {}
    with torch.no_grad():
        for size, images in np.load(folder / "images.npz").items():
            maps = model.forward_features(torch.from_numpy(images))
            found[f"features-{size}"] = model.global_pool(maps).numpy()
            found[f"softmax-{size}"] = torch.softmax(model.forward_head(maps), 1).numpy()
    return found


def save(folder):
    model = xception(5, seed=0)
    state = model.state_dict()
    safetensors.torch.save_file(state, folder / "a.safetensors")
    torch.save(state, folder / "a.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    # As FaceForensics' detectors are: in a module of their own, another name of the classifier.
    renamed = {
        "module.model." + name.replace("fc.", "last_linear.1."): tensor
        for name, tensor in state.items()
    }
    torch.save({"epoch": 3, "state_dict": renamed}, folder / "training.pth")
    half = {name: t.bfloat16() if t.is_floating_point() else t for name, t in state.items()}
    torch.save(half, folder / "half.pth")
    safetensors.torch.save_file(half, folder / "half.safetensors")
    np.savez(folder / "outputs.npz", **outputs(model, folder))


def load(folder):
    model = timm.create_model("legacy_xception", pretrained=False, num_classes=5)
    written, saved = (
        safetensors.torch.load_file(folder / f"{name}.safetensors") for name in ("back", "a")
    )
    model.load_state_dict(written, strict=True)
    assert written.keys() == saved.keys()
    assert all(torch.equal(written[name], saved[name]) for name in saved)


if __name__ == "__main__":
    {"save": save, "load": load}[sys.argv[1]](Path(sys.argv[2]))
