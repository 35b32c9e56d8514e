"""The terminal as the commands write to it: text is text, whatever brackets and colons it holds."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def plain_console(**options: Any) -> Console:
    """A console that shows what it is given: no markup, no emoji names, no colours for numbers."""
    return Console(markup=False, emoji=False, highlight=False, **options)
