"""Networks with random parameters, images, and what the networks say of them."""

import h5py
import mxnet as mx
import numpy as np

from model.network.params import parameter_shapes
from symbol_xception import REDUCED_FILTERS, get_xception_symbol

SMALL = (8, 8, 8, 12, 12, 16, 16)


def random_values(random, name, shape, fan_in):
    """Values for a parameter with which the outputs differ from image to image."""
    if "gamma" in name:
        return random.uniform(0.7, 1.3, shape)
    if "var" in name:
        return random.uniform(0.5, 1.5, shape)
    if len(shape) == 1:
        return random.normal(0, 0.1, shape)
    if len(shape) == 2:  # the classifier's: features get up to a thousand
        return random.normal(0, 0.02 / fan_in**0.5, shape)
    gain = 1 if "depthwise" in name else 2
    return random.normal(0, (gain / fan_in) ** 0.5, shape)


def randomize(model, seed):
    """Give a Keras model random weights and moving statistics."""
    random = np.random.RandomState(seed)
    weights = []
    for variable in model.weights:
        shape = tuple(variable.shape)
        inputs = shape[:2] if "depthwise" in variable.name else shape[:-1]
        weights.append(random_values(random, variable.name, shape, fan_in=np.prod(inputs)))
    model.set_weights(weights)
    return model


def assert_loads(model, file):
    """Keras reads from `file` the weights that the model has."""
    weights = model.get_weights()
    try:
        model.set_weights([np.zeros_like(array) for array in weights])
        model.load_weights(file)
        for array, expected in zip(model.get_weights(), weights):
            np.testing.assert_array_equal(array, expected)
    finally:
        model.set_weights(weights)


def entries(prefix, epoch=0):
    arrays = mx.nd.load(f"{prefix}-{epoch:04d}.params")
    return {name: array.asnumpy() for name, array in arrays.items()}


def outputs(symbol, arg_params, aux_params, images):
    """The outputs for `images` (N, 3, H, W), as any script of MXNet's would get them."""
    labels = [(name, images.shape[:1]) for name in symbol.list_arguments() if "label" in name]
    module = mx.mod.Module(symbol, label_names=[name for name, _ in labels])
    module.bind([("data", images.shape)], labels or None, for_training=False)
    module.set_params(arg_params, aux_params, allow_extra=True)
    module.forward(mx.io.DataBatch([mx.nd.array(images)]), is_train=False)
    return [array.asnumpy() for array in module.get_outputs()]


def pictures(number, size):
    """(number, 3, size, size) values from -1 to 1: coarse squares of colour, and noise."""
    random = np.random.RandomState(size)
    coarse = random.uniform(-0.8, 0.8, (number, 3, 4, 4)).repeat(-(-size // 4), 2)
    coarse = coarse.repeat(-(-size // 4), 3)[:, :, :size, :size]
    return (coarse + random.uniform(-0.2, 0.2, coarse.shape)).astype(np.float32)


def random_network(num_classes, filters=REDUCED_FILTERS, **arguments):
    """Return (symbol, arg_params, aux_params) with random parameters and moving statistics."""
    symbol = get_xception_symbol(num_classes, filters, **arguments)
    random = np.random.RandomState(0)
    split = {"arg": {}, "aux": {}}
    for entry, shape in parameter_shapes(symbol).items():
        kind, name = entry.split(":")
        value = random_values(random, name, shape, fan_in=np.prod(shape[1:]))
        split[kind][name] = mx.nd.array(value, dtype=arguments.get("dtype", "float32"))
    return symbol, split["arg"], split["aux"]


def with_features(symbol):
    return mx.sym.Group([symbol, symbol.get_internals()["flatten_output"]])


def edited(path, edit):
    """Apply `edit` to the HDF5 file `path`; return it."""
    with h5py.File(path, "r+") as file:
        edit(file)
    return path
