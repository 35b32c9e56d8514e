"""From what was played to the scores of a suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rxrl.evaluation.chance import chance
from rxrl.evaluation.metrics import RESAMPLES, bootstrap
from rxrl.evaluation.records import TurnRecord
from rxrl.evaluation.suites.base import Group, Suite
from rxrl.facts import attribute_of
from rxrl.scoring import HIGHEST
from rxrl.types import Scenario


def played_of(groups: Sequence[Group]) -> list[Scenario]:
    """What the groups play, each scenario once."""
    return list({each.id: each for group in groups for each in group.scenarios}.values())


def suite_summary(
    suite: Suite,
    groups: Sequence[Group],
    records: Sequence[TurnRecord],
    oracle: Sequence[TurnRecord],
    games: Mapping[str, Mapping[str, Any]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Scores of all groups, for an evaluation (its `suite`).

    Args:
        suite: The suite.
        groups: Its groups.
        records: All turns that were played.
        oracle: The same turns answered with the references; none for scenarios.
        games: What `summarise_scenarios` says of them.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap samples.

    Returns:
        `name`, `measures`, `published`, `unpublished`; `groups`, each with `score` (`low`, `high`), `blind` (the best constant answers,
        or the blind player), `oracle` (the references, or the best player), `questions`, `conversations`, `note`; `mean` of the scores.
    """
    rows = [
        _game(group, games[group.name]) if group.name in games else _answers(suite, group, records, oracle, seed, resamples)
        for group in groups
    ]
    scores = [row["score"] for row in rows if row["score"] is not None]
    return {
        "name": suite.name,
        "measures": suite.measures,
        "groups": rows,
        "mean": sum(scores) / len(scores) if scores else None,
        "published": [asdict(each) for each in suite.published],
        "unpublished": suite.unpublished,
    }


def _answers(
    suite: Suite, group: Group, records: Sequence[TurnRecord], oracle: Sequence[TurnRecord], seed: int, resamples: int
) -> dict[str, Any]:
    own, best = (_asking(group, each) for each in (records, oracle))
    row: dict[str, Any] = {"name": group.name, "score": None, "low": None, "high": None, "f1": None, "blind": None, "oracle": None}
    if own:
        names = [record.turn.conversation_id for record in own]
        row["score"], row["low"], row["high"] = bootstrap(_exact(own), names, seed=seed, resamples=resamples)
        row["f1"] = sum(record.retention or 0.0 for record in own) / len(own)
        row["blind"] = chance(own, exact=True, attribute=attribute_of if suite.attributes else lambda _: group.name)
        row["oracle"] = sum(_exact(best)) / len(best) if best else None
    return row | {"questions": len(own), "conversations": len(group.scenarios), "note": group.note}


def _game(group: Group, found: Mapping[str, Any]) -> dict[str, Any]:
    low, high = found["interval"]
    return {
        "name": group.name,
        "score": found["score"] / HIGHEST,
        "low": low / HIGHEST,
        "high": high / HIGHEST,
        "f1": None,
        "blind": found["blind"] / HIGHEST,
        "oracle": found["best"] / HIGHEST,
        "questions": found["dialogues"] * found["steps"],
        "conversations": found["dialogues"],
        "note": group.note,
    }


def _asking(group: Group, records: Sequence[TurnRecord]) -> list[TurnRecord]:
    names = {each.id for each in group.scenarios}
    return [
        record
        for record in records
        if record.retention is not None and record.turn.conversation_id in names and (group.kind is None or record.turn.kind == group.kind)
    ]


def _exact(records: Sequence[TurnRecord]) -> list[float]:
    return [float(bool(record.exact)) for record in records]
