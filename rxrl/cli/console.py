"""The one way in which commands write to the terminal: text is text, whatever brackets, colons and control characters it holds."""

from __future__ import annotations

from typing import Any

import typer

from rxrl.terminal import PlainConsole, visible


def plain_console(**options: Any) -> PlainConsole:
    """A console that shows what it is given."""
    return PlainConsole(**options)


def echo(text: object = "", *, nl: bool = True, err: bool = False, **style: Any) -> None:
    """Prints a text.

    Args:
        text: What to print; control characters are written out.
        nl: Whether the line ends.
        err: To standard error.
        style: As for `typer.secho`: `fg`, `dim`.
    """
    typer.secho(visible(str(text)), nl=nl, err=err, **style)
