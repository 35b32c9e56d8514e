"""`rxrl evaluate CHECKPOINT`: retention by distance on held-out conversations, with its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rxrl.cli.console import plain_console
from rxrl.cli.device import Device, find_device, load_on
from rxrl.cli.output import writable_folder
from rxrl.data.corpora import Say
from rxrl.data.mixing import mix_of, mixed_lists
from rxrl.data.rows import read_conversations
from rxrl.data.sources import RowsSource
from rxrl.data.splits import DEFAULT_STEPS, SCENARIO, WORLD, generated
from rxrl.data.world import GeneratedSource, level_or_default
from rxrl.errors import ConfigError
from rxrl.evaluation import CONTROLS, WHOLE_CONTROLS, Evaluation
from rxrl.evaluation import evaluate as evaluate_policy
from rxrl.evaluation.records import keeping_transcripts
from rxrl.factory import TokenEmbeddings
from rxrl.players import is_language_model, language_model_play, model_play
from rxrl.rewards import load_reward, read_spec
from rxrl.runs.folder import RunFolder
from rxrl.scoring import reward_name, without_score
from rxrl.supply import load_scenarios, named_reward
from rxrl.types import ANSWER_TOKENS, Scenario, Strategy

KNOWN_SAMPLE = 500
_HEADLINE = {
    "retention at 16 turns": "retention_at_16",
    "retention, distance 9 to 16": "retention_far",
    "retention, distance 1 to 2": "retention_near",
    "retention, all asking turns": "retention",
}
_CONTROL_NAMES = {"empty_memory": "empty memory", "swapped_memory": "swapped memory", "oracle": "oracle (reference answers)"}


def evaluate(  # noqa: PLR0913, PLR0917
    checkpoint: Annotated[
        Path, typer.Argument(help="Checkpoint to evaluate, or a Hugging Face model: its folder, or hf:NAME.", show_default=False)
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Held-out conversations, scenario:NAME or world (the generated world, the default). Repeatable: a mix in equal shares, "
            "or by weights as in world=2."
        ),
    ] = None,
    level: Annotated[
        int | None, typer.Option(min=0, max=3, help="Difficulty of the generated world (from 0) or scenario (from 1). Default: the lowest.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=64, help="Turns of each conversation. Default: 16, or all turns of --data.")
    ] = None,
    strategy: Annotated[Strategy, typer.Option(help="Structure of the conversations.")] = "multi-step",
    conversations: Annotated[int, typer.Option(min=1, help="Maximum number of conversations.")] = 200,
    controls: Annotated[
        bool, typer.Option("--controls/--no-controls", help="Also play with empty and with swapped memory, and with the reference answers.")
    ] = True,
    greedy: Annotated[bool, typer.Option("--greedy/--sampled", help="Take the most likely tokens, or sample.")] = True,
    reward: Annotated[
        str | None,
        typer.Option(
            help="Reward: a name (rxrl list rewards) or path/file.py:function. Default: retention; outcome for scenarios; both for a mix."
        ),
    ] = None,
    max_answer_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of an answer, in tokens.")] = ANSWER_TOKENS,
    out: Annotated[Path | None, typer.Option(callback=writable_folder, help="Folder for evaluation.json and the transcripts.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    device: Device = None,
) -> None:
    """Measure what a model remembers, by distance, next to its controls."""
    console = plain_console()
    # What is wrong with the reward is said before the checkpoint is read.
    foreign, embed = is_language_model(str(checkpoint)), TokenEmbeddings()
    mix = mix_of(data or WORLD)
    handed_in: dict[str, Any] = {} if foreign else {"embed": embed}
    function = load_reward(read_spec(reward) if reward else named_reward(mix), **handed_in)
    kinds = {name.startswith(SCENARIO) for name in mix} if controls else ()
    wanted = [*(CONTROLS if False in kinds else ()), *(WHOLE_CONTROLS if True in kinds else ())]
    with nullcontext() if out is None else RunFolder(out).claimed():
        own = None if foreign else load_on(device, checkpoint)
        chosen, known = held_out_mix(mix, level, steps, strategy, conversations, seed, console.print)
        options: dict[str, Any] = {"reward": function, "known": known, "max_answer_tokens": max_answer_tokens, "strategy": strategy}
        if own is None:
            game = language_model_play(str(checkpoint), chosen, device=find_device(device), **options)
        else:
            embed.model, game = own[0], model_play(*own, chosen, **options)
        console.print(f"Playing {len(chosen)} conversations.")
        with nullcontext() if out is None else keeping_transcripts(out / "transcripts.unscored.jsonl"):
            found = evaluate_policy(*game, chosen, seed=seed, greedy=greedy, controls=wanted)
        console.print(*tables(found), sep="\n")
        if nothing := without_score(reward_name(function), (record.reward for record in found.records)):
            console.print(nothing, soft_wrap=True)
        if out is not None:
            console.print(f"Wrote {found.save(out)} and the transcripts.")


def held_out_mix(
    mix: Mapping[str, float], level: int | None, steps: int | None, strategy: str, count: int, seed: int, say: Say
) -> tuple[Sequence[Scenario], Sequence[Scenario]]:
    """Conversations and scenarios to play, by their weights, and others that show which values there are."""
    if level is not None and not any(map(generated, mix)):
        raise ConfigError("--level is for the generated world and scenarios: give either --level or --data FILE.")
    found = [held_out_conversations(name, level, steps, strategy, count, seed, say) for name in mix]
    chosen = mixed_lists([(own, weight) for (own, _), weight in zip(found, mix.values(), strict=True)], count)
    return chosen, [each for _, known in found for each in known]


def held_out_conversations(
    name: str, level: int | None, steps: int | None, strategy: str, count: int, seed: int, say: Say
) -> tuple[Sequence[Scenario], Sequence[Scenario]]:
    """The same of one name."""
    if strategy == "single-step" and steps is not None and steps > 1:
        raise ConfigError(f"single-step conversations have one turn, but {steps} are asked for: leave out one of the two options.")
    if name == WORLD:
        test, train = (GeneratedSource(level=level_or_default(level), seed=seed, split=split) for split in ("test", "train"))
        turns = 1 if strategy == "single-step" else steps or DEFAULT_STEPS
        known = train.take(steps=1, strategy="multi-step", start=0, count=KNOWN_SAMPLE)
        return test.take(steps=turns, strategy=strategy, start=0, count=count), known
    if name.startswith(SCENARIO):
        return load_scenarios(name, level=level, steps=steps, split="test", seed=seed, count=count), ()
    rows = read_conversations(name, purpose="test", say=say)
    if steps is None:
        return rows[:count], rows
    source = RowsSource(rows, seed)
    count = min(count, source.available(steps, strategy)) or count
    return source.take(steps=steps, strategy=strategy, start=0, count=count), rows


def tables(evaluation: Evaluation) -> list[Table]:
    """The numbers for people."""
    summary, controls = evaluation.summary, evaluation.controls
    headline = Table(title=f"{summary['conversations']} conversations, {summary['asking_turns']} asking turns", title_justify="left")
    for heading in ("", "mean", "95 % interval", "turns"):
        headline.add_column(heading, justify="left" if not heading else "right")
    for text, name in _HEADLINE.items():
        if summary[name] is not None:
            headline.add_row(text, *_numbers(summary[name], summary[f"{name}_interval"], summary[f"{name}_turns"]))
    _add_reference_rows(headline, summary, controls)
    distances = Table(title="Retention by distance", title_justify="left")
    for heading in ("distance", "mean", "95 % interval", "turns"):
        distances.add_column(heading, justify="right")
    for row in summary["by_distance"]:
        distances.add_row(str(row["distance"]), *_numbers(row["mean"], (row["low"], row["high"]), row["turns"]))
    found = [headline, distances] if summary["by_distance"] else [headline]
    return [*found, *(_scenario_table(name, each) for name, each in evaluation.scenarios.items())]


def _scenario_table(name: str, found: Mapping[str, Any]) -> Table:
    """Score of a scenario between its bounds, and by turn."""
    title = f"Scenario {name}, level {found['level']}, {found['dialogues']} dialogues of {found['steps']} turns"
    table = Table("", "outcome of 10", title=title, title_justify="left")
    low, high = found["interval"]
    table.add_row("score", f"{found['score']:.2f} ({low:.2f} to {high:.2f})")
    for text, key in (("without memory at best", "blind"), ("best player", "best")):
        table.add_row(text, f"{found[key]:.2f}")
    table.add_row("share between the two", "-" if found["share"] is None else f"{found['share']:.2f}")
    for text, key in (("empty memory throughout", "empty_memory"), ("swapped memory throughout", "swapped_memory")):
        if found[key] is not None:
            table.add_row(text, f"{found[key]:.2f}")
    table.add_row("by turn", " ".join("-" if value is None else f"{value:.1f}" for value in found["by_turn"]))
    return table


def _add_reference_rows(table: Table, summary: Mapping[str, Any], controls: Mapping[str, Any]) -> None:
    """Controls, chance and reward."""
    table.add_section()
    for control, text in _CONTROL_NAMES.items():
        part = controls.get(control)
        name = "retention" if part is None or part["retention_at_16"] is None else "retention_at_16"
        if part is not None and part[name] is not None:
            table.add_row(text, *_numbers(part[name], part[f"{name}_interval"], part[f"{name}_turns"]))
    if summary["chance"] is not None:
        table.add_row("chance", f"{summary['chance']:.3f}", "", "")
    table.add_section()
    for text, name in (("reward, asking turns", "reward"), ("reward, other turns", "reward_other")):
        part = summary[name]
        if part["mean"] is not None:
            table.add_row(text, f"{part['mean']:.2f}", f"min {part['min']:.2f}, max {part['max']:.2f}", str(part["turns"]))


def _numbers(mean: float, interval: Sequence[float], turns: int) -> tuple[str, str, str]:
    return f"{mean:.3f}", f"{interval[0]:.3f} to {interval[1]:.3f}", str(turns)
