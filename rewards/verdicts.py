"""What a judge has said: read from its reply, and kept on disk."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sqlite3
from pathlib import Path

from rxrl.errors import ConfigError

_SCORE_KEY = re.compile(r'"score"\s*:\s*"?(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)')
_SCALE = r"(?:\([^()\n]*\)|out of \d+(?:\.\d+)?|from \S+ to \S+)"
"""A scale that stands between the word and the number: "Score (0-10): 7", "Score out of 10: 7"."""
_SCORE_WORD = re.compile(rf"\bscore\b[\s*\"'_]*{_SCALE}?(?:(?!out of|from)[^\d\n(-]){{0,12}}(-?\d+(?:\.\d+)?)", re.IGNORECASE)
_SCORE_IN_BRACKETS = re.compile(r"\bscore\b[\s*\"'_:]*\((-?\d+(?:\.\d+)?)(?:\s*(?:/|out of)\s*\d+)?\)", re.IGNORECASE)
_ALONE = re.compile(r"\s*\**(-?\d+(?:\.\d+)?)\**(?:\s*/\s*\d+)?\.?\s*")


def parse_verdict(reply: str) -> float | None:
    """The number in a judge's reply: `{"score": 7}`, `Score: 7`, or a number that stands alone.

    Args:
        reply: Any text.

    Returns:
        A finite number; None where there is none, or where several contradict each other.
    """
    if alone := _ALONE.fullmatch(reply):
        return float(alone[1])
    for pattern in (_SCORE_KEY, _SCORE_WORD, _SCORE_IN_BRACKETS):
        if found := {float(number) for number in pattern.findall(reply)}:
            return found.pop() if len(found) == 1 else None
    return None


class Verdicts:
    """Numbers by key in a SQLite file, which several processes may share; without a file it keeps nothing.

    Args:
        path: The file; its folder is made. None keeps nothing.

    Raises:
        ConfigError: The file cannot be used.
    """

    def __init__(self, path: Path | None) -> None:
        self._database: sqlite3.Connection | None = None
        if path is None:
            return
        file = path.expanduser()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(file, timeout=30.0, isolation_level=None)
            self._database.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, score REAL NOT NULL)")
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"Verdicts of a judge cannot be kept in {file}: {error}; choose another file with `cache`.") from error

    @staticmethod
    def key(*parts: object) -> str:
        """What a verdict depends on, as one short text."""
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def get(self, key: str) -> float | None:
        """The verdict kept under `key`; None where there is none."""
        if self._database is None:
            return None
        row = self._database.execute("SELECT score FROM verdicts WHERE key = ?", (key,)).fetchone()
        return None if row is None else float(row[0])

    def put(self, key: str, score: float) -> None:
        """Keeps a verdict; the first one stays."""
        if self._database is not None and math.isfinite(score):
            self._database.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", (key, score))

    def close(self) -> None:
        """Closes the file."""
        if self._database is not None:
            self._database.close()
