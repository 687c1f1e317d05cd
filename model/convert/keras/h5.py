"""h5py, which only Keras' files need."""

from types import ModuleType

from model import ModelError


def h5py_module() -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise ModelError("Keras' files need h5py: pip install h5py==3.11.0") from None
    return h5py
