"""Wrong answers of an evaluation: what is taken for what, and examples of each kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from rxrl.evaluation.records import TurnRecord
from rxrl.facts import named
from rxrl.types import Turn

CONFUSIONS, EXAMPLES = 12, 15
"""Most confusions in the table, and most examples of each kind of question."""
NOTHING = "no value"


def mistakes_view(records: Sequence[TurnRecord]) -> dict[str, Any] | None:
    """What the page shows of wrong answers; None without any.

    Args:
        records: Turns with the true memory.
    """
    asked = [record for record in records if record.retention is not None]
    wrong = [record for record in asked if not record.exact]
    if not wrong:
        return None
    pairs = Counter(pair for record in wrong for pair in confusions(record.turn))
    kinds: dict[str, list[TurnRecord]] = defaultdict(list)
    for record in wrong:
        kinds[record.turn.kind or "other"].append(record)
    return {
        "wrong": len(wrong),
        "asked": len(asked),
        "confusions": [(*pair, count) for pair, count in sorted(pairs.items(), key=lambda each: (-each[1], each[0]))[:CONFUSIONS]],
        "kinds": [(kind, len(found), [_row(record) for record in _spread(found)]) for kind, found in sorted(kinds.items())],
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


def _spread(records: Sequence[TurnRecord]) -> list[TurnRecord]:
    """A few of the records, of all distances alike."""
    ordered = sorted(records, key=lambda record: (record.turn.distance or 0, record.key))
    count = min(EXAMPLES, len(ordered))
    return [ordered[index * len(ordered) // count] for index in range(count)]


def _row(record: TurnRecord) -> dict[str, Any]:
    turn = record.turn
    return {"distance": turn.distance, "query": turn.query, "answer": turn.answer, "reference": turn.reference}
