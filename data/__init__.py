"""Images into records, records into batches."""

import argparse


class DataError(Exception):
    """A data set that can't be used. One line: the file, what is wrong with it, the way out."""


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with an argument in one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def whole(least: int):
    """Return a parser of an argument that is a whole number from `least` up."""

    def parse(text):
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number >= {least}, not {text!r}")
        return int(text)

    return parse
