"""`rxrl evaluate WHAT`: what a player remembers, by distance, with its controls; for anything that answers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from rxrl.cli.console import plain_console
from rxrl.cli.device import Device, find_device
from rxrl.cli.evaluation_tables import stress_notes, suite_notes, tables
from rxrl.cli.output import writable_folder
from rxrl.cli.progress import Bar
from rxrl.cli.shared import assigned
from rxrl.data.mixing import mix_of
from rxrl.data.splits import SCENARIO, WORLD
from rxrl.data.world import level_or_default
from rxrl.errors import ConfigError, DataError
from rxrl.evaluation import CONTROLS, WHOLE_CONTROLS, Evaluation
from rxrl.evaluation.assessment import Assessment
from rxrl.evaluation.axes import AXES, Course, axes_of
from rxrl.evaluation.suites import SUITES, Setting, Suite, played_of
from rxrl.evaluation.suites.games import Scenarios
from rxrl.evaluation.verdicts import memory_verdict
from rxrl.factory import TokenEmbeddings
from rxrl.players import Subject, is_checkpoint
from rxrl.rewards import load_reward, read_spec
from rxrl.runs.folder import RunFolder
from rxrl.runs.identity import absolute_paths, code_files
from rxrl.scoring import reward_name, without_score
from rxrl.supply import held_out_mix, named_reward
from rxrl.terminal import PlainConsole
from rxrl.types import ANSWER_TOKENS, Conversation, Strategy

CONVERSATIONS, STRESSED = 200, 50
"""Conversations where nobody says how many, and those of a point under stress."""
What = Annotated[
    str,
    typer.Argument(
        help="Checkpoint, run, Hugging Face model (folder or hf:NAME), http://... of a chat endpoint, name (rxrl list policies), "
        "package.module:name or file.py:name.",
        show_default=False,
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        help="Held-out conversations, scenario:NAME or world (the generated world, the default). Repeatable: a mix in equal shares, "
        "or by weights as in world=2."
    ),
]
MemoryName = Annotated[
    str | None,
    typer.Option(
        help="What holds the conversation: none, transcript, transcript:N (the last N) or package.module:name. Default: what the "
        "player needs."
    ),
]
Level = Annotated[
    int | None, typer.Option(min=0, max=3, help="Difficulty of the generated world (from 0) or scenario (from 1). Default: the lowest.")
]
Steps = Annotated[int | None, typer.Option(min=1, max=256, help="Turns of each conversation. Default: 16, or all turns of --data.")]
Count = Annotated[
    int | None,
    typer.Option(min=1, help="Maximum number of conversations; of each group of a suite. Default: 200, or what the suite takes."),
]
SuiteName = Annotated[str | None, typer.Option(help="Play a benchmark: a name (rxrl list suites). --data is the place of its data.")]
SuiteOptions = Annotated[list[str] | None, typer.Option("--set", help="Option of the suite, as name=value. Repeatable.")]
StressAxes = Annotated[str | None, typer.Option(help=f"Also play under stress: axes such as time,load, of {', '.join(AXES)}, or all.")]
Controls = Annotated[
    bool, typer.Option("--controls/--no-controls", help="Also play with empty and with swapped memory, and with the reference answers.")
]
RewardName = Annotated[
    str | None,
    typer.Option(
        help="Reward: a name (rxrl list rewards) or path/file.py:function. Default: retention; outcome for scenarios; both for a mix."
    ),
]
AnswerTokens = Annotated[int, typer.Option(min=1, help="Maximum length of an answer, in tokens.")]
ThinkTokens = Annotated[int, typer.Option(min=0, help="Let the model think first, in so many tokens at most. Needs a model trained to.")]
Out = Annotated[
    Path | None,
    typer.Option(callback=writable_folder, help="Folder for evaluation.json and the transcripts; an unfinished evaluation resumes."),
]


def evaluate(  # noqa: PLR0913, PLR0917
    what: What,
    data: Data = None,
    memory: MemoryName = None,
    level: Level = None,
    steps: Steps = None,
    strategy: Annotated[Strategy, typer.Option(help="Structure of the conversations.")] = "multi-step",
    conversations: Count = None,
    suite: SuiteName = None,
    options: SuiteOptions = None,
    stress: StressAxes = None,
    controls: Controls = True,
    greedy: Annotated[bool, typer.Option("--greedy/--sampled", help="Take the most likely tokens, or sample.")] = True,
    reward: RewardName = None,
    max_answer_tokens: AnswerTokens = ANSWER_TOKENS,
    max_think_tokens: ThinkTokens = 0,
    out: Out = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    device: Device = None,
) -> None:
    """Measure what a model, or any other player, remembers, by distance, next to its controls."""
    console = plain_console()
    task = _Task(data, suite, options or [], stress, level, steps, strategy, conversations, seed, controls)
    mix = task.check()
    # What is wrong with the reward is said before a checkpoint is read.
    embed = TokenEmbeddings() if is_checkpoint(what) else None
    handed_in: dict[str, Any] = {} if embed is None else {"embed": embed}
    spec = read_spec(reward) if reward else named_reward(mix)
    function = load_reward(spec, **handed_in)
    code = code_files(absolute_paths([spec, memory, [name.removeprefix(SCENARIO) for name in mix]]))
    thoughts = {"max_think_tokens": max_think_tokens} if max_think_tokens else {}
    settings = {
        "what": what, "memory": memory, **task.settings(mix), "greedy": greedy, "reward": reward_name(function),
        "max_answer_tokens": max_answer_tokens, **thoughts,
    }  # fmt: skip
    with nullcontext() if out is None else RunFolder(out).claimed(), Bar(console, "turns") as bar:
        given: dict[str, Any] = {"max_answer_tokens": task.answer_tokens(max_answer_tokens), "strategy": strategy, **thoughts}
        subject = Subject.open(what, memory, find_device(device))
        job = Assessment(subject, function, seed, greedy, out, settings, {"reward": spec, "code": code}, given, embed, bar)
        found = task.measure(job, mix, console)
        _show(found, reward_name(function), console)
        if out is not None:
            console.print(f"Wrote {found.save(out)} and the transcripts. For a page: rxrl report {out}", soft_wrap=True)
            job.forget()


def _show(found: Evaluation, reward: str, console: PlainConsole) -> None:
    """Tables, and sentences on what they mean."""
    nothing = without_score(reward, (record.reward for record in found.records))
    notes = (*suite_notes(found.suite), *stress_notes(found.stress), memory_verdict(found.controls), nothing)
    console.print(*tables(found), sep="\n")
    for note in filter(None, notes):
        console.print(note, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class _Task:
    """What is played, as the options of the command say it."""

    data: list[str] | None
    suite: str | None
    options: list[str]
    stress: str | None
    level: int | None
    steps: int | None
    strategy: str
    conversations: int | None
    seed: int
    controls: bool

    def check(self) -> dict[str, float]:
        """Refuses options that do not go together; returns the mix of what is played, where it is no suite."""
        if self.suite is None:
            if self.options:
                raise ConfigError("--set is for the options of a suite: name one with --suite, or leave --set out.")
            mix = mix_of(self.data or WORLD)
            if self.stress is not None:
                self._check_stress(mix)
            return mix
        wrong = next((name for name in ("level", "steps", "stress") if getattr(self, name) is not None), None)
        if wrong is not None:
            raise ConfigError(
                f"--{wrong} does not go with --suite: a suite has its own conversations. rxrl list suites shows what there is."
            )
        if len(self.data or ()) > 1:
            raise ConfigError("A suite has one place of its data: give --data once.")
        # The reward of a suite is that of its conversations.
        return mix_of(f"{SCENARIO}guess" if SUITES.find(self.suite) is Scenarios else WORLD)

    def _check_stress(self, mix: Mapping[str, float]) -> None:
        axes = axes_of(self.stress or "")
        if len(mix) > 1 or any(name.startswith(SCENARIO) for name in mix):
            raise ConfigError("--stress is for conversations of one kind, the generated world or one file: leave the others out.")
        if wrong := [axis for axis in axes if axis != "time" and WORLD not in mix]:
            raise ConfigError(f"The axis {wrong[0]} needs the generated world; conversations of a file have the axis time: --stress time.")

    def answer_tokens(self, given: int) -> int:
        """Longest answer: a suite whose answers are longer takes what it needs."""
        return given if self.suite is None else max(given, SUITES.find(self.suite).answer_tokens)

    def settings(self, mix: Mapping[str, float]) -> dict[str, Any]:
        """What is saved of the options."""
        if self.suite is not None:
            chosen = dict(assigned(each) for each in self.options)
            return {"suite": self.suite, "data": self.data, "options": chosen, "conversations": self.conversations, "seed": self.seed}
        return {
            "data": dict(mix), "level": self.level, "steps": self.steps, "strategy": self.strategy, "stress": self.stress,
            "conversations": self.conversations or CONVERSATIONS, "seed": self.seed,
        }  # fmt: skip

    def measure(self, job: Assessment, mix: Mapping[str, float], console: PlainConsole) -> Evaluation:
        """Plays everything."""
        if self.suite is not None:
            return self._measure_suite(SUITES.find(self.suite)(), job, console)
        count = self.conversations or CONVERSATIONS
        chosen, known = held_out_mix(mix, self.level, self.steps, self.strategy, count, self.seed, console.print)
        console.print(f"Playing {len(chosen)} conversations.")
        found = job.conversations(chosen, known, _wanted(mix) if self.controls else ())
        if self.stress is None:
            return found
        level = level_or_default(self.level) if WORLD in mix else None
        told = [each for each in chosen if isinstance(each, Conversation)]
        course = Course(told, level, self.seed, min(self.conversations or STRESSED, len(told)))
        measured = {}
        for axis in axes_of(self.stress):
            console.print(f"Under stress: {axis}.")
            measured[axis] = job.stress(axis, course)
        return replace(found, stress=measured)

    def _measure_suite(self, suite: Suite, job: Assessment, console: PlainConsole) -> Evaluation:
        place = Path(self.data[0]) if self.data else None
        options = dict(assigned(each) for each in self.options)
        setting = Setting(place, self.conversations, self.seed, job.limit, options)
        suite.chosen(setting)
        groups = suite.groups(setting)
        total = len(played_of(groups))
        if not total:
            raise DataError(f"Nothing of the suite {suite.name} fits the {job.limit.longest} {job.limit.unit} that the player reads.")
        console.print(f"Playing {total} conversation{'s' * (total != 1)} of the suite {suite.name}.")
        return job.suite(suite, groups, suite.controls if self.controls else ())


def _wanted(mix: Mapping[str, float]) -> list[str]:
    """Controls that suit what is played."""
    kinds = {name.startswith(SCENARIO) for name in mix}
    return [*(CONTROLS if False in kinds else ()), *(WHOLE_CONTROLS if True in kinds else ())]
