"""Whether a value that was read, as from JSON, has the form that the code relies on.

For example:

    START = schema.entries({"epoch": schema.whole(), "lr": schema.optional(schema.number())})
    start = read_json(path, LogError, START)
"""

import math
from typing import Any, Callable, Mapping, Optional


class Mismatch(Exception):
    """Says which entry is not what."""


#: Raises Mismatch for a value that is not of the form. The text is the entry's name.
Form = Callable[[Any, str], None]


def problem(value: Any, form: Form) -> Optional[str]:
    """Return in what a value differs from a form, None if it does not."""
    try:
        form(value, "")
    except Mismatch as mismatch:
        return str(mismatch)
    return None


def one_of(what: str, good: Callable[[Any], bool]) -> Form:
    """The form of values for which `good` is true. what : the words for them."""

    def form(value: Any, where: str) -> None:
        if not good(value):
            text = repr(value)
            text = text if len(text) <= 40 else f"{text[:37]}..."
            raise Mismatch(f"{where or 'it'} must be {what}, not {text}")

    return form


anything = one_of("anything", lambda value: True)
text = one_of("a text", lambda value: isinstance(value, str))
true_or_false = one_of("true or false", lambda value: isinstance(value, bool))


def whole(least: int = 0, most: int = 2**63 - 1) -> Form:
    def good(value: Any) -> bool:
        return type(value) is int and least <= value <= most

    return one_of(f"a whole number from {least} up", good)


def number(least: float = -math.inf, most: float = math.inf) -> Form:
    """Numbers in [least, most]. Without bounds NaN is one: a run that diverged has it."""

    def good(value: Any) -> bool:
        if type(value) not in (int, float):
            return False
        return least <= value <= most or (math.isnan(value) and least == -math.inf)

    return one_of("a number", good)


def optional(form: Form) -> Form:
    """None, or what `form` is."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            form(value, where)

    return check


def any_of(*forms: Form) -> Form:
    """What one of the forms is."""

    def check(value: Any, where: str) -> None:
        if all(problem(value, form) for form in forms[:-1]):
            forms[-1](value, where)

    return check


def all_of(*forms: Form) -> Form:
    """What each of the forms is."""

    def check(value: Any, where: str) -> None:
        for form in forms:
            form(value, where)

    return check


def list_of(form: Form, length: Optional[int] = None, least: int = 0) -> Form:
    """A list of values that are all of one form. length : how many. least : no fewer."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or length not in (None, len(value)) or len(value) < least:
            count = f"{least} or more" if length is None else f"{length}"
            _raise(where, f"a list of {count}" if length or least else "a list", value)
        for i, each in enumerate(value):
            form(each, f"{where}[{i}]")

    return check


def tuple_of(*forms: Form) -> Form:
    """A list of values that are each of their own form."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or len(value) != len(forms):
            _raise(where, f"a list of {len(forms)}", value)
        for i, (each, form) in enumerate(zip(value, forms)):
            form(each, f"{where}[{i}]")

    return check


def map_of(form: Form) -> Form:
    """An object whose entries are all of one form, whatever their names."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            _raise(where, "an object", value)
        for name, each in value.items():
            form(each, _inside(where, name))

    return check


def entries(required: Mapping[str, Form], optional: Optional[Mapping[str, Form]] = None) -> Form:
    """An object with entries of given names; others may be there too."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            _raise(where, "an object", value)
        for name, form in required.items():
            if name not in value:
                raise Mismatch(f"{_inside(where, name)} is missing")
            form(value[name], _inside(where, name))
        for name, form in (optional or {}).items():
            if name in value:
                form(value[name], _inside(where, name))

    return check


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _raise(where: str, what: str, value: Any) -> None:
    one_of(what, lambda value: False)(value, where)
