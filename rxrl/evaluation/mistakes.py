"""Wrong answers of an evaluation: what is taken for what, and a list of examples with the filters that a browser offers on it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from rxrl.evaluation.records import TurnRecord
from rxrl.facts import named
from rxrl.types import Turn

CONFUSIONS, EXAMPLES, SHOWN = 12, 15, 200
"""Most confusions in the table; examples of each kind of question, however many kinds there are; examples where there are few kinds."""
NOTHING = "no value"
MISSES: Final = ("another value", "right and wrong values", "some of the values", NOTHING, "a guess at what was never told", "no answer")
"""What can be wrong with an answer."""


class Wrong(NamedTuple):
    """A wrong answer, by what a reader may look for."""

    record: TurnRecord
    kind: str
    miss: str
    confusions: Sequence[tuple[str, str]]

    @classmethod
    def of(cls, record: TurnRecord) -> Wrong:
        """Sorts a wrong answer in."""
        return cls(record, record.turn.kind or "other", miss(record), confusions(record.turn))


def mistakes_view(records: Sequence[TurnRecord]) -> dict[str, Any] | None:
    """What the page shows of wrong answers; None without any.

    Args:
        records: Turns with the true memory.
    """
    asked = [record for record in records if record.retention is not None]
    wrong = [Wrong.of(record) for record in asked if not record.exact]
    if not wrong:
        return None
    pairs = Counter(pair for each in wrong for pair in each.confusions)
    shown = _examples(wrong)
    frequent = sorted(pairs.items(), key=lambda each: (-each[1], each[0]))[:CONFUSIONS]
    filters = _filters(shown, [pair for pair, _ in frequent])
    return {
        "wrong": len(wrong),
        "asked": len(asked),
        "confusions": [(*pair, count) for pair, count in frequent],
        "filters": [found.view for found in filters],
        "rows": [_row(each, place, filters) for place, each in enumerate(shown)],
    }


def confusions(turn: Turn) -> list[tuple[str, str]]:
    """For each asked fact that the answer does not hold: the right value, and the value of the same attribute that it names instead."""
    found = []
    for key, value in turn.expected.items():
        right = (value, *turn.aliases.get(key, ()))
        if not named(turn.answer, right):
            instead = sorted(named(turn.answer, tuple(turn.rivals.get(key, ()))))
            found += [(value, each) for each in instead or [NOTHING]]
    return found


def miss(record: TurnRecord) -> str:
    """What is wrong with an answer: one of `MISSES`."""
    turn = record.turn
    another, mixed, some, nothing, guess, empty = MISSES
    if not turn.answer.strip():
        return empty
    if turn.unknown:
        return guess
    if record.retention:
        return mixed if any(named(turn.answer, tuple(rivals)) for rivals in turn.rivals.values()) else some
    return another if any(instead != NOTHING for _, instead in confusions(turn)) else nothing


class _Filter(NamedTuple):
    """One way to choose among the examples; options are numbered, and each example has the numbers of those that it belongs to."""

    name: str
    label: str
    options: Sequence[tuple[str, int]]
    numbers: Sequence[Sequence[int]]

    @property
    def view(self) -> tuple[str, str, Sequence[tuple[str, int]]]:
        return self.name, self.label, self.options


def _filters(shown: Sequence[Wrong], pairs: Sequence[tuple[str, str]]) -> list[_Filter]:
    """The filters that have something to choose."""
    found = [
        _filter("kind", "Kind of question", [[each.kind] for each in shown], sorted({each.kind for each in shown})),
        _filter("miss", "What is wrong", [[each.miss] for each in shown], MISSES),
        _filter("confusion", "Taken for", [each.confusions for each in shown], pairs, lambda pair: f"{pair[0]}: {pair[1]}"),
        _ranges("turn", "Turn", [each.record.turn.index for each in shown]),
        _ranges("distance", "Distance", [each.record.turn.distance for each in shown]),
    ]
    return [each for each in found if len(each.options) > 1]


def _filter(name: str, label: str, values: Sequence[Sequence[Any]], order: Iterable[Hashable], text: Any = str) -> _Filter:
    """A filter whose options are those of `order` that an example has."""
    counts = Counter(value for each in values for value in set(each))
    options = [value for value in order if counts[value]]
    numbers = [[options.index(value) for value in dict.fromkeys(each) if value in options] for each in values]
    return _Filter(name, label, [(text(value), counts[value]) for value in options], numbers)


def _ranges(name: str, label: str, values: Sequence[int | None]) -> _Filter:
    """A filter by ranges that double: 1, 2, 3 to 4, 5 to 8, ..."""
    ends = [None if value is None else (max(value, 1) - 1).bit_length() for value in values]
    order = sorted({end for end in ends if end is not None})
    return _filter(name, label, [[end] for end in ends], [*order, None], _range)


def _range(end: int | None) -> str:
    if end is None:
        return "none"
    low, high = (2 ** (end - 1) + 1, 2**end) if end else (1, 1)
    return str(high) if low == high else f"{low} to {high}"


def _examples(wrong: Sequence[Wrong]) -> list[Wrong]:
    """A few of each kind of question, of all distances alike, by kind and distance."""
    kinds: dict[str, list[Wrong]] = defaultdict(list)
    for each in wrong:
        kinds[each.kind].append(each)
    most = max(EXAMPLES, SHOWN // len(kinds))
    return [each for _, found in sorted(kinds.items()) for each in _spread(found, most)]


def _spread(found: Sequence[Wrong], most: int) -> list[Wrong]:
    ordered = sorted(found, key=lambda each: (each.record.turn.distance or 0, each.record.key))
    count = min(most, len(ordered))
    return [ordered[index * len(ordered) // count] for index in range(count)]


def _row(wrong: Wrong, place: int, filters: Sequence[_Filter]) -> dict[str, Any]:
    turn = wrong.record.turn
    return {
        "conversation": turn.conversation_id, "turn": turn.index, "distance": turn.distance, "kind": wrong.kind, "miss": wrong.miss,
        "query": turn.query, "thought": turn.thought, "answer": turn.answer, "reference": turn.reference,
        "numbers": {each.name: " ".join(map(str, each.numbers[place])) for each in filters},
    }  # fmt: skip
