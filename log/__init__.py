"""What a run says: lines, numbers, curves."""


class LogError(Exception):
    """A log that can't be written or read. One line."""
