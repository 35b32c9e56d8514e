"""`rxrl evaluate WHAT`: what a player remembers, by distance, with its controls; for anything that answers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from rxrl import __version__
from rxrl.cli.console import plain_console
from rxrl.cli.device import Device, find_device
from rxrl.cli.evaluation_tables import tables
from rxrl.cli.output import writable_folder
from rxrl.cli.progress import Bar
from rxrl.data.mixing import mix_of
from rxrl.data.splits import SCENARIO, WORLD
from rxrl.evaluation import CONTROLS, WHOLE_CONTROLS, KeptBatches, Watch
from rxrl.evaluation import evaluate as evaluate_policy
from rxrl.evaluation.records import keeping_transcripts
from rxrl.evaluation.resuming import hash_of_conversations
from rxrl.evaluation.verdicts import memory_verdict
from rxrl.factory import TokenEmbeddings
from rxrl.players import Subject, is_checkpoint
from rxrl.rewards import load_reward, read_spec
from rxrl.runs.folder import RunFolder
from rxrl.scoring import reward_name, without_score
from rxrl.supply import held_out_mix, named_reward
from rxrl.types import ANSWER_TOKENS, Strategy


def evaluate(  # noqa: PLR0913, PLR0917
    what: Annotated[
        str,
        typer.Argument(
            help="Checkpoint, run, Hugging Face model (folder or hf:NAME), http://... of a chat endpoint, name (rxrl list policies), "
            "package.module:name or file.py:name.",
            show_default=False,
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Held-out conversations, scenario:NAME or world (the generated world, the default). Repeatable: a mix in equal shares, "
            "or by weights as in world=2."
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="What holds the conversation: none, transcript, transcript:N (the last N) or package.module:name. Default: what the "
            "player needs."
        ),
    ] = None,
    level: Annotated[
        int | None, typer.Option(min=0, max=3, help="Difficulty of the generated world (from 0) or scenario (from 1). Default: the lowest.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=256, help="Turns of each conversation. Default: 16, or all turns of --data.")
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
    out: Annotated[
        Path | None,
        typer.Option(callback=writable_folder, help="Folder for evaluation.json and the transcripts; an unfinished evaluation resumes."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    device: Device = None,
) -> None:
    """Measure what a model, or any other player, remembers, by distance, next to its controls."""
    console = plain_console()
    mix = mix_of(data or WORLD)
    # What is wrong with the reward is said before a checkpoint is read.
    embed = TokenEmbeddings() if is_checkpoint(what) else None
    handed_in: dict[str, Any] = {} if embed is None else {"embed": embed}
    function = load_reward(read_spec(reward) if reward else named_reward(mix), **handed_in)
    with nullcontext() if out is None else RunFolder(out).claimed():
        subject = Subject.open(what, memory, find_device(device))
        chosen, known = held_out_mix(mix, level, steps, strategy, conversations, seed, console.print)
        game = subject.play(chosen, known=known, embed=embed, reward=function, max_answer_tokens=max_answer_tokens, strategy=strategy)
        settings = {
            "what": what, "memory": memory, "data": mix, "level": level, "steps": steps, "strategy": strategy, "greedy": greedy,
            "conversations": len(chosen), "reward": reward_name(function), "max_answer_tokens": max_answer_tokens, "seed": seed,
        }  # fmt: skip
        console.print(f"Playing {len(chosen)} conversations.")
        kept = None if out is None else KeptBatches(out, _identity(subject, settings, hash_of_conversations(chosen)))
        with Bar(console, "turns") as bar, nullcontext() if out is None else keeping_transcripts(out / "transcripts.unscored.jsonl"):
            found = evaluate_policy(
                *game, chosen, seed=seed, greedy=greedy, controls=_wanted(mix) if controls else (), watch=Watch(bar, kept)
            )
        console.print(*tables(found), sep="\n")
        if verdict := memory_verdict(found.controls):
            console.print(verdict, soft_wrap=True)
        if nothing := without_score(reward_name(function), (record.reward for record in found.records)):
            console.print(nothing, soft_wrap=True)
        if out is not None and kept is not None:
            console.print(
                f"Wrote {replace(found, about=settings).save(out)} and the transcripts. For a page: rxrl report {out}", soft_wrap=True
            )
            kept.clear()


def _wanted(mix: Mapping[str, float]) -> list[str]:
    """Controls that suit what is played."""
    kinds = {name.startswith(SCENARIO) for name in mix}
    return [*(CONTROLS if False in kinds else ()), *(WHOLE_CONTROLS if True in kinds else ())]


def _identity(subject: Subject, settings: Mapping[str, Any], played: str) -> dict[str, Any]:
    return {"version": __version__, **settings, "subject": subject.identity, "played": played}
