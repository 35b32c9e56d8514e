"""The end of a session with `--cov`: branch coverage as a table by folder."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

import coverage
import pytest

ROOT = Path(__file__).parents[1]
COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def by_folder() -> dict[str, Counter[str]]:
    """Counts of statements and branches of each folder, as the session has left them in `.coverage`."""
    measured = coverage.Coverage()
    measured.load()
    with TemporaryDirectory() as folder:
        measured.json_report(outfile=str(Path(folder, "all.json")))
        files = json.loads(Path(folder, "all.json").read_text())["files"]
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, file in files.items():
        for folder in (str(PurePath(name).parent), "all"):
            found[folder].update({count: file["summary"][count] for count in COUNTS})
    return found


def share(covered: int, whole: int) -> str:
    return f"{100 * covered / whole:5.1f} %" if whole else "      -"


class CoverageTable:
    """The plug-in of pytest."""

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        folders = by_folder()
        terminalreporter.section("coverage, by folder")
        terminalreporter.line(f"{'':30} {'statements':>20} {'branches':>20}")
        for name, counts in sorted(folders.items(), key=lambda item: (item[0] == "all", item[0])):
            statements, lines, branches, taken = (counts[each] for each in COUNTS)
            terminalreporter.line(f"{name:30} {share(lines, statements)} of {statements:6} {share(taken, branches)} of {branches:6}")
