"""What a set of conversations holds: lengths, asks, distances under reference answers, and what guessing would earn."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rxrl.facts import Asked, FactTracker, attribute_of, attribute_values, value_words
from rxrl.types import Conversation


@dataclass(slots=True)
class DataStats:
    """Counts over a set of conversations, as if every answer were the reference.

    Attributes:
        conversations: Number of conversations.
        turns: Number of follow-ups.
        steps: Conversations by number of turns.
        kinds: Interactions by label, the first ones included.
        asks: Turns that ask for something; those of `unknown` ask for what was never told.
        unknown: Turns that ask for what was never told.
        rivalled: Asking turns for which the same attribute was told of others, with another value.
        facts: Facts that are told, overwrites included.
        distances: Asking turns by distance; None where it is not defined.
        lengths: Lengths of all interactions (query and answer), sorted.
        values: Asked values by question kind, which is the attribute that is asked for; a turn that asks for several facts counts in each.
    """

    conversations: int = 0
    turns: int = 0
    steps: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    asks: int = 0
    unknown: int = 0
    rivalled: int = 0
    facts: int = 0
    distances: Counter[int | None] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)
    values: dict[str, Counter[tuple[str, ...]]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def chance_by_kind(self) -> dict[str, float]:
        """Share of the facts of each kind that its most frequent value gets right."""
        return {kind: max(counts.values()) / counts.total() for kind, counts in sorted(self.values.items())}

    @property
    def chance(self) -> float | None:
        """The same over all asked facts; None where none is known."""
        total = sum(counts.total() for counts in self.values.values())
        return sum(max(counts.values()) for counts in self.values.values()) / total if total else None

    def share_beyond(self, distance: int) -> float | None:
        """Share of the asks with a defined distance that have at least `distance`."""
        defined = {at: count for at, count in self.distances.items() if at is not None}
        return sum(count for at, count in defined.items() if at >= distance) / sum(defined.values()) if defined else None

    def length_at(self, share: float) -> int:
        """Length that a share (0 to 1) of the interactions does not exceed."""
        return self.lengths[min(len(self.lengths) - 1, int(share * len(self.lengths)))]


def data_stats(conversations: Sequence[Conversation], measure: Callable[[str], int] = lambda text: len(text.split())) -> DataStats:
    """Counts what is in some conversations.

    Args:
        conversations: At least one.
        measure: Length of a text: words by default; give `lambda text: len(tokenizer.encode(text))` for tokens.
    """
    stats = DataStats(conversations=len(conversations))
    known = attribute_values(conversations)
    for conversation in conversations:
        stats.turns += conversation.steps
        stats.steps[conversation.steps] += 1
        for interaction in conversation.interactions:
            stats.kinds[interaction.kind or "no label"] += 1
            stats.facts += len(interaction.facts)
            stats.lengths.append(measure(interaction.query) + measure(interaction.answer))
        for asked in asked_under_references(conversation, known):
            _count(stats, asked)
    stats.lengths.sort()
    return stats


def asked_under_references(conversation: Conversation, known: dict[str, tuple[str, ...]]) -> Iterable[Asked]:
    """Yields what each follow-up asks for when all answers before it were the reference."""
    tracker = FactTracker(known)
    for interaction, following in pairwise(conversation.interactions):
        tracker.write(interaction, interaction.answer, str(interaction.extra.get("think", "")))
        yield tracker.ask(following)


def _count(stats: DataStats, asked: Asked) -> None:
    if not asked.asking:
        return
    stats.asks += 1
    stats.unknown += asked.unknown
    stats.rivalled += bool(asked.told_rivals)
    stats.distances[asked.distance] += 1
    for key, value in asked.expected.items():
        stats.values[attribute_of(key)][value_words(value)] += 1
