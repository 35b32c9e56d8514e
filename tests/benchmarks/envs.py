"""Speed of the environments without a model: steps and resets a second, with no memory and with a transcript."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rxrl.data import GeneratedSource
from rxrl.envs import ConversationEnv, ConversationVectorEnv
from rxrl.factory import make_env, make_vector_env
from tests.benchmarks.measure import Bench, Row

STEPS, CONVERSATIONS, ROWS = 16, 64, 64
ANSWER = "I do not know."


def rows(bench: Bench, presets: Sequence[str]) -> Iterator[Row]:
    """Measures the single and the batched environment; they need no preset."""
    conversations = GeneratedSource(level=1, seed=0, split="train").take(steps=STEPS, strategy="multi-step", start=0, count=CONVERSATIONS)
    for memory in ("none", "transcript"):
        single = make_env(conversations, memory=memory)
        yield bench.rate("-", f"steps, one conversation, memory {memory}", _episode(single), STEPS, "steps/s")
        yield bench.rate("-", f"resets, one conversation, memory {memory}", single.reset, 1, "resets/s")
        batched = make_vector_env(ROWS, conversations=conversations, memory=memory)
        yield bench.rate("-", f"steps, {ROWS} conversations, memory {memory}", _episodes(batched), ROWS * STEPS, "steps/s")
        yield bench.rate("-", f"resets, {ROWS} conversations, memory {memory}", batched.reset, ROWS, "resets/s")


def _episode(env: ConversationEnv) -> Callable[[], Any]:
    def work() -> None:
        env.reset(seed=0)
        over = False
        while not over:
            _, _, terminated, truncated, _ = env.step(ANSWER)
            over = terminated or truncated

    return work


def _episodes(envs: ConversationVectorEnv) -> Callable[[], Any]:
    ids = np.tile(np.array(envs.codec.encode(ANSWER)), (ROWS, 1))
    action = {"ids": ids, "length": np.full(ROWS, ids.shape[1])}

    def work() -> None:
        envs.reset(seed=0)
        for _ in range(STEPS):
            envs.step(action)

    return work
