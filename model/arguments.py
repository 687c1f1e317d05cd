"""What the command lines of this room have in common."""

import argparse


class OneLineParser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def whole(least: int):
    """Return the `type` of an argument that is a whole number from `least` up."""

    def parse(text):
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number >= {least}, not {text!r}")
        return int(text)

    return parse
