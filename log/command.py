"""What all commands share: arguments, errors in one line, exit codes, output that can't be written.

A command:

    def main(argv=None) -> int:
        with command("data.verify") as outcome:
            args = parse_arguments(argv)
            ...                    # what is wrong until here ends with exit code 2
            outcome.begun()
            ...                    # from here on with 1
        return outcome.code
"""

import argparse
import codecs
import contextlib
import difflib
import errno
import io
import math
import os
import re
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, Callable, Iterator, NoReturn, Optional, TextIO, Tuple, TypeVar, Union, cast

from log import NO_PACKAGES, Interrupted, UserError
from log.files import os_reason
from log.machine import usable_cores
from log.notices import Notices

T = TypeVar("T")

#: The largest whole number that MXNet takes where it wants an int.
LARGEST_INT = 2**31 - 1

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
def command(
    prog: str, interrupted: Optional[str] = None, *, writes_files: bool = False
) -> Iterator[Outcome]:
    """Run the body of a command, and turn what ends it into one line and an exit code.

    0: done. 2: arguments or inputs can't be used (`UserError`, `OSError`, not enough memory), or a
    package is not installed. 1: the same after `begun`, or standard output can't be written: its
    disk is full, its reader has ended. 128 + n: ended by signal n. Lines go to standard error as
    "prog: error: ...".

    interrupted : the line for Ctrl-C, after "prog: ".
    writes_files : the command is there for the files that it writes: where standard output can't
        be written, it writes them first, and then ends with 1. Other commands end at once.

    Standard files that are closed (`>&-`) are opened on /dev/null: nothing was to be printed.
    Names that the encoding of standard output lacks are printed escaped.
    """
    outcome = Outcome()
    _open_closed_files()
    output = _Stream(sys.stdout, ends=not writes_files)
    # What can't be written to standard error is lost, and nothing else is.
    errors = _Stream(sys.stderr, ends=False)
    with redirect_stdout(cast(TextIO, output)), redirect_stderr(cast(TextIO, errors)):
        try:
            yield outcome
            output.flush()
        except OutputError as error:
            output.failed = error
        except UserError as error:
            outcome.code = outcome.failure
            print_error(prog, str(error))
        except OSError as error:
            outcome.code = outcome.failure
            print_error(prog, os_reason(error))
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] in _OWN:
                raise
            outcome.code = outcome.failure
            print_error(prog, f"{error}: {NO_PACKAGES}")
        except MemoryError:
            outcome.code = outcome.failure
            print_error(prog, "not enough memory")
        except Interrupted as stop:
            outcome.code = 128 + stop.signal
        except KeyboardInterrupt:
            outcome.code = 128 + signal.SIGINT
            if interrupted:
                print(f"{prog}: {interrupted}", file=sys.stderr)
        except SystemExit:
            # Of a parser: --help is printed, or the error.
            if output.could_flush():
                raise
        if not output.could_flush():
            outcome.code = outcome.code or 1
            if output.failed and output.failed.errno != errno.EPIPE:  # as in `... | head`
                print_error(prog, f"standard output: {output.failed}")


#: This project's packages: one of their modules that is missing is a fault of the code.
_OWN = ("data", "log", "model", "tests")


def print_error(prog: str, message: str) -> None:
    """Print an error as one line to standard error, whatever the names in it hold."""
    print(f"{prog}: error: {one_line(message)}", file=sys.stderr)


def print_notices(prog: str, notices: Notices) -> None:
    """Print each notice as one line to standard error."""
    for notice in notices:
        print(f"{prog}: {one_line(str(notice))}", file=sys.stderr)


# Controls and line separators, except the tab, which log lines have; bytes that are not text.
_BREAKS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def one_line(text: str) -> str:
    r"""Return a text with newlines and other controls, as a file name may hold, written \n."""
    return _BREAKS.sub(lambda found: repr(found[0])[1:-1], text)


# Standard output and error


class OutputError(Exception):
    """Standard output can't be written."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror or str(error))
        self.errno = error.errno


def raising(stream: TextIO) -> TextIO:
    """Return the standard output of `command` for a log, which deals with what can't be written by
    itself: writing raises OutputError, and the command does not fail. Other streams as they are."""
    return cast(TextIO, _Stream(stream.stream, True)) if isinstance(stream, _Stream) else stream


class _Stream:
    """Standard output or error, whose failures can be told from those of files. Once it has failed,
    what is written to it goes nowhere.

    ends : raise OutputError when it fails; else continue, and keep the error as `failed`.
    """

    def __init__(self, stream: TextIO, ends: bool) -> None:
        self.stream = stream
        self._ends = ends
        self.failed: Optional[OutputError] = None
        with contextlib.suppress(AttributeError):  # a test's
            if stream.errors in ("strict", "surrogateescape"):
                cast(io.TextIOWrapper, stream).reconfigure(errors=_ESCAPED)

    def write(self, text: str) -> int:
        return self._try(lambda: self.stream.write(text), len(text))

    def flush(self) -> None:
        self._try(self.stream.flush, None)

    def could_flush(self) -> bool:
        """Return False where anything that was to be printed is lost."""
        try:
            self.flush()
        except OutputError as error:
            self.failed = error
        return self.failed is None

    def _try(self, act: Callable[[], T], otherwise: T) -> T:
        try:
            return act()
        except OSError as error:
            # What is still in its buffer goes nowhere, too, when Python ends.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)
            failed = OutputError(error)
            if self._ends:
                raise failed from None
            self.failed = self.failed or failed
            return otherwise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _open_closed_files() -> None:
    """Open /dev/null where a standard file is closed: else the next file that is opened has its
    number, and what a library in C prints ends up in it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115


def _escape(error: UnicodeError) -> Tuple[Union[str, bytes], int]:
    """Bytes of a file name that are no text as they are; other characters as \\uXXXX."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


_ESCAPED = "xception-escape"
codecs.register_error(_ESCAPED, _escape)


# Parsers


class OneLineParser(argparse.ArgumentParser):
    """Prints what is wrong with an argument in one line."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        for word in words[: words.index("--")] if "--" in words else words:
            # argparse takes the value for the end of the flags, and breaks.
            if re.fullmatch(r"--[\w-]+=--", word):
                self.error(f"argument {word[:-3]}: must not be '--'")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
        if unknown:
            for flag in difflib.get_close_matches(unknown[1], self._option_string_actions, 1, 0.7):
                message += f": did you mean {flag}?"
        # As commands say it later, not "python -m ...".
        prog = self.prog[len("python -m ") :] if self.prog.startswith("python -m ") else self.prog
        self.exit(2, f"{prog}: error: {one_line(message)}\n")


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help that ends with each default. One of None is in the words of the help itself."""

    def _get_help_string(self, action: argparse.Action) -> Optional[str]:
        return action.help if action.default is None else super()._get_help_string(action)


# Types of arguments


def whole(least: int, most: int = LARGEST_INT) -> Callable[[str], int]:
    """Return a parser of an argument that is a whole number from `least` to `most`."""

    def parse(text: str) -> int:
        digits = text.isascii() and text.isdigit()
        # Python 3.11 does not convert thousands of digits.
        if digits and (len(text) > 4000 or int(text) > most):
            raise argparse.ArgumentTypeError(f"must be a whole number <= {most}, not {text!r}")
        if not digits or int(text) < least:
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


def probability(text: str) -> float:
    return number(text, "from 0 to 1", lambda value: 0 <= value <= 1)


def below_one(text: str) -> float:
    return number(text, "in [0, 1)", lambda value: 0 <= value < 1)


def numbers(text: str, what: str, parse: Callable[[str], T]) -> Tuple[T, ...]:
    """Parse numbers with commas, and maybe spaces, between them; none of an empty text."""
    try:
        return tuple(parse(word.strip()) for word in text.split(",") if text.strip())
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
