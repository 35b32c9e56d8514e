"""Chance: what the best constant answer per question kind earns on the same turns."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from rxrl.evaluation.records import EXACT, TurnRecord
from rxrl.facts import attribute_of, value_words
from rxrl.rewards.retention import held
from rxrl.types import Turn

CANDIDATES = 16
"""Constant answers tried for questions whose asked facts are not known: the most frequent references."""


def chance(records: Sequence[TurnRecord], *, exact: bool = False, attribute: Callable[[str], str] = attribute_of) -> float | None:
    """Accuracy of the best constant answer per question kind, measured on the very turns that are given.

    A question kind is the set of attributes asked for. For one fact the best constant is its most frequent value (or
    "I do not know", where that is right more often); for several facts a constant names one value for each and earns the
    share that is right. Answers that list more values than are asked for are not considered. Rows without known
    facts are grouped by `kind`, and the constants tried are their most frequent references.

    Args:
        records: Turns; those that ask for nothing are left out.
        exact: Whether an answer earns 1 where it is exactly right and 0 otherwise, in place of the share that is right.
        attribute: The attribute of a key.

    Returns:
        A number in [0, 1]; None without asking turns.
    """
    asking = [record for record in records if record.retention is not None]
    if not asking:
        return None
    groups: dict[tuple[str, ...], list[Turn]] = defaultdict(list)
    for record in asking:
        groups[_question_kind(record.turn, attribute)].append(record.turn)
    right = (_best_known(each, exact, attribute) if each[0].asks_known else _best_reference(each, exact) for each in groups.values())
    return sum(right) / len(asking)


def _question_kind(turn: Turn, attribute: Callable[[str], str]) -> tuple[str, ...]:
    if not turn.asks_known:
        return ("content", turn.kind or "")
    keys = turn.expected or turn.rivals
    return ("facts", *sorted(attribute(key) for key in keys)) if keys else ("kind", turn.kind or "")


def _best_known(group: Sequence[Turn], exact: bool, attribute: Callable[[str], str]) -> float:
    """Summed score of the best constant answer to questions that ask for the same attributes."""
    known = [turn for turn in group if not turn.unknown]
    if not known:
        return float(len(group))
    if exact:
        whole = Counter(
            tuple(sorted((attribute(key), value_words(value)) for key, value in turn.expected.items())) for turn in known if turn.expected
        )
        return float(max([*whole.values(), len(group) - len(known)]))
    counts: dict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
    for turn in known:
        for name, value in {(attribute(key), value_words(value)) for key, value in turn.expected.items()}:
            counts[name][value] += 1
    asked = Counter(attribute(key) for key in known[0].expected)
    right = sum(count for name, number in asked.items() for _, count in counts[name].most_common(number))
    return max(right / max(asked.total(), 1), float(len(group) - len(known)))


def _best_reference(group: Sequence[Turn], exact: bool) -> float:
    """Summed score of the best of the frequent references, given as the answer to every question of the group."""
    candidates = [text for text, _ in Counter(turn.reference for turn in group).most_common(CANDIDATES)]
    earned = [[held(replace(turn, answer=text, answer_ids=())) or 0.0 for turn in group] for text in candidates]
    return max(float(sum(value >= EXACT for value in values)) if exact else sum(values) for values in earned)
