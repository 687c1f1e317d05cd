"""Keras' Xception, read and written with h5py alone: neither Keras nor TensorFlow is needed."""

from model.convert.keras.layers import SYMBOL_ARGUMENTS, keras_layers

__all__ = ["SYMBOL_ARGUMENTS", "keras_layers"]
