"""What the importers share: their result, and cutting text at sentence borders."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from rxrl.data.rows import RefusedRow
from rxrl.errors import DataError
from rxrl.types import Conversation

# Chinese and Japanese punctuation, which no space follows, and what may close after it.
_CLOSING = "\u300d\u300f\u201d\u2019\uff09"
_WIDE_STOPS, _WIDE_COMMAS = "\u3002\uff01\uff1f", "\uff0c\uff1b\uff1a\u3001"
_SENTENCE = re.compile(rf"(?<=[.!?])[\"'\u201d\u2019)]*\s+|(?<=[{_WIDE_STOPS}])[{_CLOSING}]*\s*")
_CLAUSE = re.compile(rf"(?<=[,;:])\s+|(?<=[{_WIDE_COMMAS}])\s*")
_ENDS_WIDE = re.compile(rf"[{_WIDE_STOPS}{_WIDE_COMMAS}][{_CLOSING}]*\Z")


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import gave.

    Attributes:
        conversations: The conversations, in the order of the source.
        counts: What was read and what was left out by choice, by name.
        refused: Rows that do not fit, with file, row number and reason.
    """

    conversations: list[Conversation]
    counts: Mapping[str, int] = field(default_factory=dict)
    refused: tuple[RefusedRow, ...] = ()

    def checked(self, source: str | Path, keep_valid: bool) -> ImportResult:
        """Returns itself, or raises if rows of `source` were refused and the rest is not wanted.

        Raises:
            DataError: Rows were refused and `keep_valid` is false, or nothing is left.
        """
        if self.refused and not keep_valid:
            more = f" ({len(self.refused) - 1} more rows do not fit either)" if len(self.refused) > 1 else ""
            raise DataError(f"{self.refused[0]}{more}. Mend the rows, or keep only the valid ones (--keep-valid).")
        if not self.conversations:
            first = f" (the first of {len(self.refused)} that were refused: {self.refused[0]})" if self.refused else ""
            raise DataError(f"{source} gave no conversation{first}: check the path and the limits.")
        return self


def existing(path: str | Path, what: str) -> Path:
    """Returns `path` as a `Path`.

    Raises:
        DataError: Nothing is there.
    """
    found = Path(path)
    if not found.exists():
        raise DataError(f"There is no {what} at {found}: check the path.")
    return found


def one_line(text: str) -> str:
    """`text` with all runs of white space turned into single spaces."""
    return " ".join(text.split())


def cut(text: str, longest: int, measure: Callable[[str], int]) -> list[str]:
    """Cuts text at sentence borders into pieces of at most `longest`, as few as possible.

    A sentence that is too long by itself is cut at its clauses, where that is not enough, between words, and at last within words: text
    may have no spaces.

    Args:
        text: Any text.
        longest: Largest length of a piece, in units of `measure`; a single character may be longer.
        measure: Length of a text.
    """
    pieces = [one_line(sentence) for sentence in _split(_SENTENCE, text)]
    for finer in (lambda piece: _split(_CLAUSE, piece), str.split, lambda word: _sliced(word, longest, measure)):
        pieces = [part for piece in pieces for part in ([piece] if measure(piece) <= longest else pack(finer(piece), longest, measure))]
    return pack(pieces, longest, measure)


def pack(parts: Sequence[str], longest: int, measure: Callable[[str], int]) -> list[str]:
    """Joins neighbours, as many as `longest` allows."""
    packed: list[str] = []
    for part in parts:
        joined = f"{packed[-1]}{'' if _ENDS_WIDE.search(packed[-1]) else ' '}{part}" if packed else part
        if packed and measure(joined) <= longest:
            packed[-1] = joined
        else:
            packed.append(part)
    return packed


def _sliced(word: str, longest: int, measure: Callable[[str], int]) -> list[str]:
    parts: list[str] = []
    while word:
        size = _letters_that_fit(word, longest, measure)
        parts.append(word[:size])
        word = word[size:]
    return parts


def _letters_that_fit(word: str, longest: int, measure: Callable[[str], int]) -> int:
    size = 1
    # Doubling first: the measure of the whole rest, again for each part, would take time with its square.
    while size < len(word) and measure(word[: 2 * size]) <= longest:
        size *= 2
    sizes = range(size, min(2 * size, len(word)) + 1)
    return max(1, size + bisect_right(sizes, longest, key=lambda end: measure(word[:end])) - 1)


def _split(border: re.Pattern[str], text: str) -> list[str]:
    starts = [0, *(match.end() for match in border.finditer(text)), len(text)]
    return [part for start, end in pairwise(starts) if (part := text[start:end].strip())]
