"""The documents of a source one after the other, however large its files are, and what of it cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rxrl.data.corpora import DOCUMENT_BORDER, ROW_ENDINGS, Row, Shard, ending
from rxrl.data.stores.manifest import Skipped
from rxrl.errors import DataError
from rxrl.reading import look_at, text_blocks

LONGEST = 16_384
"""Most characters of a section: a longer document is cut at an empty line, a line end or a space."""
_EXAMPLES = 100


@dataclass(frozen=True, slots=True)
class Section:
    """A document, or a part of a long one.

    Attributes:
        text: What it says.
        first: Whether a document begins here.
    """

    text: str
    first: bool


class Refusals:
    """What cannot be read: ends the work, or is noted where it is to be skipped.

    Args:
        skip: Whether to go on without it.
        say: Is told each of the first ones in a sentence.

    Attributes:
        count: How many there were.
        examples: The first ones.
    """

    def __init__(self, skip: bool, say: Callable[[str], None]) -> None:
        self._skip, self._say = skip, say
        self.count, self.examples = 0, list[Skipped]()

    def refuse(self, file: str, row: int, reason: str) -> None:
        """Notes a row, or a file as a whole (row 0).

        Raises:
            DataError: It is not to be skipped.
        """
        found = Skipped(file=file, row=row, reason=reason.rstrip("."))
        if not self._skip:
            raise DataError(f"{found}. Mend or remove it, or leave out what cannot be read with --skip-bad.")
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(found)
            if len(self.examples) <= 10:
                self._say(f"Skipped {found}.")

    def refuse_shard(self, shard: Shard, error: DataError, place: str = "") -> None:
        """Notes a shard that cannot be read, from some place on.

        Raises:
            DataError: It is not to be skipped.
        """
        words = str(error).removeprefix(f"{shard.name} ").removesuffix(": check the file.")
        self.refuse(shard.name, 0, f"{place}it {words}")


def readable(shard: Shard, refusals: Refusals) -> bool:
    """Whether a shard can be read at a first look: before hours are spent on those that come before it."""
    if shard.file is None:
        return True
    try:
        look_at(shard.file)
    except DataError as error:
        refusals.refuse_shard(shard, error)
        return False
    return True


def rows_of(shard: Shard, refusals: Refusals) -> Iterator[Row]:
    """The rows of a shard up to where it cannot be read any further; that, and a shard without rows, is refused."""
    number, count = 0, 0
    try:
        for row in shard.rows():
            number, count = row.number, count + 1
            yield row
    except DataError as error:
        refusals.refuse_shard(shard, error, f"after row {number} " if number else "")
    else:
        if not count:
            refusals.refuse(shard.name, 0, "holds nothing")


def sections_of(shard: Shard, column: str, refusals: Refusals) -> Iterator[Section]:
    """The documents of a shard, in sections of a bounded length.

    Args:
        shard: A text file, or rows with a column of text.
        column: Name of that column.
        refusals: Is told what cannot be read.
    """
    if shard.file is not None and ending(shard.file) not in ROW_ENDINGS:
        yield from _sections_of_file(shard, refusals)
        return
    for row in rows_of(shard, refusals):
        text = _text_of(row, column, refusals)
        if text is not None:
            yield from cut_sections(iter([text, DOCUMENT_BORDER]))


def _sections_of_file(shard: Shard, refusals: Refusals) -> Iterator[Section]:
    assert shard.file is not None, "the caller looks"
    count = 0
    try:
        for section in cut_sections(text_blocks(shard.file)):
            count += section.first
            yield section
    except DataError as error:
        refusals.refuse_shard(shard, error, f"after document {count} " if count else "")
    else:
        if not count:
            refusals.refuse(shard.name, 0, "holds nothing")


def _text_of(row: Row, column: str, refusals: Refusals) -> str | None:
    """The text of a row; None where it is refused."""
    try:
        found = row.value()
    except ValueError as error:
        refusals.refuse(row.source, row.number, str(error))
        return None
    text = found.get(column) if isinstance(found, Mapping) else None
    if isinstance(text, str):
        try:
            text.encode()
        except UnicodeEncodeError:
            refusals.refuse(row.source, row.number, "it holds half of a surrogate pair, which is no character")
            return None
        return text
    names = ", ".join(map(repr, list(found)[:6])) if isinstance(found, Mapping) else ""
    has = f"a row of {names}" if names else "more fields than columns" if found is None else "another value"
    refusals.refuse(row.source, row.number, f"expected text in the column {column!r}, got {has} (name another column with --column)")
    return None


def cut_sections(blocks: Iterator[str]) -> Iterator[Section]:
    """Cuts a stream of text at the borders of documents, and long documents into sections; blank ones are left out.

    Args:
        blocks: The text in pieces, cut anywhere.
    """
    text, start, first, ended = "", 0, True, False
    while not ended or start < len(text):
        if not ended and len(text) - start <= LONGEST + len(DOCUMENT_BORDER):
            block = next(blocks, None)
            ended, text, start = block is None, text[start:] + (block or ""), 0
            continue
        border = text.find(DOCUMENT_BORDER, start, start + LONGEST + len(DOCUMENT_BORDER))
        stop = border if border >= 0 else len(text) if len(text) - start <= LONGEST else _cut_at(text, start)
        if not text[start:stop].isspace() and stop > start:
            yield Section(text[start:stop], first)
            first = False
        first, start = first or border >= 0, stop + len(DOCUMENT_BORDER) * (border >= 0)


def _cut_at(text: str, start: int) -> int:
    """Where a section that begins at `start` ends best: behind an empty line, a line or a space, if there is one in its second half."""
    for border in ("\n\n", "\n", " "):
        found = text.rfind(border, start + LONGEST // 2, start + LONGEST)
        if found >= 0:
            return found + len(border)
    return start + LONGEST
