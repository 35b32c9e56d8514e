"""Test conversations under stress: with small talk inserted, and longer than any that was trained on.

A memory that drifts where nothing is told, or fills up, shows it here and not in the headline.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from rxrl.data.sources import ConversationSource
from rxrl.envs import ConversationVectorEnv
from rxrl.errors import ConfigError
from rxrl.evaluation.metrics import RESAMPLES, interval
from rxrl.evaluation.play import play
from rxrl.lexicon import SMALL_TALK_SHORT
from rxrl.seeding import derive_seed
from rxrl.types import Conversation, Interaction, Policy, Scenario

Place = Literal["spread", "first"]

SMALL_TALK = 48
"""Turns of small talk that are inserted into a conversation."""
LONGER = (32, 64)
"""Turns of the longer conversations."""


def with_small_talk(
    conversations: Sequence[Conversation],
    turns: int,
    place: Place,
    *,
    seed: int,
    talk: Sequence[tuple[str, str]] = SMALL_TALK_SHORT,
    taught: bool = True,
) -> list[Conversation]:
    """The same conversations with turns of small talk inserted, which tell and ask for nothing.

    Args:
        conversations: Their own turns, ids and order stay.
        turns: Turns that are inserted into each, at least 0.
        place: `first`: all of them before the first follow-up. `spread`: evenly before all follow-ups.
        seed: Keys what is said, together with the id of the conversation.
        talk: Queries with answers to choose from.
        taught: Whether the signal `reference` may teach the answers; it leaves them out where the turns say `"taught": false`.

    Returns:
        Conversations of `turns` turns more.

    Raises:
        ConfigError: `turns` is negative.
    """
    if turns < 0:
        raise ConfigError(f"The turns of small talk must be at least 0, but are {turns}.")
    extra = {} if taught else {"taught": False}
    said = [Interaction(query, answer, asks=(), kind="distract", extra=extra) for query, answer in talk]
    return [_talked_into(each, turns, place, random.Random(derive_seed(seed, "small talk", each.id)), said) for each in conversations]


def _talked_into(conversation: Conversation, turns: int, place: Place, rng: random.Random, talk: Sequence[Interaction]) -> Conversation:
    own = conversation.follow_ups
    ends = [turns if place == "first" else turns * (number + 1) // len(own) for number in range(len(own))]

    def follow_ups() -> Iterator[Interaction]:
        said = 0
        for interaction, end in zip(own, ends, strict=True):
            yield from rng.choices(talk, k=end - said)
            said = end
            yield interaction

    return replace(conversation, follow_ups=tuple(follow_ups()))


def stress_axes(test: Sequence[Scenario], longer: ConversationSource | None, *, seed: int, count: int) -> dict[str, list[Conversation]]:
    """What to play on each axis of stress, by its name in a report.

    Args:
        test: Test scenarios; the first conversations among them get small talk.
        longer: Test conversations of any length; None where there are only given ones.
        seed: Keys the small talk.
        count: Conversations of each axis at most; never more than there are in `test`.

    Returns:
        `small_talk_48_spread`, `small_talk_48_first`, `turns_32` and `turns_64`; axes that the data cannot give are left out.
    """
    told = [each for each in test if isinstance(each, Conversation)][:count]
    count = min(count, len(told))
    places: tuple[Place, ...] = ("spread", "first")
    axes = {f"small_talk_{SMALL_TALK}_{place}": with_small_talk(told, SMALL_TALK, place, seed=seed) for place in places if told}
    if longer is not None and count:
        axes |= {f"turns_{steps}": longer.take(steps=steps, strategy="multi-step", start=0, count=count) for steps in LONGER}
    return axes


def measure_stress(
    make: Callable[[Sequence[Conversation]], tuple[ConversationVectorEnv, Policy]],
    axes: Mapping[str, Sequence[Conversation]],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Mean retention on each axis of stress, as `interval` gives it; None where nothing on it is asked.

    Args:
        make: Environment and policy for some conversations.
        axes: As `stress_axes` gives them.
        seed: Keys every draw, the bootstrap's too.
        resamples: Number of bootstrap samples.
    """
    return {
        name: interval(play(*make(conversations), conversations, seed=seed), seed=seed, resamples=resamples)
        for name, conversations in axes.items()
    }


def stress_by_axis(measured: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What several checkpoints (`after_supervised`, ...) reached, sorted by axis: a report's `stress`."""
    axes = dict.fromkeys(axis for found in measured.values() for axis in found)
    return {axis: {when: found[axis] for when, found in measured.items() if axis in found} for axis in axes}
