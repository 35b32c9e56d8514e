"""Whose memory a row may read in the swapped-memory control: another conversation that knows the same, but differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rxrl.facts import value_words
from rxrl.seeding import derive_seed
from rxrl.types import Conversation, Scenario

WINDOW = 400
"""Conversations among which batches are arranged; the work grows with its square."""

Values = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What one conversation has told before each turn, and what each turn asks for.

    Attributes:
        told: For each turn the value (as words) of every key that was told before it.
        asked: For each turn the right value of each asked key; empty where nothing that was told is asked.
        reacts: What is told depends on the answers, so that nothing of it is known beforehand.
    """

    told: Sequence[Values]
    asked: Sequence[Values]
    reacts: bool = False

    @classmethod
    def of(cls, conversation: Scenario) -> Knowledge:
        """Reads it off the facts and asks of the interactions."""
        if not isinstance(conversation, Conversation):
            return cls([], [], reacts=True)
        known: dict[str, tuple[str, ...]] = {}
        told: list[Values] = []
        asked: list[Values] = []
        for before, interaction in zip(conversation.interactions, conversation.follow_ups, strict=False):
            known.update((key, value_words(value)) for key, value in before.facts)
            told.append(dict(known))
            keys = () if interaction.unknown else interaction.asks or ()
            asked.append({key: known[key] for key in keys if key in known})
        return cls(told, asked)

    def differs(self, other: Knowledge, turn: int) -> bool:
        """Whether `other` holds every key that is asked here at `turn` (from 1), each with another value; any other, where users react."""
        if self.reacts:
            return other.reacts
        if turn > min(len(self.asked), len(other.told)) or not self.asked[turn - 1]:
            return False
        told = other.told[turn - 1]
        return all(key in told and told[key] != value for key, value in self.asked[turn - 1].items())


def choose_partners(batch: Sequence[Scenario], known: Mapping[str, Knowledge], rows: Sequence[int], turn: int, seed: int) -> dict[int, int]:
    """For each of `rows` that asks and has a partner in the batch: the row whose memory it reads.

    Args:
        batch: Conversation of each row.
        known: Knowledge by conversation id.
        rows: Rows that wait for an answer; only these have a memory of this turn.
        turn: The turn, from 1.
        seed: Keys the choice among several partners.
    """
    chosen: dict[int, int] = {}
    for row in rows:
        own = known[batch[row].id]
        partners = [other for other in rows if other != row and own.differs(known[batch[other].id], turn)]
        if partners:
            chosen[row] = min(partners, key=lambda other: derive_seed(seed, "swap", batch[row].id, turn, batch[other].id))
    return chosen


def arrange(conversations: Sequence[Scenario], known: Mapping[str, Knowledge], size: int) -> list[list[Scenario]]:
    """Batches of `size`, the last of a window maybe smaller, in which as many questions as possible have a partner.

    Args:
        conversations: In any order.
        known: Knowledge by conversation id.
        size: Rows of a batch.
    """
    batches = []
    for start in range(0, len(conversations), max(WINDOW // size, 1) * size):
        window = conversations[start : start + max(WINDOW // size, 1) * size]
        batches += _arrange_window(window, known, size)
    return batches


def _arrange_window(conversations: Sequence[Scenario], known: Mapping[str, Knowledge], size: int) -> list[list[Scenario]]:
    serves = _partnerships(conversations, known)
    left = np.ones(len(conversations), dtype=np.bool_)
    batches: list[list[Scenario]] = []
    while left.any():
        first = int(np.flatnonzero(left)[0])
        batch = [first]
        left[first] = False
        while len(batch) < size and left.any():
            best = int(np.argmax(np.where(left, _gain(serves, batch), -1)))
            batch.append(best)
            left[best] = False
        batches.append([conversations[index] for index in batch])
    return batches


def _partnerships(conversations: Sequence[Scenario], known: Mapping[str, Knowledge]) -> NDArray[np.bool_]:
    """Returns bool `[asker, turns, partner]`: whether the partner serves the asker's question of that turn."""
    own = [known[conversation.id] for conversation in conversations]
    turns = max(conversation.steps for conversation in conversations)
    serves = np.zeros((len(own), turns, len(own)), dtype=np.bool_)
    for asker, mine in enumerate(own):
        for turn in range(1, len(mine.asked) + 1):
            if mine.asked[turn - 1]:
                serves[asker, turn - 1] = [other is not mine and mine.differs(other, turn) for other in own]
    return serves


def _gain(serves: NDArray[np.bool_], batch: Sequence[int]) -> NDArray[np.int64]:
    """int64 `[conversations]`: questions that get their first partner when a conversation joins the batch."""
    served = np.asarray(serves[:, :, batch].any(axis=2))
    inside = (serves[batch] & ~served[batch][:, :, None]).sum(axis=(0, 1))
    return np.asarray(inside + served.sum(axis=1), dtype=np.int64)
