"""A Keras weights file, written."""

import io
from typing import Dict, Optional, Tuple

import numpy as np

from model.convert.keras.h5 import h5py_module
from model.convert.keras.layers import keras_layers
from model.network.layers import HEAD


def dump(params: Dict[str, np.ndarray]) -> bytes:
    """Return a legacy weights file that Keras 2 and 3 load: Xception's, with the top if it is in
    `params` (entry -> array, as `read` returns them)."""
    h5py = h5py_module()
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        table = keras_layers(_num_classes(params))
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


def constructor(
    params: Dict[str, np.ndarray], image_shape: Optional[Tuple[int, int, int]] = None
) -> str:
    """Return the Python expression that makes the network of Keras for `dump(params)`.

    image_shape : (3, height, width); None for Keras' own, 299x299.
    """
    num_classes = _num_classes(params)
    top = f"classes={num_classes}" if num_classes else 'include_top=False, pooling="avg"'
    arguments = ["weights=None", top]
    if image_shape and image_shape[1:] != (299, 299):
        arguments.append("input_shape=({1}, {2}, {0})".format(*image_shape))
    return f"Xception({', '.join(arguments)})"


def _num_classes(params: Dict[str, np.ndarray]) -> Optional[int]:
    head = params.get(f"arg:{HEAD}_bias")
    return None if head is None else len(head)
