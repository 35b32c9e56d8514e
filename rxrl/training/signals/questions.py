"""Questions about told facts, in the words of the data: what probes ask, and how the same sentence sounds with another value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rxrl.facts import value_words
from rxrl.types import Conversation, Scenario

MOST_PHRASINGS = 8
"""Phrasings of a question that are kept for each key."""


@dataclass(frozen=True, slots=True)
class Phrasing:
    """A question for one fact as it stands in the data, with its answer and the value that this holds."""

    query: str
    answer: str
    value: str

    def answer_with(self, value: str) -> str | None:
        """The same answer with another value; None where that cannot be told."""
        return self.answer if value_words(value) == value_words(self.value) else with_value(self.answer, self.value, value)


def with_value(text: str, old: str, new: str) -> str | None:
    """A sentence with one value in place of another; None where the old one does not stand in it exactly once."""
    found = list(re.finditer(rf"(\ban?\s+)?\b{re.escape(old)}\b", text, re.IGNORECASE))
    if len(found) != 1:
        return None
    article, said = found[0][1] or "", found[0][0][len(found[0][1] or "") :]
    if article:
        wanted = "an" if new[:1].lower() in "aeiou" else "a"
        article = (wanted.capitalize() if article[0].isupper() else wanted) + article.lower().lstrip("an")
    shown = new[:1].upper() + new[1:] if said[0].isupper() else new
    return f"{text[: found[0].start()]}{article}{shown}{text[found[0].end() :]}"


def phrasings(scenarios: Iterable[Scenario]) -> dict[str, tuple[Phrasing, ...]]:
    """How the data asks for single facts, by key, where it has the answer; what scenarios that react ask for is not known beforehand."""
    found: dict[str, dict[Phrasing, None]] = {}
    for key, phrasing in (pair for each in scenarios if isinstance(each, Conversation) for pair in _asked(each)):
        known = found.setdefault(key, {})
        if len(known) < MOST_PHRASINGS:
            known[phrasing] = None
    return {key: tuple(known) for key, known in found.items()}


def _asked(conversation: Conversation) -> Iterator[tuple[str, Phrasing]]:
    told: dict[str, str] = {}
    for interaction in conversation.interactions:
        asks = interaction.asks or ()
        if interaction.answer and len(asks) == 1 and not interaction.unknown and asks[0] in told:
            yield asks[0], Phrasing(interaction.query, interaction.answer, told[asks[0]])
        told.update(interaction.facts)


def fitting(known: Mapping[str, Sequence[Phrasing]], key: str, value: str) -> list[tuple[str, str]]:
    """Questions for a fact with their right answers; those whose answer holds the very value first."""
    exact = [(each.query, each.answer) for each in known.get(key, ()) if value_words(each.value) == value_words(value)]
    changed = ((each.query, each.answer_with(value)) for each in known.get(key, ()))
    return exact or [(query, answer) for query, answer in changed if answer is not None]
