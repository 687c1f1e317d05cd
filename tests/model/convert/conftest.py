"""Keras' Xception, with random weights, and the files it writes."""

import os
import subprocess

import pytest

from model.convert.__main__ import main
from model.convert.keras import layers, structure
from tests.model.convert import keras_models
from tests.model.convert.networks import randomize
from tests.runs import ROOT

KERAS_3 = ROOT / ".venv-keras3" / "bin" / "python"


@pytest.fixture(scope="session")
def tf():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    return tensorflow


# Keras' own Xception


@pytest.fixture(scope="session")
def keras_model(tf):
    """Xception for images of any size."""
    images = tf.keras.layers.Input((None, None, 3))
    return randomize(tf.keras.applications.Xception(weights=None, input_tensor=images), 0)


@pytest.fixture(scope="session")
def keras_files(keras_model, once):
    """A folder with legacy.h5, new.keras, and the checkpoint that the first is converted to."""

    def make(folder):
        keras_model.save_weights(folder / "legacy.h5")
        keras_model.save(folder / "new.keras")
        assert main(["keras", str(folder / "legacy.h5"), str(folder / "legacy")]) == 0

    return once("keras", make)


@pytest.fixture
def from_keras(keras_files):
    """The prefix of the checkpoint made from legacy.h5."""
    return str(keras_files / "legacy")


# Xceptions of thin filters


@pytest.fixture
def thin(monkeypatch):
    """Have Xceptions of thin filters converted in the place of Keras' own."""
    for module in (layers, structure):
        monkeypatch.setattr(module, "ORIGINAL_FILTERS", keras_models.FILTERS)
    monkeypatch.setitem(layers.SYMBOL_ARGUMENTS, "filter_list", keras_models.FILTERS)


@pytest.fixture(scope="session")
def models(tf):
    return keras_models.Models(tf.keras)


@pytest.fixture(scope="session")
def base(models):
    return models.base()


@pytest.fixture(scope="session")
def saved(once, request):
    """Return the folder in which a version of Keras has saved the models."""

    def folder_of(version):
        if version == "2":
            keras = request.getfixturevalue("tf").keras
            return once("keras2-models", lambda folder: keras_models.save(keras, folder))
        if not KERAS_3.exists():
            pytest.skip("no Keras 3: ./run.sh test installs it")
        return once("keras3-models", _save_with_keras_3)

    return folder_of


def _save_with_keras_3(folder):
    process = subprocess.run(
        [KERAS_3, keras_models.__file__, folder],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-2000:]
