"""Keras' Xception, with random weights, and the files it writes."""

import os

import pytest

from model.convert.__main__ import main
from tests.model.convert.networks import randomize


@pytest.fixture(scope="session")
def tf():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    return tensorflow


@pytest.fixture(scope="session")
def keras_model(tf):
    """Xception for images of any size."""
    images = tf.keras.layers.Input((None, None, 3))
    return randomize(tf.keras.applications.Xception(weights=None, input_tensor=images), 0)


@pytest.fixture(scope="session")
def keras_files(keras_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    keras_model.save_weights(folder / "legacy.h5")
    keras_model.save(folder / "whole.h5")
    keras_model.save_weights(folder / "new.weights.h5")
    keras_model.save(folder / "new.keras")
    return folder


@pytest.fixture(scope="session")
def from_keras(keras_files):
    """The prefix of the checkpoint made from legacy.h5."""
    prefix = str(keras_files / "legacy")
    assert main(["keras", str(keras_files / "legacy.h5"), prefix]) == 0
    return prefix
