"""Fine-tuned Xceptions as users of Keras build them, with thin filters, for Keras 2 and 3.

    python keras_models.py FOLDER

saves them with the Keras of this Python. It has no mxnet.
"""

import copy
import sys
from pathlib import Path
from unittest import mock

import numpy as np

SIZE = 71
FILTERS = (8, 8, 8, 12, 12, 16, 16)
_THIN = {32: 4, 64: 8, 128: 8, 256: 8, 728: 12, 1024: 12, 1536: 16, 2048: 16}


def without_initial_weights(keras):
    """While this lasts, new layers have zeros: drawing those of Xception takes Keras 3 seconds."""

    def zeros(initializer, shape, dtype=None, **_):
        return np.zeros(shape, np.float32)

    return mock.patch.object(keras.initializers.VarianceScaling, "__call__", zeros)


class Models:
    """Builds models with `keras`. Each has random weights and statistics."""

    def __init__(self, keras):
        self.keras = keras
        self.random = np.random.RandomState(0)
        arguments = {"weights": None, "include_top": False, "input_shape": (SIZE, SIZE, 3)}
        with without_initial_weights(keras):
            model = keras.applications.Xception(**arguments)
        self.functional_class, self.config = type(model), model.get_config()
        for layer in self.config["layers"]:
            layer.pop("build_config", None)  # has shapes
            if "filters" in layer["config"]:
                layer["config"]["filters"] = _THIN[layer["config"]["filters"]]

    def base(self, trainable=lambda number: True):
        model = self.functional_class.from_config(copy.deepcopy(self.config))
        weights = []
        for layer in model.layers:
            for number, variable in enumerate(layer.weights):
                shape = tuple(variable.shape)
                if len(shape) == 1 and number in (0, 3):  # gamma, moving variance
                    weights.append(self.random.uniform(0.6, 1.4, shape))
                elif len(shape) == 1:
                    weights.append(self.random.normal(0, 0.2, shape))
                else:
                    inputs = shape[:2] if shape[3] == 1 else shape[:3]
                    weights.append(self.random.normal(0, (1.5 / np.prod(inputs)) ** 0.5, shape))
        model.set_weights(weights)
        for number, layer in enumerate(model.layers):
            layer.trainable = trainable(number)
        return model

    def dense(self, units, **arguments):
        initializer = self.keras.initializers.RandomNormal(0, 0.02, seed=units)
        arguments = {
            "kernel_initializer": initializer,
            "bias_initializer": initializer,
            **arguments,
        }
        return self.keras.layers.Dense(units, **arguments)

    def functional(self):
        """Keras' guide to transfer learning: augmentation, preprocessing, the base nested."""
        layers = self.keras.layers
        augmentation = self.keras.Sequential(
            [layers.RandomFlip("horizontal"), layers.RandomRotation(0.1)]
        )
        images = self.keras.Input((SIZE, SIZE, 3))
        x = self.keras.applications.xception.preprocess_input(augmentation(images))
        base = self.base()
        base.trainable = False
        x = layers.GlobalAveragePooling2D()(base(x, training=False))
        x = layers.Dropout(0.2)(x)
        return self.keras.Model(images, self.dense(3, activation="softmax")(x))

    def sequential(self):
        """One sigmoid; statistics of the pixels; the first layers frozen."""
        layers = self.keras.layers
        normalization = layers.Normalization()
        normalization.adapt(self.random.uniform(0, 200, (4, SIZE, SIZE, 3)).astype(np.float32))
        return self.keras.Sequential(
            [
                layers.InputLayer((SIZE, SIZE, 3)),
                normalization,
                self.base(trainable=lambda number: number > 60),
                layers.GlobalAveragePooling2D(),
                self.dense(1, activation="sigmoid"),
            ]
        )

    def flat(self):
        """Logits, with a loss that says so."""
        base = self.base()
        x = self.keras.layers.GlobalAveragePooling2D()(base.outputs[0])
        model = self.keras.Model(base.inputs[0], self.dense(4, use_bias=False)(x))
        loss = self.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(loss=loss)
        return model


KINDS = ("functional", "sequential", "flat")


def pixels():
    """Two images of squares, as (2, height, width, 3) numbers from 0 to 255."""
    random = np.random.RandomState(5)
    coarse = random.uniform(0, 255, (2, 6, 6, 3)).repeat(12, 1).repeat(12, 2)
    return coarse[:, :SIZE, :SIZE].astype(np.float32)


def save(keras, folder):
    """Save each of KINDS in the layouts that this Keras has, with its outputs."""
    models, outputs = Models(keras), {}
    is_keras_3 = getattr(keras, "__version__", "2") >= "3"
    for kind in KINDS:
        model = getattr(models, kind)()
        images = pixels() / 127.5 - 1 if kind == "flat" else pixels()
        outputs[kind] = np.asarray(model(images, training=False))
        model.save(folder / f"{kind}.h5")
        model.save(folder / f"{kind}.keras")
        model.save_weights(folder / f"{kind}.weights.h5")
        if is_keras_3:
            model.save_weights(folder / f"{kind}.weights.json", max_shard_size=2e-5)
            model.save(folder / f"{kind}-folder", zipped=False)
        else:
            model.save_weights(folder / f"{kind}-weights.h5")
    np.savez(folder / "outputs.npz", **outputs)


if __name__ == "__main__":
    import keras

    save(keras, Path(sys.argv[1]))
