"""Plain text for pre-training: files to a list of texts, cut at paragraphs and sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rxrl.data.importers.common import cut, existing, pack
from rxrl.data.rows import JSON_FILES, LengthLimit, json_line
from rxrl.errors import DataError
from rxrl.reading import json_value, read_json_rows, read_text
from rxrl.writing import write_bytes

DOCUMENT_BORDER = "<|endoftext|>"
_PARAGRAPH = re.compile(r"\n\s*\n")
DEFAULT_LIMIT = LengthLimit(60)


def is_plain_text(source: str | Path) -> bool:
    """Whether a file holds texts, not conversations: anything but Parquet and JSONL, or JSONL whose first row has `text`."""
    path = Path(source)
    if not path.exists():
        raise DataError(f"There is no file {path}: check the path.")
    if path.is_dir() or path.suffix not in JSON_FILES:
        return path.suffix != ".parquet"
    _, first = next(read_json_rows(path), (0, b""))
    try:
        row = json_value(first, halves=True) if isinstance(first, bytes) else first
    except ValueError:
        return False
    return isinstance(row, dict) and "text" in row


def import_text(source: str | Path, *, limit: LengthLimit = DEFAULT_LIMIT) -> list[str]:
    """Reads plain text as a list of short texts.

    Args:
        source: A text file, a `.jsonl` (`.ndjson`, `.json`) file with `text` in every row, or a folder of `.txt` and `.jsonl` files
            (read in the order of their names).
            Documents are parted by `<|endoftext|>`, paragraphs by empty lines.
        limit: Longest text; longer paragraphs are cut at sentence borders or, where need be, at smaller ones; short neighbours within a
            document are joined.

    Raises:
        DataError: Nothing is there, a file is not UTF-8, a row has no `text`, or there is no text at all.
    """
    texts = [text for document in read_documents(source) for text in _texts(document, limit)]
    if not texts:
        raise DataError(f"{source} holds no text: give a .txt or .jsonl file, or a folder of them.")
    return texts


def read_documents(source: str | Path) -> list[str]:
    """The whole documents that `import_text` cuts.

    Raises:
        DataError: Nothing is there, a file is not UTF-8, or a row has no `text`.
    """
    path = existing(source, "text file or folder")
    files = sorted(file for file in path.rglob("*") if file.suffix in (".txt", ".jsonl")) if path.is_dir() else [path]
    return [document for file in files for document in _documents(file)]


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


def _documents(file: Path) -> list[str]:
    if file.suffix not in JSON_FILES:
        content: str = read_text(file)
        return content.split(DOCUMENT_BORDER)
    return [_text_of(row, file, number) for number, row in read_json_rows(file)]


def _text_of(row: Any, file: Path, number: int) -> str:
    try:
        found = json_value(row, halves=True) if isinstance(row, bytes) else row
    except ValueError as error:
        raise DataError(f"{file}, row {number}: {error}.") from error
    if not isinstance(found, dict) or not isinstance(found.get("text"), str):
        raise DataError(f'{file}, row {number}: expected {{"text": "..."}}.')
    return str(found["text"])


def _texts(document: str, limit: LengthLimit) -> list[str]:
    pieces = [piece for paragraph in _PARAGRAPH.split(document) for piece in cut(paragraph, limit.longest, limit.measure)]
    return pack(pieces, limit.longest, limit.measure)
