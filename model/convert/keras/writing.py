"""A Keras weights file, written."""

import io
from typing import Dict

import numpy as np

from model.convert.keras.h5 import h5py_module
from model.convert.keras.layers import keras_layers
from model.network.layers import HEAD


def dump(params: Dict[str, np.ndarray]) -> bytes:
    """Return a legacy weights file that Keras 2 and 3 load: Xception's, with the top if it is in
    `params` (entry -> array, as `read` returns them)."""
    h5py = h5py_module()
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
