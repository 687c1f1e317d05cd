"""Images into records, records into batches."""


class DataError(Exception):
    """A data set that can't be used. One line: the file, what is wrong with it, the way out."""
