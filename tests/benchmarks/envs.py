"""Speed of the environments without a model: conversations with no memory and with a transcript, and the built-in scenarios."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rxrl.data import GeneratedSource
from rxrl.envs import ConversationEnv, ConversationVectorEnv
from rxrl.envs.scenarios import SCENARIOS, load
from rxrl.factory import make_env, make_vector_env
from rxrl.seeding import Draws
from tests.benchmarks.measure import Bench, Row

STEPS, CONVERSATIONS, ROWS = 16, 64, 64
ANSWER = "I do not know."
TURNS_BAR, COST_BAR = 20_000.0, 2.0
"""Turns a second of a batched scenario, and what a turn of a scenario may cost: so many of a conversation's."""


def rows(bench: Bench, presets: Sequence[str]) -> Iterator[Row]:
    """Measures the single and the batched environment; they need no preset."""
    conversations = GeneratedSource(level=1, seed=0, split="train").take(steps=STEPS, strategy="multi-step", start=0, count=CONVERSATIONS)
    scripted: list[Row] = []
    for memory in ("none", "transcript"):
        single = make_env(conversations, memory=memory)
        batched = make_vector_env(ROWS, conversations=conversations, memory=memory)
        scripted += [
            bench.rate("-", f"steps, one conversation, memory {memory}", _episode(single, ANSWER), STEPS, "steps/s"),
            bench.rate("-", f"steps, {ROWS} conversations, memory {memory}", _episodes(batched, ANSWER), ROWS * STEPS, "steps/s"),
        ]
        yield from scripted[-2:]
        yield bench.rate("-", f"resets, one conversation, memory {memory}", single.reset, 1, "resets/s")
        yield bench.rate("-", f"resets, {ROWS} conversations, memory {memory}", batched.reset, ROWS, "resets/s")
    for name in (name for name, kind in SCENARIOS.built_in.items() if not kind.asks_outside):
        yield from _scenario(bench, name, scripted[0], scripted[1])


def _scenario(bench: Bench, name: str, single: Row, batched: Row) -> Iterator[Row]:
    """Turns of a scenario, and what they cost against those of conversations in the same environments."""
    games = load(name).take(steps=STEPS, count=CONVERSATIONS)
    answer = games[0].random_answer(games[0].start(), Draws(0))
    one = bench.rate("-", f"steps, one {name}", _episode(make_env(games), answer), STEPS, "steps/s")
    many = bench.rate(
        "-", f"steps, {ROWS} {name}", _episodes(make_vector_env(ROWS, conversations=games), answer), ROWS * STEPS, "steps/s", TURNS_BAR
    )
    yield one
    yield many
    for row, other in ((one, single), (many, batched)):
        cost = (other.by_cpu or other.value or 0.0) / (row.by_cpu or row.value or 1.0)
        yield bench.value("-", f"{row.name}: cost of a turn", cost, "conversations' turns", bar=COST_BAR)


def _episode(env: ConversationEnv, answer: str) -> Callable[[], Any]:
    def work() -> None:
        env.reset(seed=0)
        over = False
        while not over:
            _, _, terminated, truncated, _ = env.step(answer)
            over = terminated or truncated

    return work


def _episodes(envs: ConversationVectorEnv, answer: str) -> Callable[[], Any]:
    ids = np.tile(np.array(envs.codec.encode(answer)), (ROWS, 1))
    action = {"ids": ids, "length": np.full(ROWS, ids.shape[1])}

    def work() -> None:
        envs.reset(seed=0)
        for _ in range(STEPS):
            envs.step(action)

    return work
