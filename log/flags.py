"""Flags as fields of frozen dataclasses. Each flag is defined once, as a field.

    @dataclass(frozen=True)
    class Devices(Flags):
        TITLE = "devices"
        kv_store: str = flag("device", "type of the kvstore", choices=KVSTORES, kept=True)

A field's name is that of its flag. `--help`, the settings that a checkpoint keeps, what workers
compare, and README's table are made from the fields.
"""

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any, Callable, ClassVar, Dict, Iterable, Optional, Sequence, Tuple, Type, TypeVar

F = TypeVar("F", bound="Flags")

_NOT_GIVEN = object()


@dataclass(frozen=True)
class Flag:
    """What is known about a flag besides its name and its default.

    kept : a checkpoint keeps the value, because it decides what the run computes.
    before : the value to assume for a checkpoint that was written before the flag existed, as
        `model.plan.before_flags` says.
    shared : all workers of a job must have the same value.
    options : further arguments of add_argument.
    off : a second flag, which sets the value to False, and its help.
    parameter : the name of what it sets elsewhere, such as an argument of ImageRecordIter.
    """

    help: str
    kept: bool
    shared: bool
    options: Dict[str, Any]
    off: Optional[Tuple[str, str]]
    parameter: Optional[str]
    before: Any


class UsageError(Exception):
    """Flags that contradict each other. The message is one line and names them."""


def flag(
    default: Any,
    help: str,
    type: Optional[Callable[[str], Any]] = None,
    metavar: Optional[str] = None,
    *,
    kept: bool = False,
    shared: Optional[bool] = None,
    off: Optional[Tuple[str, str]] = None,
    parameter: Optional[str] = None,
    before: Any = None,
    **options: Any,
) -> Any:
    """Return the dataclass field of a flag. A default of False makes a switch.

    type, metavar, options : arguments of add_argument; the others : as for `Flag`. By default
    `shared` is as `kept`, and `before` is the default.
    """
    if default is False:
        options["action"] = "store_true"
    else:
        options.update(type=type, metavar=metavar)
    shared = kept if shared is None else shared
    before = default if before is None else before
    metadata = Flag(help, kept, shared, options, off, parameter, before)
    return dataclasses.field(default=default, metadata={"flag": metadata})


@dataclass(frozen=True)
class Flags:
    """Base of a group of flags, a frozen dataclass."""

    #: Heading of the group in --help, and the text below it.
    TITLE: ClassVar[str]
    DESCRIPTION: ClassVar[Optional[str]] = None

    @classmethod
    def flags(cls) -> Iterable[Tuple[str, Any, Flag]]:
        """Yield (name of the field, default, Flag) of each flag."""
        for field in dataclasses.fields(cls):
            if "flag" in field.metadata:
                yield field.name, field.default, field.metadata["flag"]

    @classmethod
    def add_to(cls, parser: argparse.ArgumentParser) -> None:
        """Add the group to a parser."""
        group = parser.add_argument_group(cls.TITLE, cls.DESCRIPTION)
        for name, default, known in cls.flags():
            group.add_argument(spelled(name), default=default, help=known.help, **known.options)
            if known.off:
                text, help = known.off
                group.add_argument(
                    text, dest=name, action="store_false", default=argparse.SUPPRESS, help=help
                )

    @classmethod
    def of(cls: Type[F], values: Dict[str, Any]) -> F:
        """Return the group with the values of its fields, which are taken by name."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})

    def values(self) -> Dict[str, Any]:
        """Return the value of each flag, as JSON holds it (tuples as lists)."""
        named = {name: getattr(self, name) for name, _, _ in self.flags()}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in named.items()}


def spelled(name: str) -> str:
    """Return the flag of a field."""
    return f"--{name.replace('_', '-')}"


def parse(
    parser: argparse.ArgumentParser, groups: Sequence[Type[Flags]], argv: Optional[Sequence[str]]
) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Parse a command line. Return (all values, those that were given), by the names of fields.

    A flag counts as given even if its value is the default.
    """
    defaults = {name: default for group in groups for name, default, _ in group.flags()}
    parsed = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(defaults, _NOT_GIVEN)))
    given = {name: value for name, value in vars(parsed).items() if value is not _NOT_GIVEN}
    return {**defaults, **given}, given
