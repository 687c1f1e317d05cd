"""Keras' files, opened as data: no link in them is followed, and nothing outside them is read.

==================  ==========================================  ===================
``.h5``             weights, or a whole model (Keras 1 to 3)    `weights_by_name`
``.weights.h5``     weights (Keras 2.12 and later)              `weights_by_class`
``.keras``          a whole model: a zip archive, or a folder   `weights_by_class`
``.weights.json``   weights in several files (Keras 3)          `weights_by_class`
==================  ==========================================  ===================

By name: a group is named after its layer and lists its arrays in the attribute ``weight_names``. A
nested model is one group, with the arrays of all its layers. By class: a group is named after the
layer's class and its number among those of its class, as in ``layers/separable_conv2d_12/vars/0``;
a nested model has ``layers`` of its own.
"""

import contextlib
import io
import json
import os
import re
import stat
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import numpy as np

from log.files import read_file
from model import ModelError
from model.convert.keras.h5 import h5py_module

#: The groups of the layers, named after their classes: today, and in TensorFlow 2.12 to 2.14.
_LAYERS = ("layers", "_layer_checkpoint_dependencies")
#: Groups, other than layers, that are not about the network's weights.
_NOT_LAYERS = ("optimizer", "seed_generator", "_metrics", "metrics", "compile_metrics")
#: What a weights file within a .keras archive may take in memory: Xception with the states of an
#: optimizer has 275 MB.
_MAX_BYTES = 1 << 30
#: What a configuration may take: Xception's has 200 kB.
_MAX_JSON = 1 << 24
#: How deep groups may be, and how many: a group can be within itself.
_MAX_DEPTH, _MAX_GROUPS = 40, 20_000
#: What zipfile, json and h5py raise on what is not theirs, or not as Keras arranges it.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, TypeError, ValueError,
    AttributeError, NotImplementedError,
)  # fmt: skip
#: HDF5's numbers of gzip, shuffle and fletcher32. Others may be plug-ins, which are code.
_FILTERS = {1, 2, 3}
_NUMBERED = re.compile(r"(.+?)(?:_(\d+))?")


@dataclass
class Stored:
    """A layer in a file. name : in messages. arrays : HDF5's, in Keras' order."""

    name: str
    arrays: List[Any]


@dataclass
class Group:
    """A group of a file by class.

    arrays : by number. children : by class, (number, group), in the order of the numbers.
    """

    name: str
    arrays: Dict[int, Any] = field(default_factory=dict)
    children: Dict[str, List[Tuple[int, "Group"]]] = field(default_factory=dict)

    def stored(self) -> Stored:
        return Stored(self.name, [self.arrays[i] for i in sorted(self.arrays)])

    def all_groups(self) -> Iterator["Group"]:
        """Yield this group and those in it."""
        yield self
        for groups in self.children.values():
            for _, group in groups:
                yield from group.all_groups()


@dataclass(frozen=True)
class KerasFile:
    """An open file.

    config : of the model, as Keras wrote it; None if the file has weights alone.
    training : the arguments of its `compile`, empty if there are none.
    by_name : (group, layer in a nested model or "") -> layer, in Keras' order; or
    by_class : the outermost group.
    """

    path: Path
    config: Optional[Dict[str, Any]]
    training: Dict[str, Any]
    by_name: Optional[Dict[Tuple[str, str], Stored]] = None
    by_class: Optional[Group] = None


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[KerasFile]:
    """Open a file, or a folder that Keras 3 wrote. Raises ModelError, for what goes wrong while it
    is open too."""
    try:
        with contextlib.ExitStack() as stack:
            yield _open(path, stack)
    except OSError as error:
        reason = error.strerror or "not an HDF5 file, or damaged"
        raise ModelError(f"{path}: {reason}") from None
    except _DAMAGE as error:
        raise ModelError(f"{path}: damaged, or not Keras': {error}") from None


def _open(path: Path, stack: contextlib.ExitStack) -> KerasFile:
    _check_kind(path)
    if path.is_dir():
        config = json.loads(read_file(path / "config.json", ModelError, _MAX_JSON))
        return _whole(path, config, _hdf5(path / "model.weights.h5", stack))
    if path.suffix == ".json":
        return KerasFile(path, None, {}, by_class=_shards(path, stack))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            config = json.loads(_member(archive, "config.json", _MAX_JSON, path))
            content = io.BytesIO(_member(archive, "model.weights.h5", _MAX_BYTES, path))
        return _whole(path, config, _hdf5(content, stack))
    file = _hdf5(path, stack)
    names = set(file)  # `in file` would follow a link
    if "model_weights" in names:
        config, training = (_json_attribute(file, n) for n in ("model_config", "training_config"))
        root = child(file, "model_weights", path)
        return KerasFile(path, config, training or {}, by_name=weights_by_name(root, path))
    if (
        "layer_names" in file.attrs
        or "layer_names0" in file.attrs
        or "weight_names" in {name for group in _groups(file) for name in group.attrs}
    ):
        return KerasFile(path, None, {}, by_name=weights_by_name(file, path))
    root = Group("")
    weights_by_class(file, root, path)
    if not any(group.arrays for group in root.all_groups()):
        raise ModelError(f"{path}: an HDF5 file, but not Keras': it has no layers")
    return KerasFile(path, None, {}, by_class=root)


def _check_kind(path: Path) -> None:
    """Raise ModelError where `path` is nothing that can be opened."""
    checkpoint = Path(f"{path}.index")
    if (path.suffix == ".index" and path.exists()) or (not path.exists() and checkpoint.exists()):
        name = path.with_suffix("") if path.exists() else path
        raise ModelError(
            f"{name}: a TensorFlow checkpoint; only TensorFlow reads it: in Keras, "
            f"model.load_weights({str(name)!r}), then model.save_weights('weights.h5')"
        )
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        if (path / "saved_model.pb").exists():
            raise ModelError(
                f"{path}: a SavedModel folder; only TensorFlow reads its variables: in TensorFlow, "
                f"tf.keras.models.load_model({str(path)!r}).save('model.h5')"
            )
        if not (path / "config.json").exists():
            raise ModelError(f"{path}: a folder, not a Keras file")
    elif not stat.S_ISREG(mode):
        raise ModelError(f"{path}: not a regular file")


def _member(archive: zipfile.ZipFile, name: str, limit: int, path: Path) -> bytes:
    if name not in archive.namelist():
        raise ModelError(f"{path}: a zip archive without {name}: not a .keras file")
    size = archive.getinfo(name).file_size
    if size > limit:
        raise ModelError(f"{path}: {size >> 20} MB of {name} in it: not Xception's")
    return archive.read(name)


def _hdf5(source: Union[Path, io.BytesIO], stack: contextlib.ExitStack) -> Any:
    return stack.enter_context(h5py_module().File(source, "r", locking=False))


def _whole(path: Path, config: Dict[str, Any], file: Any) -> KerasFile:
    root = Group("")
    weights_by_class(file, root, path)
    return KerasFile(path, config, config.get("compile_config") or {}, by_class=root)


def _json_attribute(file: Any, name: str) -> Optional[Dict[str, Any]]:
    text = file.attrs.get(name)
    return None if text is None else json.loads(text)


def _shards(path: Path, stack: contextlib.ExitStack) -> Group:
    """The weights in the files that a .weights.json lists, in its folder."""
    listed = json.loads(read_file(path, ModelError, _MAX_JSON))["weight_map"].values()
    names = {name for each in listed for name in (each if isinstance(each, list) else [each])}
    root = Group("")
    for name in sorted(names):
        if Path(name).name != name:
            raise ModelError(f"{path}: {name!r} is not a file in its folder")
        shard = path.with_name(name)
        _check_kind(shard)
        weights_by_class(_hdf5(shard, stack), root, shard)
    return root


# Weights by name


def weights_by_name(root: Any, path: Path) -> Dict[Tuple[str, str], Stored]:
    """Return the layers with arrays, in the order of ``layer_names``, which is Keras' own."""
    found: Dict[Tuple[str, str], Stored] = {}
    order = {name: i for i, name in enumerate(_names(root, "layer_names"))}
    for name in sorted(root, key=lambda name: order.get(name, len(order))):
        group = child(root, name, path)
        words = _names(group, "weight_names") if isinstance(group, h5py_module().Group) else []
        # In a nested model, each array's name begins with that of its layer.
        owners = [word.split("/")[-2] if "/" in word else "" for word in words]
        nested = len(set(owners)) > 1
        for word, owner in zip(words, owners):
            where = f"{name}/{owner}" if nested else name
            stored = found.setdefault((name, owner if nested else ""), Stored(where, []))
            stored.arrays.append(_array(group, word, path))
    return found


def _names(group: Any, attribute: str) -> List[str]:
    """Names in an attribute of Keras', which puts many into several: weight_names0 and on."""
    values = list(group.attrs.get(attribute, ()))
    part = 0
    while f"{attribute}{part}" in group.attrs:
        values.extend(group.attrs[f"{attribute}{part}"])
        part += 1
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _groups(file: Any) -> Iterator[Any]:
    """The groups of a file, without links."""
    h5py = h5py_module()
    for name in file:
        is_here = isinstance(file.get(name, getlink=True), h5py.HardLink)
        if is_here and isinstance(file[name], h5py.Group):
            yield file[name]


# Weights by class


def weights_by_class(file: Any, into: Group, path: Path) -> None:
    """Add the groups of a file to `into`."""
    left = [_MAX_GROUPS]

    def add(group: Any, into: Group, depth: int) -> None:
        left[0] -= 1
        if depth > _MAX_DEPTH or left[0] < 0:
            raise ModelError(f"{path}: {group.name}: more groups than a network has")
        for name in group:
            each = child(group, name, path)
            if not isinstance(each, h5py_module().Group) or name in _NOT_LAYERS:
                continue
            if name == "vars":
                for number in each:
                    into.arrays[int(number)] = _array(each, number, path)
            elif name in _LAYERS:
                for inner in each:
                    add(child(each, inner, path), _of_class(into, inner), depth + 1)
            else:  # an attribute of a model that is a class of its own
                add(each, _of_class(into, name), depth + 1)

    add(file, into, 0)


def _of_class(parent: Group, name: str) -> Group:
    """The group called `name` in `parent`, made if there is none."""
    match = _NUMBERED.fullmatch(name)
    kind, number = (match[1], int(match[2] or 0)) if match else (name, 0)
    groups = parent.children.setdefault(kind, [])
    for known, group in groups:
        if known == number:
            return group
    group = Group(f"{parent.name}/{name}" if parent.name else name)
    groups.append((number, group))
    groups.sort(key=lambda pair: pair[0])
    return group


# Arrays


def child(group: Any, name: str, path: Path) -> Any:
    """Return `group[name]`, where it is in this file and is no link to somewhere else."""
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py_module().HardLink):
        raise ModelError(f"{path}: {group.name}/{name} is a link: not written by Keras")
    return group[name]


def _array(group: Any, words: str, path: Path) -> Any:
    *folders, name = words.split("/")
    for folder in folders:
        group = child(group, folder, path)
    dataset = child(group, name, path)
    if not isinstance(dataset, h5py_module().Dataset):
        raise ModelError(f"{path}: {dataset.name} is not an array")
    return dataset


def values(dataset: Any, path: Path) -> np.ndarray:
    """Return the values of an array whose shape is known to be a good one."""
    stored = dataset.id.get_create_plist()
    filters = {stored.get_filter(i)[0] for i in range(stored.get_nfilters())}
    if dataset.external or dataset.is_virtual or not filters <= _FILTERS:
        raise ModelError(f"{path}: {dataset.name} is not stored as Keras stores arrays")
    if dataset.dtype.kind != "f":
        raise ModelError(f"{path}: {dataset.name} is of {dataset.dtype}, not of floats")
    array = dataset[()]
    if not np.isfinite(array).all():
        raise ModelError(f"{path}: {dataset.name} has NaN or infinite values")
    return array
