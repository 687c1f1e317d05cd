"""Checkpoints, and everything that reads, writes or runs a model."""

from log import Interrupted, UserError

__all__ = ["Interrupted", "ModelError", "mxnet_reason"]


class ModelError(UserError):
    """A checkpoint or device that can't be used."""


def mxnet_reason(error: Exception) -> str:
    """Return the telling sentence of an MXNetError, which comes with a stack trace around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Not the names of a stack's functions, such as LogMessageFatal or SetDeviceError.
    lines = [line for line in lines if not line.startswith("[bt]")]
    telling = [line for line in lines if "Error" in line or "Check failed" in line] or lines
    return telling[-1] if telling else type(error).__name__
