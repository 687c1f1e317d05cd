"""The page that the self-test prints."""

import textwrap
from typing import Iterable, List, Sequence, Tuple

from model.selftest.setup import Result

_WORDS = {True: "pass", False: "FAIL", None: "-"}
# Columns of a page, and of the names of its lines about the machine.
_WIDTH, _NAMES = 118, 10


def heading(lines: Iterable[Tuple[str, str]]) -> str:
    """Return the lines about the machine, (name, text)."""
    indented = " " * _NAMES
    return "\n".join(
        textwrap.fill(
            f"{name:{_NAMES}}{text}",
            _WIDTH,
            subsequent_indent=indented,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, text in lines
    )


def table(results: Sequence[Result]) -> str:
    """Return a line for each result."""
    width = max((len(result.name) for result in results), default=0)
    return "\n".join(_line(result, width) for result in results)


def _line(result: Result, width: int) -> str:
    must = f" | {result.tolerance}" if result.tolerance else ""
    return f"{_WORDS[result.passed]:4}  {result.name:{width}}  {result.figure}{must}"


def summary(results: Sequence[Result]) -> str:
    """Return the last line: how many failed, and which."""
    failed: List[str] = [result.name for result in results if result.passed is False]
    tried = sum(result.passed is not None for result in results)
    if not tried:
        return "nothing was tried"
    if not failed:
        return f"all {tried} passed"
    return textwrap.fill(f"{len(failed)} of {tried} failed: {'; '.join(failed)}", _WIDTH)
