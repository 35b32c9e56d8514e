"""Text files and lines of text files, compressed ones included, of a bounded size."""

from __future__ import annotations

import codecs
import gzip
import hashlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import IO, Any, cast

from rxrl.reading.guard import Refusal, guarded

WHOLE_BYTES = 256 << 20
"""Largest file that is read in one piece."""
LINE_BYTES = 16 << 20
"""Longest line of a file that is read line by line."""
ALL_BYTES = 16 << 30
"""Most that a compressed file may come to."""
_MARK = b"\xef\xbb\xbf"
_COMPRESSED = (".gz", ".zst")


def compression_of(path: Path) -> str | None:
    """`gz` or `zst` where a file's name ends so, in whatever case."""
    ending = path.suffix.lower()
    return ending.removeprefix(".") if ending in _COMPRESSED else None


def read_text(path: str | Path, refusal: Refusal | None = None, *, what: str = "UTF-8 text", most: int = WHOLE_BYTES) -> str:
    """The text of a UTF-8 file, without a byte-order mark, every line end a line feed.

    Args:
        path: The file; one that ends in .gz or .zst is unpacked.
        refusal: How it is refused.
        what: What it should be, for the message.
        most: Largest size in bytes.

    Raises:
        RxrlError: The file is missing, too large, or not UTF-8.
    """
    refusal = refusal or Refusal()
    with guarded(path, what, refusal), _opened(Path(path)) as file:
        content = file.read(most + 1)
        if len(content) > most:
            raise ValueError(f"it is larger than {most >> 20} MiB")
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def open_lines(path: str | Path, refusal: Refusal | None = None) -> Iterator[tuple[int, bytes]]:
    """Yields (number from 1, line) of a text file; lines of white space are left out, and none is decoded: one may be broken alone.

    Raises:
        RxrlError: The file is missing or cannot be unpacked, or a line is too long.
    """
    refusal, total = refusal or Refusal(), 0
    with guarded(path, "text", refusal), _opened(Path(path)) as file:
        number = 0
        while line := file.readline(LINE_BYTES + 1):
            number += 1
            total += len(line)
            if len(line) > LINE_BYTES:
                raise ValueError(f"line {number} is longer than {LINE_BYTES >> 20} MiB")
            if total > ALL_BYTES:
                raise ValueError(f"it comes to more than {ALL_BYTES >> 30} GiB")
            if number == 1:
                line = line.removeprefix(_MARK)
            if line.strip():
                yield number, line


def text_lines(path: str | Path, refusal: Refusal | None = None) -> Iterator[str]:
    """Yields the lines of a UTF-8 file of any size, with their ends as they are, without a byte-order mark.

    Raises:
        RxrlError: The file is missing, cannot be unpacked, is not UTF-8, or a line is too long; the message names the line.
    """
    refusal, number = refusal or Refusal(), 0
    with guarded(path, "UTF-8 text", refusal), _opened(Path(path)) as file:
        while line := file.readline(LINE_BYTES + 1):
            number += 1
            if len(line) > LINE_BYTES:
                raise ValueError(f"line {number} is longer than {LINE_BYTES >> 20} MiB")
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"line {number}, byte {error.start}: {error.reason}") from None


def text_blocks(path: str | Path, refusal: Refusal | None = None, size: int = 1 << 20) -> Iterator[str]:
    """Yields a UTF-8 file of any size in blocks of about `size` bytes, without a byte-order mark, every line end a line feed.

    Raises:
        RxrlError: The file is missing, cannot be unpacked, or is not UTF-8; the message names the byte.
    """
    refusal, total, decoder, returned = refusal or Refusal(), 0, codecs.getincrementaldecoder("utf-8-sig")(), ""
    with guarded(path, "UTF-8 text", refusal), _opened(Path(path)) as file:
        while True:
            block = file.read(size)
            try:
                text = returned + decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise ValueError(f"byte {total + error.start} or one close to it: {error.reason}") from None
            total += len(block)
            # A carriage return at the end may be half of a line end.
            returned = "\r" if block and text.endswith("\r") else ""
            if text := text.removesuffix(returned).replace("\r\n", "\n").replace("\r", "\n"):
                yield text
            if not block:
                return


def hash_of(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of_text(*pieces: str) -> str:
    """SHA-256 of a text in pieces, in hexadecimal digits; halves of characters, as JSON and other locales have them, count as they are."""
    found = hashlib.sha256()
    for each in pieces:
        found.update(each.encode(errors="surrogatepass"))
    return found.hexdigest()


def _opened(path: Path) -> IO[bytes]:
    match compression_of(path):
        case "gz":
            return cast("IO[bytes]", gzip.open(path))
        case "zst":
            unpacked: Any = import_module("pyarrow").input_stream(str(path), compression="zstd")
            return cast("IO[bytes]", _Reader(unpacked))
        case _:
            return path.open("rb")


class _Reader:
    """Arrow's stream of a compressed file, with the `readline` that it lacks."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._rest = stream, b""

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self, most: int) -> bytes:
        return bytes(self._stream.read(most))

    def readline(self, most: int) -> bytes:
        parts: list[bytes] = []
        length = 0
        while length < most:
            piece = self._rest or bytes(self._stream.read(1 << 16))
            line, border, self._rest = piece.partition(b"\n")
            parts.append(line + border)
            length += len(parts[-1])
            if border or not piece:
                break
        return b"".join(parts)
