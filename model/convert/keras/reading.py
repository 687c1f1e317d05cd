"""Keras' weight files of its Xception, read with h5py alone.

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

import numpy as np

from model import ModelError
from model.convert.keras.h5 import h5py_module
from model.convert.keras.layers import keras_layers
from model.network.layers import KERAS_HEAD, shortcut_names

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
    h5py = h5py_module()
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
    if not isinstance(link, h5py_module().HardLink):
        raise ModelError(f"{path}: {group.name}/{name} is a link: not written by Keras")
    return group[name]


def _array(group, words, path):
    *folders, name = words.split("/")
    for folder in folders:
        group = _child(group, folder, path)
    dataset = _child(group, name, path)
    if not isinstance(dataset, h5py_module().Dataset):
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
