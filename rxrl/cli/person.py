"""What a person types at a terminal, or what comes through a pipe in its place."""

from __future__ import annotations

import sys

from rxrl.errors import ConfigError


def at_terminal() -> bool:
    """Whether a person types, who sees a prompt."""
    return sys.stdin is not None and sys.stdin.isatty()


def typed(prompt: str) -> str:
    """The next line of the input; a person sees the prompt.

    Raises:
        EOFError: The input has ended.
        ConfigError: It is not UTF-8.
    """
    if sys.stdin is None:
        raise EOFError
    try:
        line = input(prompt if at_terminal() else "")
        line.encode()  # where the terminal's own encoding lets other bytes through
    except UnicodeError as error:
        raise ConfigError(f"The input is not UTF-8 text ({getattr(error, 'reason', error)}): convert it first.") from None
    return line
