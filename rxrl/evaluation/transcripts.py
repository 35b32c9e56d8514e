"""Which conversations a report shows, and how their turns are put."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rxrl.evaluation.records import EXACT, TurnRecord
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
    thought: str = ""


@dataclass(frozen=True, slots=True)
class Episode:
    """One conversation as the page shows it."""

    id: str
    score: float
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
        conversations[record.turn.conversation_id].append(record)
    scored = [found for found in conversations.values() if any(score_of(record) is not None for record in found)]
    if not scored:
        return []
    longest = max(found[0].turn.steps for found in scored)
    ranked = sorted((_episode(found) for found in scored if found[0].turn.steps == longest), key=lambda shown: (-shown.score, shown.id))
    last = len(ranked) - 1
    places = {round(index * last / (count - 1)) for index in range(count)} if count > 1 else {0}
    return [ranked[place] for place in sorted(places)]


def _episode(records: Sequence[TurnRecord]) -> Episode:
    records = sorted(records, key=lambda record: record.turn.index)
    first, scores = records[0].turn, [score for record in records if (score := score_of(record)) is not None]
    return Episode(
        id=first.conversation_id,
        score=sum(scores) / len(scores),
        steps=first.steps,
        strategy=first.strategy,
        told=first.history[0] if first.index == 1 and first.history else None,
        turns=[_shown(record) for record in records],
        right=sum(score >= EXACT for score in scores),
        asked=len(scores),
    )


def _shown(record: TurnRecord) -> ShownTurn:
    turn, score = record.turn, score_of(record)
    verdict = "" if score is None else "right" if score >= EXACT else "partly" if score > 0 else "wrong"
    label = ""
    if record.retention is None and turn.outcome is not None:
        label = f"{turn.outcome.value or 0:.3g} of 10"
    if record.retention is not None:
        label = "never told" if turn.unknown else "asked" if turn.distance is None else f"asked, distance {turn.distance}"
    return ShownTurn(turn.index, turn.query, turn.answer, turn.reference, verdict, label, record.reward, turn.thought)


def score_of(record: TurnRecord) -> float | None:
    """How good an answer was, from 0 to 1: its retention, else what the scenario says; None where neither says anything."""
    if record.retention is not None:
        return record.retention
    outcome = None if record.turn.outcome is None else record.turn.outcome.value
    return None if outcome is None else outcome / 10
