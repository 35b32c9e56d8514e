"""What a judge has said: read from its reply, and kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import sqlite3
from pathlib import Path
from typing import Any

from rxrl.errors import ConfigError

_logger = logging.getLogger(__name__)
LONGEST_REPLY = 1 << 16
"""Characters of a reply; what is longer is no verdict."""
_HUGE = 10**300
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")


def parse_verdict(reply: str) -> float | None:
    """The score in a judge's reply: the field `score` of the JSON object that is the reply, or that ends it.

    A number in prose is none, nor is a scale ("2 out of 10"): the reply may quote the answer, and the answer may hold anything.

    Args:
        reply: Any text.

    Returns:
        A finite number; None where there is no such object, something other than a code fence follows it, or several contradict
        each other.
    """
    text = reply.strip().rstrip("`").rstrip()
    if not text.endswith("}") or len(text) > LONGEST_REPLY:
        return None
    scores: set[float | None] = set()
    end, complete, decoder = 0, False, json.JSONDecoder(object_pairs_hook=_Object, parse_constant=float)
    while (start := text.find("{", end)) >= 0:
        try:
            found, end = decoder.raw_decode(text, start)
        except RecursionError:
            return None
        except ValueError:
            end, complete = start + 1, False
            continue
        scores |= {_number(value) for name, value in found.pairs if name == "score"}
        complete = end == len(text)
    return scores.pop() if complete and len(scores) == 1 else None


class _Object:
    """A JSON object with all its fields, those of one name included."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        value = float(value) if _NUMBER.fullmatch(value.strip()) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = float(value) if abs(value) < _HUGE else math.inf
    return number if math.isfinite(number) else None


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
        self._file = file = path.expanduser()
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
        try:
            row = self._database.execute("SELECT score FROM verdicts WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)
            return None
        return float(row[0]) if row and isinstance(row[0], int | float) and math.isfinite(row[0]) else None

    def put(self, key: str, score: float) -> None:
        """Keeps a verdict; the first one stays. A file that cannot be written any more loses the next verdicts, not the run."""
        if self._database is not None and math.isfinite(score):
            try:
                self._database.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", (key, score))
            except sqlite3.Error as error:
                self._give_up(error)

    def _give_up(self, error: sqlite3.Error) -> None:
        _logger.warning("Verdicts of a judge are not kept for this batch: %s in %s.", error, self._file)
        self.close()
        self._database = None

    def close(self) -> None:
        """Closes the file."""
        if self._database is not None:
            self._database.close()
