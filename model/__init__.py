"""Checkpoints, and everything that reads, writes or runs a model."""

from log import UserError


class ModelError(UserError):
    """A checkpoint or device that can't be used."""


class Interrupted(Exception):
    """A signal (`signal`, its number) ended a run; its checkpoint is written."""

    def __init__(self, number):
        super().__init__(number)
        self.signal = number


def mxnet_reason(error) -> str:
    """Return the telling sentence of an MXNetError, which comes with a stack trace around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or "Check failed" in line] or lines
    return telling[-1]
