"""What all commands share: arguments, errors in one line, exit codes."""

import argparse
import contextlib
import difflib
import math
import os
import re
import signal
import sys
from typing import Callable, Iterator, NoReturn, Optional, Tuple, TypeVar

from log import UserError
from log.machine import usable_cores

T = TypeVar("T")

# Errors and exit codes


class Outcome:
    """How a command ends: its exit code, 0 unless something sets or raises otherwise."""

    def __init__(self) -> None:
        self.code = 0
        self.failure = 2

    def begun(self) -> None:
        """From here on an error is a failed run (exit code 1), not an argument (2)."""
        self.failure = 1


@contextlib.contextmanager
def command(prog: str, interrupted: Optional[str] = None) -> Iterator[Outcome]:
    """Run the body of a command, and turn what ends it into one line and an exit code.

        with command("data.verify") as outcome:
            ...
            outcome.begun()
            ...
        return outcome.code

    0: done. 2: arguments or inputs can't be used (`UserError`, `OSError`). 1: the same after
    `begun`, or standard output was closed or full. 128 + n: ended by signal n. Lines go to standard
    error as "prog: error: ...". interrupted : the line for Ctrl-C, after "prog: ".
    """
    outcome = Outcome()
    try:
        yield outcome
        sys.stdout.flush()
    except UserError as error:
        outcome.code = outcome.failure
        print_error(prog, str(error))
    except BrokenPipeError:  # as in `... | head`
        outcome.code = 1
        _discard_output()
    except OSError as error:
        outcome.code = outcome.failure
        name = f"{error.filename}: " if error.filename is not None else ""
        print_error(prog, f"{name}{error.strerror or error}")
    except KeyboardInterrupt:
        outcome.code = 128 + signal.SIGINT
        if interrupted:
            print(f"{prog}: {interrupted}", file=sys.stderr)


def print_error(prog: str, message: str) -> None:
    """Print an error as one line to standard error, whatever the names in it hold."""
    print(f"{prog}: error: {' '.join(message.splitlines())}", file=sys.stderr)


def _discard_output() -> None:
    """Have nothing written to the closed standard output when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# Parsers


class OneLineParser(argparse.ArgumentParser):
    """Prints what is wrong with an argument in one line."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
        if unknown:
            for flag in difflib.get_close_matches(unknown[1], self._option_string_actions, 1, 0.7):
                message += f": did you mean {flag}?"
        self.exit(2, f"{self.prog}: error: {message}\n")


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help that ends with each default. One of None is in the words of the help itself."""

    def _get_help_string(self, action: argparse.Action) -> Optional[str]:
        return action.help if action.default is None else super()._get_help_string(action)


# Types of arguments


def whole(least: int) -> Callable[[str], int]:
    """Return a parser of an argument that is a whole number from `least` up."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number >= {least}, not {text!r}")
        return int(text)

    return parse


def number(text: str, what: str, good: Callable[[float], bool]) -> float:
    """Parse a number for which `good` is true. what : the words for such numbers."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not good(value):
        raise argparse.ArgumentTypeError(f"must be a number {what}, not {text!r}")
    return value


def positive(text: str) -> float:
    return number(text, "above 0", lambda value: 0 < value < math.inf)


def from_zero(text: str) -> float:
    return number(text, "from 0 up", lambda value: 0 <= value < math.inf)


def below_one(text: str) -> float:
    return number(text, "in [0, 1)", lambda value: 0 <= value < 1)


def numbers(text: str, what: str, parse: Callable[[str], T]) -> Tuple[T, ...]:
    """Parse numbers with commas between them; none of an empty text."""
    try:
        return tuple(parse(word) for word in text.split(",") if text)
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"must be {what}, not {text!r}") from None


def add_num_thread_arg(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num-thread",
        type=whole(1),
        default=usable_cores(),
        metavar="N",
        help="threads (default: the cores, %(default)s)",
    )
