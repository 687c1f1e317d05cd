"""The flags of train_xception.py as tables, made from --help.

    python -m tests.flags

writes them between the two markers of model/FLAGS.md; a test compares them with the parser.
"""

import os
import re
import sys
from pathlib import Path
from unittest import mock

from model.plan import make_parser

PAGE = Path(__file__).parent.parent / "model" / "FLAGS.md"
BEGIN = "<!-- The flags: python -m tests.flags writes them. -->\n"
END = "<!-- The end of the flags. -->\n"

# Nothing that is told is as long: --help then has a line for each text, in every Python.
_WIDTH = "10000"
_DEFAULT = re.compile(r"^(.*?) ?\((default.*)\)$")


def groups() -> list:
    """Return (title, description, [(flag, default, meaning)]) of each group of --help."""
    with mock.patch.dict(os.environ, COLUMNS=_WIDTH):
        text = make_parser().format_help()
    found = []
    for section in text.split("\n\n"):
        title, *lines = section.splitlines()
        if title.endswith(":") and lines and not lines[0].startswith("  -h"):
            found.append((title[:-1], [], []))
        elif found and not title.startswith("  "):
            raise ValueError(f"not a group of --help: {title}")
        else:
            lines = [title, *lines]
        for line in lines if found else ():
            if line.startswith("  -"):
                flag, _, meaning = line.strip().partition("  ")
                found[-1][2].append([flag, meaning.strip()])
            elif line.startswith("   "):
                found[-1][2][-1][1] = line.strip()
            else:
                found[-1][1].append(line.strip())
    return [
        (title, " ".join(told), [(flag, *_split(meaning)) for flag, meaning in flags])
        for title, told, flags in found
    ]


def _split(meaning) -> tuple:
    """Return (default, the rest) of what --help says of a flag."""
    rest, default = _DEFAULT.match(meaning).groups()
    return default[len("default") :].lstrip(": "), rest


def tables() -> str:
    """Return what stands between the markers."""
    parts = []
    for title, told, flags in groups():
        rows = "".join(
            f"| `{_cell(flag)}` | {_marked(default)} | {_marked(meaning)} |\n"
            for flag, default, meaning in flags
        )
        told = f"{_marked(told[0].upper() + told[1:])}.\n\n" if told else ""
        parts.append(
            f"<details>\n<summary>{title}</summary>\n\n{told}"
            f"| flag | default | meaning |\n| --- | --- | --- |\n{rows}\n</details>\n"
        )
    return "\n" + "\n".join(parts) + "\n"


def _cell(text):
    return text.replace("|", r"\|")


def _marked(text):
    """Markdown that shows `text`, flags as code."""
    text = _cell(text).replace("<", "&lt;").replace("*", r"\*")
    return re.sub(r"--[a-z][a-z-]*[a-z]=?", r"`\g<0>`", text)


def parts_of(page: str) -> tuple:
    """Return (what is before the tables, the tables, what is after them)."""
    before, rest = page.split(BEGIN)
    between, after = rest.split(END)
    return before, between, after


def main() -> int:
    before, _, after = parts_of(PAGE.read_text())
    PAGE.write_text(before + BEGIN + tables() + END + after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
