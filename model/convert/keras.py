"""Keras' weight files of its Xception, read and written with h5py alone.

Three layouts are read. In Keras' legacy one (``.h5``), a group is named after its layer and lists
its arrays in the attribute ``weight_names``; a whole saved model has these groups in
``model_weights``. In that of ``.weights.h5``, a group is named after the layer's class and its
number among those of its class, as in ``layers/separable_conv2d_12/vars/0``. A ``.keras`` file is a
zip archive with such a file in it. In each, a layer's arrays are in the order in which Keras
creates them.

A file is data here: no link in it is followed, and nothing outside of it is read.
"""

import contextlib
import io
import zipfile
import zlib
from dataclasses import dataclass
from typing import Optional

import numpy as np

from model import ModelError
from model.network.layers import HEAD, KERAS_HEAD, layers, shortcut_names
from symbol_xception import ORIGINAL_FILTERS

#: The arguments of get_xception_symbol that make it Keras' Xception.
SYMBOL_ARGUMENTS = {"filter_list": ORIGINAL_FILTERS, "padding": "keras", "bn_eps": 1e-3}
#: The groups of the layers, named after their classes: today, and in TensorFlow 2.12 to 2.14.
_BY_CLASS = ("layers", "_layer_checkpoint_dependencies")
#: What a weights file within a .keras archive may take in memory: Xception with the states of an
#: optimizer has 275 MB.
_MAX_BYTES = 1 << 30
#: What zipfile and h5py raise on what is not theirs, or not as Keras arranges it.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, TypeError, ValueError,
    AttributeError,
)  # fmt: skip
#: HDF5's numbers of gzip, shuffle and fletcher32. Others may be plug-ins, which are code.
_FILTERS = {1, 2, 3}


@dataclass(frozen=True)
class Variable:
    """An array of a layer: its name and shape in Keras; its entry here, whose axes are Keras' in
    the order `axes`."""

    name: str
    shape: tuple
    entry: str
    axes: tuple


def keras_layers(num_classes: Optional[int] = None) -> list:
    """Return [(layer name, class name, [Variable])] of Xception in Keras' order, with a classifier
    of `num_classes` if that is given."""
    image_axes = (3, 2, 0, 1)
    found = []
    for layer in layers(ORIGINAL_FILTERS):
        c_in, c_out = layer.in_channels, layer.num_filter
        weight = f"arg:{layer.pointwise}_weight"
        if layer.separable:
            shape, depthwise = (3, 3, c_in, 1), f"arg:{layer.depthwise}_weight"
            kernels = [
                Variable("depthwise_kernel", shape, depthwise, (2, 3, 0, 1)),
                Variable("pointwise_kernel", (1, 1, c_in, c_out), weight, image_axes),
            ]
            found.append((layer.keras_name, "separable_conv2d", kernels))
        else:
            shape = (layer.kernel, layer.kernel, c_in, c_out)
            kernels = [Variable("kernel", shape, weight, image_axes)]
            found.append((layer.keras_name, "conv2d", kernels))
        norm = [
            Variable(name, (c_out,), f"{entry[:4]}{layer.name}_bn_{entry[4:]}", (0,))
            for name, entry in (
                ("gamma", "arg:gamma"),
                ("beta", "arg:beta"),
                ("moving_mean", "aux:moving_mean"),
                ("moving_variance", "aux:moving_var"),
            )
        ]
        found.append((layer.keras_norm, "batch_normalization", norm))
    if num_classes:
        head = [
            Variable("kernel", (ORIGINAL_FILTERS[6], num_classes), f"arg:{HEAD}_weight", (1, 0)),
            Variable("bias", (num_classes,), f"arg:{HEAD}_bias", (0,)),
        ]
        found.append((KERAS_HEAD, "dense", head))
    return found


# Reading


def read(path) -> dict:
    """Return the entries of a checkpoint, ``arg:NAME`` and ``aux:NAME``, as float32 arrays.

    Without the top in the file, there is no ``arg:fc1_weight`` and no ``arg:fc1_bias``.
    Raises ModelError, naming the first layer that differs, where it is not Keras' Xception.
    """
    with _open(path) as file:
        in_file = _layers_of(file, path)
        head = in_file.get(KERAS_HEAD)
        num_classes = max((1, *head[1][0].shape[-1:])) if head else None
        params = {}
        for name, _, variables in keras_layers(num_classes):
            if name not in in_file:
                raise ModelError(f"{path}: layer {name} is missing: not Keras' Xception?")
            where, datasets = in_file.pop(name)
            if len(datasets) != len(variables):
                raise ModelError(
                    f"{path}: layer {where} has {len(datasets)} arrays, Xception's has "
                    f"{len(variables)}"
                )
            for variable, dataset in zip(variables, datasets):
                if dataset.shape != variable.shape:
                    raise ModelError(
                        f"{path}: layer {where}: {variable.name} has the shape {dataset.shape}, "
                        f"Xception's has {variable.shape}"
                    )
                array = _values(dataset, path).transpose(variable.axes)
                params[variable.entry] = np.ascontiguousarray(array, np.float32)
        for where, _ in in_file.values():
            raise ModelError(f"{path}: layer {where} is not in Keras' Xception")
    return params


@contextlib.contextmanager
def _open(path):
    """The HDF5 file `path`, or that in the .keras archive `path`."""
    h5py = _h5py()
    source = path
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = archive.getinfo("model.weights.h5").file_size
                if size > _MAX_BYTES:
                    raise ModelError(f"{path}: {size >> 20} MB of weights in it: not Xception's")
                source = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(source, "r") as file:
            yield file
    except OSError as error:
        reason = error.strerror or "not an HDF5 file, or damaged"
        raise ModelError(f"{path}: {reason}") from None
    except _DAMAGE as error:
        raise ModelError(f"{path}: damaged, or not Keras': {error}") from None


def _layers_of(file, path) -> dict:
    """Return Keras' layer name -> (its name in the file, [array in the file])."""
    names = set(file)  # `in file` would follow a link
    for by_class in _BY_CLASS:
        if by_class in names:
            return _by_class(_child(file, by_class, path), path)
    root = _child(file, "model_weights", path) if "model_weights" in names else file
    found = {}
    for name in root:
        group = _child(root, name, path)
        names = group.attrs.get("weight_names", ())
        if len(names):
            words = [n.decode() if isinstance(n, bytes) else str(n) for n in names]
            found[name] = (name, [_array(group, word, path) for word in words])
    names = shortcut_names(found)
    return {names.get(name, name): each for name, each in found.items()}


def _by_class(root, path) -> dict:
    found, numbers = {}, {}
    place = {}
    for name, class_name, _ in keras_layers(num_classes=1):
        number = numbers[class_name] = numbers.get(class_name, -1) + 1
        place[f"{class_name}_{number}" if number else class_name] = name
    for group_name in root:
        group = _child(root, group_name, path)
        arrays = _child(group, "vars", path) if "vars" in set(group) else ()
        if len(arrays):
            name = place.get(group_name, group_name)
            where = f"{name} ({group_name})"
            datasets = [_array(arrays, str(i), path) for i in range(len(arrays))]
            found[name] = (where, datasets)
    return found


def _child(group, name, path):
    """`group[name]`, where it is in this file and is no link to somewhere else."""
    link = group.get(name, getlink=True)
    if not isinstance(link, _h5py().HardLink):
        raise ModelError(f"{path}: {group.name}/{name} is a link: not written by Keras")
    return group[name]


def _array(group, words, path):
    *folders, name = words.split("/")
    for folder in folders:
        group = _child(group, folder, path)
    dataset = _child(group, name, path)
    if not isinstance(dataset, _h5py().Dataset):
        raise ModelError(f"{path}: {dataset.name} is not an array")
    return dataset


def _values(dataset, path) -> np.ndarray:
    """The values of an array whose shape is known to be a good one."""
    stored = dataset.id.get_create_plist()
    filters = {stored.get_filter(i)[0] for i in range(stored.get_nfilters())}
    if dataset.external or dataset.is_virtual or not filters <= _FILTERS:
        raise ModelError(f"{path}: {dataset.name} is not stored as Keras stores arrays")
    if dataset.dtype.kind != "f":
        raise ModelError(f"{path}: {dataset.name} is of {dataset.dtype}, not of floats")
    values = dataset[()]
    if not np.isfinite(values).all():
        raise ModelError(f"{path}: {dataset.name} has NaN or infinite values")
    return values


# Writing


def dump(params: dict) -> bytes:
    """Return a legacy weights file that Keras 2 and 3 load: Xception's, with the top if it is in
    `params` (entry -> array, as `read` returns them)."""
    h5py = _h5py()
    head = params.get(f"arg:{HEAD}_bias")
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        table = keras_layers(None if head is None else len(head))
        file.attrs["layer_names"] = [name.encode() for name, _, _ in table]
        file.attrs["backend"] = b"tensorflow"
        # Without one, Keras takes the file for Keras 1's, and turns some kernels around.
        file.attrs["keras_version"] = b"2.15.0"
        for name, _, variables in table:
            group = file.create_group(name)
            words = [f"{name}/{variable.name}:0" for variable in variables]
            group.attrs["weight_names"] = [word.encode() for word in words]
            for word, variable in zip(words, variables):
                group[word] = params[variable.entry].transpose(np.argsort(variable.axes))
    return content.getvalue()


def _h5py():
    try:
        import h5py
    except ImportError:
        raise ModelError("Keras' files need h5py: pip install h5py==3.11.0") from None
    return h5py
