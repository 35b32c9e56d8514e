"""Text as terminals may show it: what would steer the terminal, or turn the order of what is read, is written out."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
_ORDER = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_LINES = [0x2028, 0x2029]
_STRAY = re.compile("[\\ud800-\\udc7f\\udd00-\\udfff]")
"""Halves that stand for no byte."""
_SHOWN = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in (*_CONTROLS, *_ORDER, *_LINES) if chr(code) not in "\n\t"
}


def visible(text: str) -> str:
    r"""The text with control characters written out (`\x1b`), line feeds and tabs left as they are.

    Escape sequences could set the title, clear the screen, or write the clipboard; marks of writing direction could make one text look
    like another.
    """
    return text.translate(_SHOWN)


def as_named(name: str) -> str:
    """A name or argument as whoever wrote it meant it: where the locale is not UTF-8, Python keeps its bytes as halves of characters."""
    return name.encode("utf-8", "replace" if _STRAY.search(name) else "surrogateescape").decode("utf-8", "replace")


def data_as_named(value: Any) -> Any:
    """Plain data (mappings, lists, text, numbers) with all texts `as_named`, so that what is saved of names can be read again."""
    if isinstance(value, str):
        return as_named(value)
    if isinstance(value, Mapping):
        return {data_as_named(key): data_as_named(each) for key, each in value.items()}
    return [data_as_named(each) for each in value] if isinstance(value, list | tuple) else value


class PlainConsole(Console):
    """A console that shows what it is given: no markup, no emoji names, no colours for numbers, no control characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What rich itself steers the terminal with passes, text does not."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)

    def out(self, *objects: Any, **options: Any) -> None:
        """As `Console.out`, which leaves rendering out."""
        super().out(*(visible(str(each)) for each in objects), **options)


class VisibleFormatter(logging.Formatter):
    """Formats records of the log for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, its control characters written out."""
        return visible(super().format(record))
