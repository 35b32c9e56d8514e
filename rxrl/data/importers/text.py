"""Plain text for pre-training: files to a list of texts, cut at paragraphs and sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rxrl.data.corpora import Purpose, Say, Split, open_corpus
from rxrl.data.importers.common import cut, pack
from rxrl.data.rows import LengthLimit, json_line
from rxrl.errors import DataError
from rxrl.writing import write_bytes

_PARAGRAPH = re.compile(r"\n\s*\n")
DEFAULT_LIMIT = LengthLimit(60)


def import_text(source: str | Path, *, limit: LengthLimit = DEFAULT_LIMIT, purpose: Purpose = "any", say: Say | None = None) -> list[str]:
    """Reads plain text as a list of short texts.

    Args:
        source: A text file, rows with `text` (JSON lines, JSON, Parquet), a folder of them or a data set, with `:SPLIT` or without.
            Documents of a text file are parted by `<|endoftext|>`, paragraphs by empty lines.
        limit: Longest text; longer paragraphs are cut at sentence borders or, where need be, at smaller ones; short neighbours within a
            document are joined.
        purpose: What they are for; decides which split is taken where none is asked for.
        say: Is told in one sentence which split was taken, where there were several.

    Raises:
        DataError: Nothing is there, a file is not UTF-8, a row has no `text`, or there is no text at all.
    """
    return texts_of(open_corpus(source).choose(purpose, say), limit)


def texts_of(split: Split, limit: LengthLimit = DEFAULT_LIMIT) -> list[str]:
    """The texts of a split; see `import_text`."""
    texts = [text for document in split.documents() for text in pieces_of(document, limit)]
    if not texts:
        raise DataError(f"{split.name} holds no text: give a .txt or .jsonl file, or a folder of them.")
    return texts


def write_texts(path: str | Path, texts: Sequence[str]) -> int:
    """Writes texts as JSONL rows `{"text": ...}` and returns their number; `import_text` reads them back.

    Raises:
        DataError: The file has another ending.
    """
    target = Path(path)
    if target.suffix != ".jsonl":
        raise DataError(f"Texts are written to .jsonl files, but {target.name!r} was given.")
    write_bytes(target, b"".join(json_line({"text": text}, "A text") for text in texts))
    return len(texts)


def pieces_of(document: str, limit: LengthLimit) -> list[str]:
    """A document cut at paragraphs and sentences, short neighbours joined."""
    pieces = [piece for paragraph in _PARAGRAPH.split(document) for piece in cut(paragraph, limit.longest, limit.measure)]
    return pack(pieces, limit.longest, limit.measure)
