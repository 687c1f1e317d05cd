"""What MXNet raises, in one line."""

import contextlib
from typing import Iterator

from model import ModelError, mxnet_reason


@contextlib.contextmanager
def mxnet_errors(name: object) -> Iterator[None]:
    """Raise a ModelError, "name: reason", for what MXNet raises. name : what MXNet works on."""
    try:
        yield
    except RuntimeError as error:  # MXNetError is one, and simple_bind raises it as it is
        raise ModelError(f"{name}: {mxnet_reason(error)}") from None
