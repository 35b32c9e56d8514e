"""`rxrl chat`: talk to a checkpoint; the answer streams, then its memory is updated."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rxrl.cli.console import echo
from rxrl.cli.device import Device, load_on
from rxrl.cli.output import writable_file
from rxrl.cli.person import at_terminal, typed
from rxrl.errors import CheckpointError, ConfigError, ModelError, unknown_name
from rxrl.models import AnswerEnd, MemoryUpdated, ReactiveSession, Token, generate
from rxrl.models.generation.sampling import chosen_sampling
from rxrl.seeding import generator
from rxrl.template import prompt_tokens
from rxrl.types import TokenBatch, prompt_ids

_RESULT = "/result"
_COMMANDS = ("/reset", "/save", _RESULT, "/quit")
_SPEAKERS = {"think": "thinks> ", "answer": "model> ", "tool_call": "calls> "}
"""What stands before each segment of what a model says."""


def chat(  # noqa: PLR0913, PLR0917
    checkpoint: Annotated[str, typer.Argument(help="Folder of a checkpoint, or its name on the Hub.")],
    system: Annotated[str | None, typer.Option(help="System prompt; it is written into memory first.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the most likely token (default).")] = False,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="Sampling temperature; 0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Sample from the K most likely tokens only.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample from the smallest set of tokens that has this probability.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum length of an answer, in tokens.")] = None,
    think: Annotated[bool, typer.Option("--think", help="Let the model think before it answers.")] = False,
    tools: Annotated[bool, typer.Option("--tools", help="Let the model call tools. /result TEXT says what a tool gave back.")] = False,
    load_memory: Annotated[Path | None, typer.Option(help="Saved memory to start from.")] = None,
    save_memory: Annotated[
        Path | None, typer.Option(callback=writable_file, help="File that /save writes the memory to; also written at the end.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    device: Device = None,
) -> None:
    """Talk to a model that remembers the conversation: its memory is updated after each answer.

    Commands begin with a slash: /reset forgets the conversation, /save [FILE] saves the memory, /quit ends. --think and --tools need a
    model whose tokenizer has the markers of the interaction template.
    """
    sampling = _sampling(greedy, temperature, top_k, top_p) | {"max_new_tokens": max_new_tokens, "think": think, "calls": tools}
    model, tokenizer = load_on(device, checkpoint)
    if think or tools:
        prompt_tokens("", tokenizer, think=think, result=tools)  # refuses a tokenizer without markers before anything is said
    session = ReactiveSession(model, tokenizer, generator=generator(seed, "chat"), system=system, background=at_terminal())
    if load_memory is not None:
        session.load(load_memory)
        if system is not None:
            session.write_system(system)
    _warm_up(session)
    c = model.config
    commands = _COMMANDS if tools else tuple(each for each in _COMMANDS if each != _RESULT)
    echo(f"{c.name}, memory of {c.memory_layers} x {c.slots} slots, up to {c.max_length} tokens a turn. Commands: {', '.join(commands)}.")
    try:
        for line in _lines():
            _report(session.wait())
            if line == "/quit":
                break
            if tools and line.startswith(_RESULT + " "):
                _answer(session, line.removeprefix(_RESULT).strip(), sampling | {"result": True})
            elif line.startswith("/"):
                _command(session, line, save_memory, commands)
            elif line:
                _answer(session, line, sampling)
        _report(session.wait())
    finally:
        # Ctrl-C at the prompt ends a conversation too.
        if save_memory is not None:
            _save(session, save_memory)


def _warm_up(session: ReactiveSession) -> None:
    """Computes a token that nobody sees: the first one of a process costs several times what the others do."""
    generate(session.model, TokenBatch.pad([prompt_ids([])]), session.stm, max_new_tokens=2)


def _report(updated: MemoryUpdated | None) -> None:
    if updated is not None:
        echo(f"[memory updated] drift {updated.drift:.4f}, {1000 * updated.seconds:.0f} ms", dim=True)


def _sampling(greedy: bool, temperature: float | None, top_k: int | None, top_p: float | None) -> dict[str, Any]:
    truncated = top_k is not None or top_p is not None
    if greedy and (temperature or truncated):
        raise ConfigError("--greedy takes the likeliest token, so it goes with none of --temperature, --top-k and --top-p: leave one out.")
    chosen_sampling(temperature, top_k, top_p)  # refuses wrong values before anything is loaded
    return {"temperature": temperature, "top_k": top_k, "top_p": top_p}


def _lines() -> Iterator[str]:
    """Lines of a person at a terminal, who sees a prompt, or of a pipe, whose lines are shown so that the output reads as a dialogue."""
    interactive = at_terminal()
    while True:
        try:
            line = typed("you> ").strip()
        except EOFError:
            if interactive:
                echo()
            return
        if not interactive and line:
            echo(f"you> {line}")
        yield line


def _answer(session: ReactiveSession, text: str, sampling: dict[str, Any]) -> None:
    try:
        events = session.ask(text, **sampling)
    except ModelError as error:
        echo(f"{error}", fg=typer.colors.RED, err=True)
        return
    now = ""
    try:
        for event in events:
            if isinstance(event, Token):
                if event.segment != now:
                    echo(("\n" if now else "") + _SPEAKERS[event.segment], nl=False)
                    now = event.segment
                echo(event.text, nl=False, **({"dim": True} if now == "think" else {}))
                sys.stdout.flush()
            elif isinstance(event, AnswerEnd):
                echo(f"\n[first token] {1000 * event.first_token_seconds:.0f} ms", dim=True)
            elif isinstance(event, MemoryUpdated):
                _report(event)
    except KeyboardInterrupt:
        echo("\n[answer abandoned, memory as it was]", dim=True)


def _command(session: ReactiveSession, line: str, save_memory: Path | None, commands: Sequence[str]) -> None:
    name, _, argument = line.partition(" ")
    if name == "/reset":
        session.reset()
        echo("[memory reset]", dim=True)
    elif name == "/save":
        target = Path(argument.strip()) if argument.strip() else save_memory
        if target is None:
            echo("/save needs a file: /save FILE, or start with --save-memory FILE.", fg=typer.colors.RED, err=True)
        else:
            _save(session, target)
    else:
        echo(unknown_name("command", name, commands), fg=typer.colors.RED, err=True)


def _save(session: ReactiveSession, target: Path) -> None:
    try:
        session.save(target)
    except CheckpointError as error:
        echo(f"{error}", fg=typer.colors.RED, err=True)
    else:
        echo(f"[memory saved to {target}]", dim=True)
