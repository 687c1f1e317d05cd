"""Images into records, records into batches."""

from log import UserError


class DataError(UserError):
    """A data set that can't be used."""
