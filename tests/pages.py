"""Reads README.md and the pages of docs/, for the tests that hold them to what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """Name of the file that the block shows, where its first line is a comment with one."""
        found = re.match(r"# (\w+\.(?:py|yaml|toml))\n", self.text)
        return found and found[1]

    @property
    def lines(self) -> list[str]:
        """The lines that are not empty; those that end in a backslash go on with the next one."""
        return [line for line in re.sub(r" *\\\n *", " ", self.text).splitlines() if line.strip()]


def blocks(*pages: Path) -> list[Block]:
    """The fenced blocks of pages, in order."""
    fenced = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
    return [Block(page, *found) for page in pages for found in fenced.findall(page.read_text(encoding="utf-8"))]


def commands(*pages: Path) -> list[str]:
    """The command lines of pages, without the comments behind them."""
    lines = [line for block in blocks(*pages) if block.language == "bash" for line in block.lines]
    return [re.sub(r"\s+#.*$", "", line) for line in lines]


def table(page: Path, start: str) -> dict[str, list[str]]:
    """The first table behind `start`, a heading or a first column: cells of each row by the name in its first one."""
    text = page.read_text(encoding="utf-8")
    rows = re.search(r"(?:^\|.*\n)+", text[text.index(start) :], re.M)
    assert rows is not None, f"{page.name} has no table at {start!r}"
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[0].splitlines()[2:]]
    return {re.findall(r"`(.+?)`", first)[0] if "`" in first else first: rest for first, *rest in cells}
