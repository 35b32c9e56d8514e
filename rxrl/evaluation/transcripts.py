"""Which conversations a report shows, and how their turns are put."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rxrl.evaluation.records import TurnRecord
from rxrl.types import SavedInteraction

SHOWN = 4


@dataclass(frozen=True, slots=True)
class ShownTurn:
    """One turn as the page shows it. `verdict` is `right`, `partly`, `wrong`, or empty where nothing is asked."""

    turn: int
    query: str
    answer: str
    reference: str
    verdict: str
    label: str
    reward: float | None


@dataclass(frozen=True, slots=True)
class Episode:
    """One conversation as the page shows it."""

    id: str
    retention: float
    steps: int
    strategy: str
    told: SavedInteraction | None
    turns: Sequence[ShownTurn]
    right: int
    asked: int


def choose_episodes(records: Sequence[TurnRecord], count: int = SHOWN) -> list[Episode]:
    """Picks conversations from the worst to the best, of the greatest number of steps; the same records give the same choice.

    Args:
        records: Turns of one evaluation.
        count: At most so many conversations.
    """
    conversations: dict[str, list[TurnRecord]] = defaultdict(list)
    for record in records:
        conversations[record.conversation_id].append(record)
    asking = [turns for turns in conversations.values() if any(turn.retention is not None for turn in turns)]
    if not asking:
        return []
    longest = max(turns[0].steps for turns in asking)
    ranked = sorted((_episode(turns) for turns in asking if turns[0].steps == longest), key=lambda shown: (-shown.retention, shown.id))
    last = len(ranked) - 1
    places = {round(index * last / (count - 1)) for index in range(count)} if count > 1 else {0}
    return [ranked[place] for place in sorted(places)]


def _episode(records: Sequence[TurnRecord]) -> Episode:
    turns = sorted(records, key=lambda record: record.turn)
    scores = [record.retention for record in turns if record.retention is not None]
    return Episode(
        id=turns[0].conversation_id,
        retention=sum(scores) / len(scores),
        steps=turns[0].steps,
        strategy=turns[0].strategy,
        told=turns[0].history[0] if turns[0].turn == 1 and turns[0].history else None,
        turns=[_shown(record) for record in turns],
        right=sum(bool(record.exact) for record in turns),
        asked=len(scores),
    )


def _shown(record: TurnRecord) -> ShownTurn:
    verdict = "" if record.retention is None else "right" if record.exact else "partly" if record.retention > 0 else "wrong"
    label = ""
    if record.retention is not None:
        label = "never told" if record.unknown else "asked" if record.distance is None else f"asked, distance {record.distance}"
    return ShownTurn(record.turn, record.query, record.answer, record.reference, verdict, label, record.reward)
