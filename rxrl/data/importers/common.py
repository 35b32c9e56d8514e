"""What the importers share: their result, and cutting text at sentence borders."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from rxrl.data.rows import RefusedRow
from rxrl.errors import DataError
from rxrl.types import Conversation

_SENTENCE = re.compile(r"(?<=[.!?])[\"'\u201d\u2019)]*\s+")
_CLAUSE = re.compile(r"(?<=[,;:])\s+")


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

    def checked(self, keep_valid: bool) -> ImportResult:
        """Returns itself, or raises if rows were refused and the rest is not wanted.

        Raises:
            DataError: Rows were refused and `keep_valid` is false, or nothing is left.
        """
        if self.refused and not keep_valid:
            more = f" ({len(self.refused) - 1} more rows do not fit either)" if len(self.refused) > 1 else ""
            raise DataError(f"{self.refused[0]}{more}. Mend the rows, or keep only the valid ones (--keep-valid).")
        if not self.conversations:
            raise DataError("The import gave no conversation: check the path and the limits.")
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


def read_text(path: Path) -> str:
    """Text of a UTF-8 file, without a byte-order mark.

    Raises:
        DataError: The file is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): convert it first.") from error


def one_line(text: str) -> str:
    """`text` with all runs of white space turned into single spaces."""
    return " ".join(text.split())


def cut(text: str, longest: int, measure: Callable[[str], int]) -> list[str]:
    """Cuts text at sentence borders into pieces of at most `longest`, as few as possible.

    A sentence that is too long by itself is cut at its clauses, and where that is not enough, between words.

    Args:
        text: Any text.
        longest: Largest length of a piece, in units of `measure`; a single word may be longer.
        measure: Length of a text.
    """
    pieces = [one_line(sentence) for sentence in _split(_SENTENCE, text)]
    for finer in (lambda piece: _split(_CLAUSE, piece), str.split):
        pieces = [part for piece in pieces for part in ([piece] if measure(piece) <= longest else _pack(finer(piece), longest, measure))]
    return _pack(pieces, longest, measure)


def _pack(parts: list[str], longest: int, measure: Callable[[str], int]) -> list[str]:
    packed: list[str] = []
    for part in parts:
        joined = f"{packed[-1]} {part}" if packed else part
        if packed and measure(joined) <= longest:
            packed[-1] = joined
        else:
            packed.append(part)
    return packed


def _split(border: re.Pattern[str], text: str) -> list[str]:
    starts = [0, *(match.end() for match in border.finditer(text)), len(text)]
    return [part for start, end in pairwise(starts) if (part := text[start:end].strip())]
