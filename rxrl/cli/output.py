"""What commands write: a standard output that never stops the work, and places for files that are looked at before it."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from pathlib import Path
from typing import Any, TextIO, cast

from rxrl.writing import check_writable


class Forgiving(io.RawIOBase):
    """Forwards what is written until that fails, then drops it: who reads along, and on what terminal, decides over nothing.

    Args:
        raw: The stream, unbuffered.

    Attributes:
        failure: Why nothing is forwarded any more; None while it is.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self.raw = raw
        self.failure: OSError | None = None

    def writable(self) -> bool:
        """It can always be written to."""
        return True

    def fileno(self) -> int:
        """Descriptor of the stream."""
        return self.raw.fileno()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self.raw.isatty()

    def write(self, data: Any) -> int:
        """Writes, waits where the stream is full for the moment, or drops."""
        try:
            while self.failure is None:
                if (written := self.raw.write(data)) is not None:
                    return written
                select.select([], [self.raw.fileno()], [])
        except OSError as error:
            self.failure = error
        return len(data)


def forgive_output() -> list[Forgiving]:
    """Makes standard output and standard error replace characters that they do not have, and survive a reader that has gone.

    Returns:
        The streams that are watched.
    """
    watched = []
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            # Closed before the program began, as by `>&-`.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            raw = Forgiving(cast("io.RawIOBase", getattr(stream.buffer, "raw", stream.buffer)))
            buffer = io.BufferedWriter(raw)
            errors = "replace" if name == "stdout" else "backslashreplace"
            # `stream` stays in place as sys.__stdout__, so that its descriptor stays open.
            fresh = io.TextIOWrapper(
                buffer, stream.encoding, errors, line_buffering=stream.line_buffering, write_through=stream.write_through
            )
            setattr(sys, name, fresh)
            watched.append(raw)
    return watched


def lost_output(watched: list[Forgiving]) -> str | None:
    """A sentence on what could not be shown; None where all was, or where the reader has left."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    failures = [each.failure for each in watched if each.failure is not None and each.failure.errno != errno.EPIPE]
    return f"The output could not be shown to its end ({failures[0].strerror})." if failures else None


def writable_folder(path: Path | None) -> Path | None:
    """Checks an option that names a folder to write, before any work is done."""
    if path is not None:
        check_writable(path, folder=True)
    return path


def writable_file(path: Path | None) -> Path | None:
    """Checks an option that names a file to write, before any work is done."""
    if path is not None:
        check_writable(path, folder=False)
    return path
