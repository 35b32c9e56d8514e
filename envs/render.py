"""An episode as people read it: what was told, each turn with its answer and every term of its reward, and the query that waits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rxrl.envs.episode import Episode
from rxrl.types import Score, Turn

GOOD, BAD = 8.0, 2.0
"""Rewards from which on a turn is shown as good, and up to which as bad."""
ANSWER = "A:"
MARGIN = 6
"""Characters before what is said."""


class Line(NamedTuple):
    """One entry of a transcript; its text may have several lines.

    Attributes:
        who: What stands in the margin.
        text: What was said.
        style: How it is printed, in the words of rich.
    """

    who: str
    text: str
    style: str = ""


def transcript_lines(episode: Episode) -> list[Line]:
    """The episode so far; earlier lines never change, so that only the new ones need printing."""
    first, waiting = episode.first.interaction, episode.waiting
    turns = "1 turn" if episode.steps == 1 else f"{episode.steps} turns"
    lines = [Line("", f"{episode.scenario.id} ({episode.strategy}, {turns})", "bold underline")]
    lines += [Line("told:", episode.first.query, "bold"), Line(ANSWER, first.answer)]
    for turn, score in episode.played:
        lines += [Line(f"{turn.index} Q:", turn.query, "bold"), Line(ANSWER, turn.answer, "cyan"), score_line(turn, score)]
    if waiting is not None:
        lines.append(Line(f"{episode.turn + 1} Q:", waiting.query, "bold"))
    return lines


def score_line(turn: Turn, score: Score) -> Line:
    """The reward of a turn with its terms, and the right answer where another one was given."""
    parts = ["not scored" if score.value is None else f"reward {score.value:.1f}"]
    parts += [f"{name} {'-' if value is None else f'{value:.1f}'}" for name, value in score.terms.items()]
    if not turn.asking and (turn.asks_known or turn.reference):
        parts.append("asks for nothing")
    elif turn.distance is not None:
        parts.append(f"distance {turn.distance}")
    right = "" if turn.answer.strip() == turn.reference.strip() or not turn.reference else f"; reference: {turn.reference}"
    return Line("", f"{', '.join(parts)}{right}", _style(turn, score))


def text_of(lines: Iterable[Line]) -> str:
    """The lines as plain text."""
    indent = "\n" + " " * (MARGIN + 1)
    return "\n".join(f"{who:>{MARGIN}} {text.replace(chr(10), indent)}" for who, text, _ in lines)


def print_lines(lines: Sequence[Line]) -> None:
    """Prints the lines, wrapped and in colour where people watch."""
    if not lines:
        return
    # Imported late: only people who watch need it.
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from rxrl.terminal import PlainConsole  # noqa: PLC0415

    console = PlainConsole()
    if not console.is_terminal:
        console.out(text_of(lines), highlight=False)
        return
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(justify="right", width=MARGIN, style="dim")
    table.add_column(overflow="fold")
    for line in lines:
        table.add_row(line.who, Text(line.text, style=line.style))
    console.print(table)


def _style(turn: Turn, score: Score) -> str:
    if score.value is None or not turn.asking:
        return "dim"
    return "green" if score.value >= GOOD else "red" if score.value <= BAD else "yellow"
