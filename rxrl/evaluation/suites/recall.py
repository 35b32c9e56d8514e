"""Associative recall of many pairs, after MQAR (Arora et al., 2023), told in interactions."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from rxrl import lexicon
from rxrl.errors import ConfigError
from rxrl.evaluation.suites.base import Group, Setting, Suite
from rxrl.seeding import derive_seed
from rxrl.types import Conversation, Interaction

KEYS = tuple(f"{first}{second}" for first in "bdfgklmnprstvz" for second in "aeiou")
"""Syllables that mean nothing."""
VALUES = tuple(value for values in lexicon.VALUES.values() for value in values)
TOLD = "Okay."
MOST_QUESTIONS = 16


class Mqar(Suite):
    """Associative recall: pairs of a syllable and a word are told, a few at once, and each syllable is asked for later."""

    name = "mqar"
    unpublished = (
        "No published score is listed: MQAR trains a model on the task itself, on one sequence of arbitrary tokens, and scores every token "
        "that repeats a key; here syllables and words are told in sentences of a conversation."
    )
    options: ClassVar[Mapping[str, Any]] = {"pairs": [4, 8, 16, 32, 64], "together": 4}

    def groups(self, setting: Setting) -> list[Group]:
        """One group for each number of pairs."""
        chosen = self.chosen(setting)
        for pairs in chosen["pairs"]:
            if not isinstance(pairs, int) or not 1 <= pairs <= len(KEYS):
                raise ConfigError(f"pairs of the suite {self.name} are whole numbers from 1 to {len(KEYS)}, got {pairs!r}.")
        if chosen["together"] < 1:
            raise ConfigError(f"together of the suite {self.name} is at least 1, got {chosen['together']}.")
        return [
            Group(f"{pairs} pairs", tuple(self._conversations(pairs, chosen["together"], setting)), note=_note(pairs))
            for pairs in chosen["pairs"]
        ]

    def _conversations(self, pairs: int, together: int, setting: Setting) -> Iterator[Conversation]:
        for number in range(setting.count or self.count):
            name = f"mqar-{pairs}-{number}"
            yield recall(name, pairs, together, random.Random(derive_seed(setting.seed, name)))


def recall(name: str, pairs: int, together: int, rng: random.Random) -> Conversation:
    """One conversation.

    Args:
        name: Its id.
        pairs: Pairs that are told, each with a value of its own.
        together: Pairs that one interaction tells at most.
        rng: Draws keys, values, and which are asked for in which order.
    """
    keys, values = rng.sample(KEYS, pairs), rng.sample(VALUES, pairs)
    told = list(zip(keys, values, strict=True))
    tells = [
        Interaction(
            ", ".join(f"{key} {value}" for key, value in part) + ".", TOLD,
            tuple((f"{key}.value", value) for key, value in part), (), kind="tell",
        )
        for part in (told[start : start + together] for start in range(0, pairs, together))
    ]  # fmt: skip
    asked = rng.sample(told, min(pairs, MOST_QUESTIONS))
    asks = [Interaction(f"{key}?", value, asks=(f"{key}.value",), kind="ask") for key, value in asked]
    return Conversation(name, tells[0], (*tells[1:], *asks), {"pairs": pairs})


def _note(pairs: int) -> str:
    return "" if pairs <= MOST_QUESTIONS else f"{MOST_QUESTIONS} of the {pairs} are asked for"
