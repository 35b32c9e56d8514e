"""What a judge has said: read from its reply, and kept on disk."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from rxrl.caching import DiskCache

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


class Verdicts(DiskCache):
    """Numbers by key in a file, which several processes may share; without a file it keeps nothing.

    Args:
        path: The file; its folder is made. None keeps nothing.

    Raises:
        ConfigError: The file cannot be used.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__(path, "Verdicts of a judge", "verdicts", "score REAL")

    def get(self, key: str) -> float | None:
        """The verdict kept under `key`; None where there is none."""
        found = super().get(key)
        return float(found) if isinstance(found, int | float) and math.isfinite(found) else None

    def put(self, key: str, value: float) -> None:
        """Keeps a verdict that is a number; the first one stays."""
        if math.isfinite(value):
            super().put(key, value)
