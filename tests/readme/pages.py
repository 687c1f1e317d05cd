"""The documentation: README.md and a page for each room, as the tests read them."""

import re
import subprocess

from tests.runs import ROOT

#: A page, by its path from the root -> its text; the front page first.
PAGES = {
    name: (ROOT / name).read_text()
    for name in sorted(
        subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout.split(),
        key=lambda name: (name != "README.md", name),
    )
}
FRONT = PAGES["README.md"]
TEXT = "\n".join(PAGES.values())


def errors() -> list:
    """Return the messages that the pages explain under "Errors"."""
    sections = re.findall(r"^## Errors\n(.*?)(?=^## |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^- `([^`]+)`$", "\n".join(sections), flags=re.MULTILINE)


def anchors(text: str) -> set:
    """Return the anchors of a page's headings, as GitHub and GitLab make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}
