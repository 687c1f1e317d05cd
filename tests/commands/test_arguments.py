"""A sweep over the values of every flag of every command: a plan, or one line."""

import argparse
import contextlib
import importlib

import pytest

from log.command import OneLineParser, command
from model.plan import Plan, make_parser

#: Empty strings of unset variables, numbers at the ends of their types, names of odd places.
STRANGE = (
    "", " ", "-", "--", "/", ".", "0", "-1", "1", "0.5", "2147483647", "2147483648", "9" * 30,
    "9" * 5000, "1e-45", "1e38", "1e39", "1e400", "nan", "-inf", "0x10", "1_0", "1,2", "1,,2", ",",
    "1,", "0, 1", "\u0663", "\u00bd", "a\nb", "\udcff", "\u00e9" * 300, "None", "[]", "~", "$HOME",
    "3,1000000,1000000", "3,0,0", "3,1", "0,0,0", "1e400,1,1", "x,1", "x,-1", "/dev/null",
)  # fmt: skip
#: Each command with what it can't do without.
COMMANDS = {
    "model.evaluate": "m 1 --data-val v.rec",
    "model.predict": "m 1 x.png",
    "model.quantize": "m 1 out --calibrate x.rec",
    "model.selftest.__main__": "",
    "data.pack": "images out",
    "data.verify": "tests/commands/__init__.py",
    "data.imagenet.prepare": "--train x --val y",
    "log.plot_curves": "x.log",
}


def flags_of(parser):
    """Return the flags of a parser that take a value."""
    return sorted(
        option
        for action in parser._actions
        if action.option_strings and action.nargs != 0
        for option in action.option_strings
        if option.startswith("--")
    )


@contextlib.contextmanager
def one_line_or_none(capsys, case):
    """The body runs to its end, or ends with exit code 2 and one line that names the flag."""
    capsys.readouterr()
    try:
        yield
    except SystemExit as stop:
        error = capsys.readouterr().err
        assert stop.code == 2 and error.count("\n") == 1 and ": error: " in error, (case, error)
        assert len(error) < 11_000, case
    except BaseException as error:
        raise AssertionError(f"{case}: {error!r}") from error


@pytest.mark.parametrize("flag", flags_of(make_parser()))
def test_flags_of_the_script(flag, capsys):
    for value in STRANGE:
        for argv in ([f"{flag}={value}"], [flag, value]):
            with one_line_or_none(capsys, argv):
                Plan.of(["--gpus=", *argv])


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_of_other_commands(name, capsys, monkeypatch):
    module, words = importlib.import_module(name), COMMANDS[name].split()
    parsers = []
    parse = OneLineParser.parse_args

    def parse_args(self, *args):
        parsers.append(self)
        return parse(self, *args)

    monkeypatch.setattr(OneLineParser, "parse_args", parse_args)
    assert isinstance(module.parse_arguments(words), argparse.Namespace)
    flags = flags_of(parsers[0])
    assert flags
    for flag in flags:
        for value in STRANGE:
            # In command(), as it is called: a name may be too long for the disk.
            with one_line_or_none(capsys, f"{name} {flag}={value!r}"), command(name):
                module.parse_arguments([*words, f"{flag}={value}"])


def test_lists_of_numbers_may_have_spaces():
    plan = Plan.of(["--gpus= 0, 1 ", "--lr-steps", "2, 3", "--rgb-mean", "1, 2, 3"])
    assert plan.devices.gpus == (0, 1)
    assert plan.training.lr_steps == (2, 3)
    assert plan.data.rgb_mean == (1, 2, 3)
