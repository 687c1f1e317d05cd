"""Checkpoints, and everything that reads, writes or runs a model."""


class ModelError(Exception):
    """A checkpoint or device that can't be used. One line: what, why, the way out."""


class Interrupted(Exception):
    """A signal (`signal`, its number) ended a run; its checkpoint is written."""

    def __init__(self, number):
        super().__init__(number)
        self.signal = number
