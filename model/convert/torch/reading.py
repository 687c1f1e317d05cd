"""PyTorch's weights as what a checkpoint holds."""

import re
from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np

from log.files import read_file
from model import ModelError
from model.convert.checkpoint import Images, Source
from model.convert.heads import ASSUMED_SOFTMAX, classifier
from model.convert.torch import pickled, safetensors
from model.convert.torch.layers import SYMBOL_ARGUMENTS, norms, torch_entries
from model.convert.torch.tensors import Tensor
from model.network import layers
from symbol_xception import ORIGINAL_FILTERS

#: Xception with the states of an optimizer has 275 MB.
_MAX_BYTES = 1 << 30
#: In every Xception, and in nothing else that is known.
_TELLING = "block1.rep.0.conv1.weight"
#: Classifiers of timm, of pretrainedmodels, of what is made from them.
_HEAD = re.compile(r"(fc|last_linear|classifier|head)(\.\d+)?\.(weight|bias)")
#: timm's and pretrainedmodels' images; the part of the short side that they cut out.
_IMAGES = Images(usual_size=299, usual_mean=127.5, usual_std=127.5, usual_crop=0.8975)


def read(path: Path, activation: Optional[str] = None) -> Source:
    """Return the network in a .safetensors file or one of torch.save.

    activation : ``softmax`` or ``sigmoid``, of the last layer. Raises ModelError, naming the first
    tensor that differs, where it is not Xception.
    """
    tensors = _network(_load(path), path)
    params = {}
    for name, (entry, shape) in torch_entries().items():
        tensor = tensors.pop(name, None)
        if tensor is None:
            raise ModelError(f"{path}: {name} is missing: not Xception?")
        # The first port of Xception to PyTorch kept its pointwise weights without the 1 x 1.
        if tensor.shape not in ((shape, shape[:2]) if "pointwise" in name else (shape,)):
            raise ModelError(f"{path}: {name} has the shape {tensor.shape}, Xception's has {shape}")
        params[entry] = tensor.values(f"{path}: {name}").reshape(shape)
    for name in norms():
        tensors.pop(f"{name}.num_batches_tracked", None)
    assumed = []
    if tensors:
        assumed = [] if activation else [ASSUMED_SOFTMAX]
        weight, bias = _head(tensors, path)
        layer = f"{path}: {next(iter(tensors)).rpartition('.')[0]}"
        head = classifier(layer, weight, bias, given=activation, silent=True)
        params[f"arg:{layers.HEAD}_weight"], params[f"arg:{layers.HEAD}_bias"] = head
    return Source(path, params, dict(SYMBOL_ARGUMENTS), _IMAGES, assumed=tuple(assumed))


def _load(path: Path) -> Any:
    content = read_file(path, ModelError, _MAX_BYTES, "a file of PyTorch")
    # A safetensors file begins with the length of its JSON.
    if content[8:9] == b"{" and not content.startswith(b"PK"):
        return safetensors.parse(content, path)
    return pickled.parse(content, path)


def _network(found: Any, path: Path) -> Dict[str, Tensor]:
    """Return the tensors of Xception in what a file has, by their names in it.

    Training scripts keep more in a file, and wrappers put a prefix before the names.
    """
    places = {"": found}
    if isinstance(found, dict):
        places.update((str(key), each) for key, each in found.items() if isinstance(each, dict))
    networks = {
        place: each
        for place, each in places.items()
        if isinstance(each, dict) and any(str(name).endswith(_TELLING) for name in each)
    }
    if not networks:
        raise ModelError(
            f"{path}: no {_TELLING} in it: not timm's legacy_xception or pretrainedmodels' xception"
        )
    if len(networks) > 1:
        raise ModelError(f"{path}: it has several networks: {', '.join(networks)}: save one alone")
    (network,) = networks.values()
    (first, *others) = [str(name) for name in network if str(name).endswith(_TELLING)]
    if others:
        raise ModelError(f"{path}: it has several networks: {first}, {', '.join(others)}")
    prefix = first[: -len(_TELLING)]
    tensors = {}
    for name, tensor in network.items():
        if not str(name).startswith(prefix) or not isinstance(tensor, Tensor):
            raise ModelError(f"{path}: {name} is not in Xception")
        tensors[str(name)[len(prefix) :]] = tensor
    return tensors


def _head(tensors: Dict[str, Tensor], path: Path) -> Any:
    """Return (weight, bias) of the classifier, which is all that is left."""
    named: Dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _HEAD.fullmatch(name)
        if not match or match[3] in named:
            raise ModelError(f"{path}: {name} is not in Xception")
        named[match[3]] = tensor
    if "weight" not in named:
        raise ModelError(f"{path}: {next(iter(tensors))} is there without a weight")
    weight = named["weight"]
    num_classes = max((1, *weight.shape[:1]))
    wanted = {"weight": (num_classes, ORIGINAL_FILTERS[6]), "bias": (num_classes,)}
    arrays = {"bias": np.zeros(num_classes, np.float32)}
    for kind, tensor in named.items():
        if tensor.shape != wanted[kind]:
            raise ModelError(
                f"{path}: the classifier's {kind} has the shape {tensor.shape}, Xception's has "
                f"{wanted[kind]}"
            )
        arrays[kind] = tensor.values(f"{path}: the classifier's {kind}")
    return arrays["weight"], arrays["bias"]
