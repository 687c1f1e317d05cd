"""A trained network at work: scored, asked, made smaller. To be imported after
`model.devices.import_mxnet`."""

import contextlib
from typing import Iterator

import mxnet as mx

from model import ModelError, mxnet_reason


@contextlib.contextmanager
def mxnet_errors(name: object) -> Iterator[None]:
    """Raise a ModelError, "name: reason", for an MXNetError. name : what MXNet works on."""
    try:
        yield
    except mx.base.MXNetError as error:
        raise ModelError(f"{name}: {mxnet_reason(error)}") from None
