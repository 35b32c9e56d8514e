"""`rxrl scenarios`: list the scenarios that there are, show one as it is played, and try one's own."""

from __future__ import annotations

import inspect
from shlex import quote
from typing import Annotated

import typer
from rich.text import Text

from rxrl.cli.console import echo, plain_console
from rxrl.cli.listing import names_table, print_names
from rxrl.data.splits import SCENARIO
from rxrl.envs.scenarios import SCENARIOS, Bounds, check_scenario, load, play_text, read_spec

EXIT_FAILED = 1
_MARKS = {"ok": "green", "note": "yellow", "failed": "red"}
Name = Annotated[
    str,
    typer.Argument(help="A name, pkg.mod:Name or path/file.py:Name; with options {use: NAME, ...} or a YAML file.", show_default=False),
]
Level = Annotated[int, typer.Option(min=1, max=3, help="Difficulty.")]
Steps = Annotated[int, typer.Option(min=1, max=64, help="Turns of a dialogue.")]

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="List, show and check scenarios, whose user reacts."
)


@app.command("list")
def list_scenarios() -> None:
    """List the scenarios of the suite and those of installed packages."""
    print_names(SCENARIOS)
    echo("rxrl scenarios show NAME plays one of them.")


@app.command()
def show(name: Name, level: Level = 1, steps: Steps = 8) -> None:
    """Describe a scenario, and play it with its best player and with one that has no memory."""
    source = load(name, level=level)
    kind = source.game
    console = plain_console()
    console.print(Text(name, style="bold"), Text("\n" + (inspect.getdoc(kind) or "No description.") + "\n"), soft_wrap=True)
    [game] = source.take(steps=steps)
    for title, player, memory in (("The best player", kind.best, True), ("A player without memory", kind.blind, False)):
        table = names_table(title, "turn", "the user says", "answer")
        table.add_column("outcome", justify="right")
        table.add_row("0", Text(game.begin(0).first.query), Text(game.begin(0).first.answer), "")
        for turn in play_text(game, player, memory=memory):
            worth = None if turn.outcome is None else turn.outcome.value
            table.add_row(str(turn.index), Text(turn.query), Text(turn.answer), "-" if worth is None else f"{worth:.1f}")
        console.print(table)
    if level in kind.stated:
        blind, best = kind.stated[level]
        console.print(f"Over 12 turns of level {level}: {blind:.2f} of 10 without memory, {best:.2f} at best.")
    console.print(f"To train on it: --data {quote(SCENARIO + name)}", soft_wrap=True)


@app.command()
def check(name: Name, level: Level = 1, steps: Steps = 12) -> None:
    """Check a scenario.

    Plays the same dialogue twice, and looks at its players and bounds, leaks, splits and speed. Exits with 1 if the scenario breaks
    the contract.
    """
    found, options = read_spec(name)
    report = check_scenario(SCENARIOS.find(found), level=level, steps=steps, options=options)
    console = plain_console()
    table = names_table(f"Scenario {name}, level {level}, {steps} turns", "check", "", "found")
    for each in report.checks:
        table.add_row(each.name, Text(each.status, style=_MARKS[each.status]), Text(each.detail))
    console.print(table)
    if report.bounds is not None:
        console.print(_by_turn(report.bounds))
    echo("Passed." if report.ok else "Failed.", fg=typer.colors.GREEN if report.ok else typer.colors.RED)
    if not report.ok:
        raise typer.Exit(EXIT_FAILED)


def _by_turn(found: Bounds) -> Text:
    rows = (("without memory", found.blind_by_turn), ("best player", found.best_by_turn))
    return Text("\n".join(f"{title:>15}, by turn: {' '.join(f'{value:.1f}' for value in values)}" for title, values in rows) + "\n")
