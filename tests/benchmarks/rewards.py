"""Speed of the rewards: turns a second of `retention` on texts that it has not seen, `classic` on long answers, and every
reward on answers of a megabyte."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count, cycle, islice
from typing import Any

from rxrl.data import GeneratedSource
from rxrl.factory import make_vector_env
from rxrl.rewards import BUILT_IN, Classic, load_reward
from rxrl.rewards.samples import saved
from rxrl.types import RewardFunction, SavedInteraction, Turn
from tests.benchmarks.measure import Bench, Row
from tests.rewards.huge import ALONE, KINDS, SIZE, huge_turn

CONVERSATIONS, STEPS, BATCH = 64, 16, 1024
NEW_ANSWERS = 80 * BATCH
"""Different answers: more than any cache of parsed texts holds, so that each is new when its turn comes again."""
LONG, ANSWERS, VOCABULARY = 256, 16, 7500
RETENTION_BAR, CLASSIC_BAR, HUGE_BAR = 20_000.0, 4.0, 2000.0
OF_TOKENS = frozenset({"bleu", "classic", "cosine", "length"})


def rows(bench: Bench, presets: Sequence[str]) -> Iterator[Row]:
    """Measures the rewards; they need no preset."""
    turns = _played()
    many = 4 * BATCH if bench.quick else NEW_ANSWERS
    new = [replace(turn, answer=f"{turn.answer} ({number})") for number, turn in enumerate(islice(cycle(turns), many))]
    yield bench.rate("-", "retention, new answers", _in_batches(load_reward("retention"), new), BATCH, "turns/s", RETENTION_BAR)
    yield bench.rate("-", "retention, the same answers again", _in_batches(load_reward("retention"), turns[:BATCH]), BATCH, "turns/s")
    classic, long = Classic(), _long_turns()
    yield bench.time("-", f"classic, {ANSWERS} answers of {LONG} tokens", lambda: classic(long), CLASSIC_BAR)
    yield from _huge(bench)
    for name in ("bleu", "cosine", "exact", "token_f1"):
        yield bench.rate("-", name, _in_batches(load_reward(name), turns[:BATCH]), BATCH, "turns/s")


def _huge(bench: Bench) -> Iterator[Row]:
    """Answers of a megabyte: rewards that look at tokens alone do not tell their kinds apart."""
    for name in sorted(BUILT_IN.keys() - ALONE):
        reward = load_reward(name)
        for kind in list(KINDS)[:1] if name in OF_TOKENS else KINDS:
            turn = huge_turn(kind, SIZE // 64 if bench.quick else SIZE)
            shown = "tokens" if name in OF_TOKENS else kind
            yield bench.time("-", f"{name}, an answer of 1 MB: {shown}", _ever_new(reward, turn), HUGE_BAR)


def _ever_new(reward: RewardFunction, turn: Turn) -> Callable[[], Any]:
    """Scores an answer that differs from call to call, so that nothing of it is cached."""
    numbers = count()
    return lambda: reward([replace(turn, answer=f"{next(numbers)} {turn.answer}")])


def _played() -> list[Turn]:
    """Turns of the embedded world, half of them with another turn's answer."""
    conversations = GeneratedSource(level=1, seed=0, split="train").take(steps=STEPS, strategy="multi-step", start=0, count=CONVERSATIONS)
    envs = make_vector_env(CONVERSATIONS, conversations=conversations, teacher_forcing=True)
    envs.reset(seed=0, options={"conversations": conversations})
    turns: list[Turn] = []
    while envs.active.any():
        *_, info = envs.step({"ids": [[0]] * CONVERSATIONS, "length": [0] * CONVERSATIONS})
        turns += [turn for turn in info["turns"] if turn is not None]
    draws = random.Random(0)
    return [_answered(turn, turn if draws.random() < 0.5 else draws.choice(turns)) for turn in turns]


def _answered(turn: Turn, other: Turn) -> Turn:
    return replace(turn, answer=other.reference, answer_ids=other.reference_ids)


def _in_batches(reward: RewardFunction, turns: Sequence[Turn]) -> Callable[[], Any]:
    batches = cycle([turns[start : start + BATCH] for start in range(0, len(turns), BATCH)])
    return lambda: reward(next(batches))


def _long_turns() -> list[Turn]:
    draws = random.Random(1)

    def ids() -> tuple[int, ...]:
        return tuple(draws.randrange(7, VOCABULARY) for _ in range(LONG))

    base = replace(_blank(), index=1)
    return [
        replace(base, answer_ids=ids(), reference_ids=ids(), saved=(SavedInteraction("", "", ids()[: LONG // 2], ids()[LONG // 2 :]),))
        for _ in range(ANSWERS)
    ]


def _blank() -> Turn:
    return Turn("long", 1, 1, "multi-step", "", "", "", (), (), (), (saved("", ""),), asking=True)
