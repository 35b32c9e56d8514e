"""Caches that are bounded by the size of what they hold: a few huge texts take no more memory than many short ones."""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Callable, Hashable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from rxrl.errors import ConfigError

_logger = logging.getLogger(__name__)
Function = TypeVar("Function", bound=Callable[..., Any])
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
_ENTRY = 64
"""Size of an entry apart from its texts, in characters."""


class SizedCache(Generic[Key, Value]):
    """The values that were used last, as many as fit.

    Values live in two generations: a full young one becomes the old one, whose values come back when they are used, or go with it.

    Args:
        most: Largest sum of the sizes of all values; a value that is larger is not kept.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._young: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}
        self._held = 0

    def get(self, key: Key, size: int) -> Value | None:
        """The value of a key whose `size` is that with which it was put; None where it is not kept."""
        value = self._young.get(key)
        if value is None and (value := self._old.pop(key, None)) is not None:
            self.put(key, value, size)
        return value

    def put(self, key: Key, value: Value, size: int) -> None:
        """Keeps a value other than None."""
        if 2 * size > self.most:
            return
        if 2 * (self._held + size) > self.most:
            self._old, self._young, self._held = self._young, {}, 0
        self._young[key] = value
        self._held += size

    def clear(self) -> None:
        """Forgets everything."""
        self._young, self._old, self._held = {}, {}, 0

    def __iter__(self) -> Iterator[Key]:
        return iter((*self._young, *self._old))

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


def cached_by_size(most: int) -> Callable[[Function], Function]:
    """Keeps what a function of texts returns, as `functools.lru_cache` does, for arguments of at most `most` characters together."""

    def keeping(function: Function) -> Function:
        cache: SizedCache[Any, Any] = SizedCache(most)

        @wraps(function)
        def found(*key: Any) -> Any:
            value = cache._young.get(key)
            if value is None:
                size = size_of(key)
                value = cache.get(key, size)
                if value is None:
                    value = function(*key)
                    cache.put(key, value, size)
            return value

        found.cache = cache  # type: ignore[attr-defined]
        return cast(Function, found)

    return keeping


def size_of(value: Any) -> int:
    """Characters of all texts in a value, and something for each place."""
    if isinstance(value, str):
        return _ENTRY + len(value)
    return _ENTRY + sum(map(size_of, value)) if isinstance(value, tuple) else _ENTRY


class DiskCache:
    """Values by key in a SQLite file, which several processes may share; without a file it keeps nothing.

    Args:
        path: The file; its folder is made. None keeps nothing.
        what: What is kept, for messages, such as "Verdicts of a judge".
        table: Name of the table.
        column: Name and type of the column that holds the values.
        most: Largest size of the file in bytes, above which the oldest values go; None: no limit.

    Raises:
        ConfigError: The file cannot be used.
    """

    def __init__(self, path: Path | None, what: str, table: str, column: str, *, most: int | None = None) -> None:
        self._database: sqlite3.Connection | None = None
        self._what, self._table, self._column, self._most = what, table, column.partition(" ")[0], most
        if path is None:
            return
        self._file = file = path.expanduser()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(file, timeout=30.0, isolation_level=None)
            self._database.execute(f"CREATE TABLE IF NOT EXISTS {table} (key TEXT PRIMARY KEY, {column} NOT NULL)")
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"{what} cannot be kept in {file}: {error}; choose another file with `cache`.") from error

    @staticmethod
    def key(*parts: object) -> str:
        """What a value depends on, as one short text."""
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def get(self, key: str) -> Any:
        """The value kept under `key`; None where there is none."""
        row = self._run(f"SELECT {self._column} FROM {self._table} WHERE key = ?", key)
        return row[0] if row else None

    def put(self, key: str, value: Any) -> None:
        """Keeps a value; the first one stays. A file that cannot be written any more loses the next values, not the run."""
        self._run(f"INSERT OR IGNORE INTO {self._table} VALUES (?, ?)", key, value)
        if self._most is not None and self._size() > self._most:
            oldest = f"SELECT rowid FROM {self._table} ORDER BY rowid LIMIT (SELECT COUNT(*) / 4 + 1 FROM {self._table})"
            self._run(f"DELETE FROM {self._table} WHERE rowid IN ({oldest})")

    def close(self) -> None:
        """Closes the file."""
        if self._database is not None:
            self._database.close()

    def _size(self) -> int:
        """Bytes of the file that hold something."""
        pages, free, size = (self._run(f"PRAGMA {name}") or (0,) for name in ("page_count", "freelist_count", "page_size"))
        return int((pages[0] - free[0]) * size[0])

    def _run(self, command: str, *values: Any) -> Any:
        """The first row that a command gives; None where there is none, or no file."""
        if self._database is None:
            return None
        try:
            return self._database.execute(command, values).fetchone()
        except sqlite3.Error as error:
            _logger.warning("%s are not kept for now: %s in %s.", self._what, error, self._file)
            self.close()
            self._database = None
            return None
