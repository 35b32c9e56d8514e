"""`rxrl play`: plays conversations turn by turn and shows what each answer earns, term by term."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Literal

import typer

from rxrl.cli.console import echo, plain_console
from rxrl.cli.device import Device, find_device
from rxrl.cli.person import at_terminal, typed
from rxrl.cli.tally import Tally, memory_line
from rxrl.cli.user import Talk, check_answering
from rxrl.data.mixing import mix_of
from rxrl.data.splits import WORLD
from rxrl.envs import ConversationVectorEnv, scenario_values, token_batch
from rxrl.envs.render import ANSWER, MARGIN, Line, print_lines
from rxrl.errors import ConfigError
from rxrl.players import Play, make_play
from rxrl.policies import Person
from rxrl.rewards.loading import read_spec
from rxrl.seeding import derive_seed, generator
from rxrl.supply import held_out_mix
from rxrl.types import ANSWER_TOKENS, Scenario, Strategy

DEFAULT_STEPS = 6


Data = Annotated[str | None, typer.Argument(help="Conversations to play, or scenario:NAME. Default: conversations of the generated world.")]
PolicyName = Annotated[
    str | None,
    typer.Option(
        help="Who answers: a name (rxrl list policies), best or blind for a scenario, a checkpoint, the folder of a Hugging Face "
        "model, or http://... Default: you."
    ),
]
Role = Annotated[Literal["assistant", "user"], typer.Option("--as", help="Your part: answer as the assistant, or ask as the user.")]
MemoryName = Annotated[
    str | None,
    typer.Option(
        help="What holds the conversation: none, transcript, transcript:N (the last N) or a checkpoint. Default: what the policy needs."
    ),
]
RewardName = Annotated[
    str | None,
    typer.Option(
        help="Reward: a name, {name: weight, ...}, a YAML file or path/file.py:function. Default: retention; outcome for scenarios."
    ),
]


def play(  # noqa: PLR0913, PLR0917
    data: Data = None,
    policy: PolicyName = None,
    role: Role = "assistant",
    memory: MemoryName = None,
    reward: RewardName = None,
    conversations: Annotated[int, typer.Option("--conversations", "-n", min=1, help="Maximum number of conversations.")] = 1,
    level: Annotated[int | None, typer.Option(min=1, max=3, help="Difficulty of the generated world or scenario. Default: 1.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=64, help="Turns of each conversation. Default: 6, or all turns of DATA.")] = None,
    strategy: Annotated[Strategy, typer.Option(help="Structure of the conversations.")] = "multi-step",
    max_answer_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of an answer, in tokens.")] = ANSWER_TOKENS,
    max_think_tokens: Annotated[
        int, typer.Option(min=0, help="Let the model think first, in so many tokens at most. Needs a model trained to.")
    ] = 0,
    teacher_forcing: Annotated[
        bool, typer.Option("--teacher-forcing", help="Write the reference answers into memory, not those that were given.")
    ] = False,
    sampled: Annotated[bool, typer.Option("--sampled", help="Sample answers instead of taking the most likely tokens.")] = False,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature, with --sampled. Default: 1.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt for a language model or a chat endpoint.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of a chat endpoint. Default: the first one it lists.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    device: Device = None,
) -> None:
    """Play conversations turn by turn and see what each answer earns.

    You type the answers yourself (Ctrl-D ends the game), unless --policy names another player. With --as user you type the queries, and the
    player answers: you see what the user of the scenario knows and would say. The key of a chat endpoint is read from OPENAI_API_KEY.
    """
    answering = check_answering(policy, reward, teacher_forcing) if role == "user" else policy or "person"
    if temperature is not None and not sampled:
        raise ConfigError("--temperature is for sampled answers: add --sampled.")
    turns = DEFAULT_STEPS if data is None and steps is None else steps
    chosen, known = held_out_mix(mix_of(data or WORLD), level, turns, strategy, conversations, seed, plain_console(stderr=True).print)
    game = make_play(
        answering,
        chosen,
        memory=memory,
        device=find_device(device),
        reward=None if reward is None else read_spec(reward),
        strategy=strategy,
        teacher_forcing=teacher_forcing,
        max_answer_tokens=max_answer_tokens,
        max_think_tokens=max_think_tokens,
        values=scenario_values([*known, *chosen]),
        temperature=temperature,
        system=system,
        model=model,
    )
    play_all(game, chosen, seed=seed, sampled=sampled, as_user=role == "user")


def play_all(game: Play, chosen: Sequence[Scenario], *, seed: int, sampled: bool, as_user: bool = False) -> None:
    """Plays conversations until the last, or until the person has ended the input, and prints what was earned."""
    if isinstance(game.policy, Person):
        game.policy.ask = _ask
    tally = Tally()
    with suppress(EOFError):
        for conversation in chosen:
            if as_user:
                Talk(game, conversation, seed=seed, sampled=sampled).play(tally)
            else:
                play_conversation(game, conversation, tally, seed=seed, sampled=sampled)
    if as_user and at_terminal():
        echo()
    if tally.earned:
        plain_console().print(tally.table())


def play_conversation(game: Play, conversation: Scenario, tally: Tally, *, seed: int, sampled: bool) -> None:
    """Plays one conversation in the only row of the environment and prints it as it goes.

    Raises:
        EOFError: The person has ended the input.
    """
    envs, policy = game
    options = {"conversations": [conversation], "stm_seeds": [derive_seed(seed, "stm0", conversation.id)]}
    observation, info = envs.reset(seed=seed, options=options)
    typed = isinstance(policy, Person) and at_terminal()
    shown = _show(envs, 0)
    turn = 0
    while envs.active.any():
        turn += 1
        before = envs.memory
        draws = [generator(seed, "answer", conversation.id, turn)] if sampled else None
        observation, rewards, _, _, info = envs.step(policy.act(token_batch(observation), before, draws))
        tally.add(info["turns"][0], float(rewards[0]), info)
        # A person has seen the own answer already.
        shown = _show(envs, shown + typed, memory_line(before, envs.memory))


def _show(envs: ConversationVectorEnv, start: int, note: Line | None = None) -> int:
    """Prints the lines of the episode from `start`, with a note before the query that waits; returns how many there are."""
    lines = envs.transcripts[0] or []
    new = lines[start:]
    if note is not None:
        new.insert(len(new) - bool(envs.active.any()), note)
    print_lines(new)
    return len(lines)


def _ask(query: str) -> str:
    """Reads the answer of a person, who has the query on the screen."""
    return typed(f"{ANSWER.rjust(MARGIN)} ")
