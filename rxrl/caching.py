"""Caches that are bounded by the size of what they hold: a few huge texts take no more memory than many short ones."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from functools import wraps
from typing import Any, Generic, TypeVar, cast

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
