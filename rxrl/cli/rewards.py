"""`rxrl rewards`: list the rewards that there are, show one, and try one on sample turns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from statistics import mean
from typing import Annotated, Any

import typer
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from rich.table import Table
from rich.text import Text

from rxrl.cli.console import echo, plain_console
from rxrl.cli.listing import names_table, print_names
from rxrl.reading import parse_yaml
from rxrl.rewards import BUILT_IN, REWARDS, Report, check_reward, load_reward, read_spec, sample_turn
from rxrl.rewards.loading import parameters
from rxrl.scoring import score_turns
from rxrl.types import Score

EXIT_FAILED = 1
_SPEC_HELP = "A name, pkg.mod:function, path/file.py:function, a mapping such as '{retention: 1, length: 0}', or a YAML file."
_MARKS = {"ok": "green", "note": "yellow", "failed": "red"}
_SHOWN_FOOLED, _SHOWN_WIDTH = 5, 60
_HANDED_IN = {"embed": "Mean token embeddings: rows of ids -> [batch, dim].", "notify": "Tells the user one sentence."}
_EXAMPLES: Mapping[str, dict[str, Any]] = {
    "judge": {"endpoint": "http://localhost:8000/v1", "model": "my-model"},
    "from_trl": {"function": "package.module:function"},
}

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="List, describe and check rewards.")


@app.command("list")
def list_rewards() -> None:
    """List built-in rewards and those of installed packages."""
    print_names(REWARDS)
    echo("rxrl rewards show NAME describes one of them.")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A name, pkg.mod:function or path/file.py:function.", show_default=False)]) -> None:
    """Describe a reward: what it does, its options, and an example."""
    target = REWARDS.find(name)
    console = plain_console()
    console.print(Text(name, style="bold") + Text(_signature(target)), soft_wrap=True)
    console.print(Text("\n" + (inspect.getdoc(target) or "No description.") + "\n"), soft_wrap=True)
    options = _options(target)
    if options:
        table = names_table("Options", "option", "default", "meaning")
        for option, (default, meaning) in options.items():
            table.add_row(option, Text(default), Text(meaning))
        console.print(table)
    console.print(Text(_example(name, target)), soft_wrap=True)
    score = _sample_score(name)
    if score is not None:
        console.print(Text(f"A right answer, {_quoted('Mia has a cat.')}, scores {_number(score.value)}{_terms(score)}."), soft_wrap=True)


@app.command()
def check(
    spec: Annotated[str, typer.Argument(help=_SPEC_HELP, show_default=False)],
    time_limit: Annotated[float, typer.Option(min=0.1, help="Time limit for a batch, in seconds.")] = 60.0,
    strict: Annotated[bool, typer.Option("--strict", help="Also fail if wrong answers or tricks earn as much as right ones.")] = False,
) -> None:
    """Check a reward on sample turns.

    Looks at the range of its scores, at batches, pickling and speed, and at known tricks that should earn little. Exits with 1 if the
    reward breaks the contract.
    """
    reward = load_reward(read_spec(spec))
    report = check_reward(reward, time_limit=time_limit)
    console = plain_console()
    console.print(_checks(spec, report))
    if report.kinds:
        console.print(_kinds(report))
    if report.fooled:
        console.print(_fooled(report))
    passed = report.ok and not (strict and report.hackable)
    echo("Passed." if passed else "Failed.", fg=typer.colors.GREEN if passed else typer.colors.RED)
    if not passed:
        raise typer.Exit(EXIT_FAILED)


def _checks(spec: str, report: Report) -> Table:
    table = names_table(f"Reward {spec}", "check", "", "found")
    for each in report.checks:
        table.add_row(each.name, Text(each.status, style=_MARKS[each.status]), Text(each.detail))
    return table


def _kinds(report: Report) -> Table:
    table = names_table("Scores by kind of answer", "kind", "is")
    for heading in ("answers", "lowest", "mean", "highest"):
        table.add_column(heading, justify="right")
    verdict = report.kinds[0].verdict
    for kind in report.kinds:
        if kind.verdict != verdict:
            table.add_section()
            verdict = kind.verdict
        numbers = (min(kind.scores), mean(kind.scores), max(kind.scores))
        table.add_row(kind.kind, kind.verdict, str(len(kind.scores)), *(f"{number:.2f}" for number in numbers))
    return table


def _fooled(report: Report) -> Table:
    title = "Earn at least as much as a right answer to the same question"
    more = len(report.fooled) - _SHOWN_FOOLED
    shown = title if more <= 0 else f"{title} (the first {_SHOWN_FOOLED} of {len(report.fooled)})"
    table = names_table(shown, "score", "kind", "query", "answer")
    for sample, score in report.fooled[:_SHOWN_FOOLED]:
        table.add_row(f"{score:.2f}", sample.kind, Text(_quoted(sample.turn.query)), Text(_quoted(sample.turn.answer)))
    return table


def _signature(target: Any) -> str:
    """How a function is called, or a class is made; the options of a built-in one stand in the table."""
    if isinstance(target, type) and issubclass(target, BaseModel):
        return ""
    try:
        return str(inspect.signature(target))
    except (TypeError, ValueError):
        return "(...)"


def _options(target: Any) -> dict[str, tuple[str, str]]:
    """Default and meaning of each option."""
    if isinstance(target, type) and issubclass(target, BaseModel):
        return {name: (_default(field.default, field), field.description or "") for name, field in target.model_fields.items()}
    names = [name for name in parameters(target) if name]
    given = {} if not callable(target) else inspect.signature(target).parameters
    own = names if isinstance(target, type) else names[1:]
    return {name: _option(name, given[name].default) for name in own}


def _option(name: str, default: Any) -> tuple[str, str]:
    """Default and meaning of a parameter; of most only their author knows the meaning."""
    if name in _HANDED_IN:
        return "handed in", _HANDED_IN[name]
    return "needed" if default is inspect.Parameter.empty else repr(default), ""


def _default(default: Any, field: Any) -> str:
    if default is PydanticUndefined:
        factory: Callable[[], Any] | None = field.default_factory
        return "needed" if factory is None else f"{getattr(factory, '__name__', factory)}()"
    if isinstance(default, BaseModel):
        return ", ".join(f"{key} {value:g}" for key, value in default.model_dump().items())
    return repr(str(default)) if hasattr(default, "__fspath__") else repr(default)


def _example(name: str, target: Any) -> str:
    """A line of YAML that uses it, and the command that tries it."""
    options = _EXAMPLES.get(name, {})
    if not options:
        pairs = ((option, default) for option, (default, _) in _options(target).items())
        options = dict([(option, parse_yaml(default, name).data) for option, default in pairs if _is_number(default)][:1])
    alias = name if name in BUILT_IN or ":" not in name else "mine"
    use = {"use": name} if alias != name else {}
    main = {} if name == "retention" else {"retention": 0.9}
    spec = {"reward": {**main, alias: {**use, "weight": 0.1 if main else 1.0, **options}}}
    line = yaml.safe_dump(spec, default_flow_style=None, sort_keys=False)
    needed = yaml.safe_dump({"use": name, **options}, default_flow_style=True, sort_keys=False, width=200).strip()
    return f"In a YAML file:\n\n{line}\nTry it: rxrl rewards check {name if name not in _EXAMPLES else chr(34) + needed + chr(34)}\n"


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _sample_score(name: str) -> Score | None:
    """What a right answer earns, where the reward needs nothing that the user must supply to score it."""
    needed = {option for option, (default, _) in _options(REWARDS.find(name)).items() if default == "needed"}
    if name in _EXAMPLES or name == "semantic" or needed:
        return None
    return score_turns(load_reward(name), [sample_turn("Mia has a cat.")])[0]


def _terms(score: Score) -> str:
    return f" ({', '.join(f'{name} {_number(value)}' for name, value in score.terms.items())})" if score.terms else ""


def _number(value: float | None) -> str:
    return "None" if value is None else f"{value:.2f}"


def _quoted(text: str) -> str:
    shown = " ".join(text.split())
    return f'"{shown if len(shown) <= _SHOWN_WIDTH else shown[: _SHOWN_WIDTH - 3] + "..."}"'
