"""What an evaluation says of scenarios: score by turn, between what can be earned without memory and at best, with its controls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rxrl.envs.scenarios import Game, bounds
from rxrl.evaluation.metrics import RESAMPLES, bootstrap
from rxrl.evaluation.play import EMPTY_WHOLE, SWAPPED_WHOLE
from rxrl.evaluation.records import TurnRecord
from rxrl.evaluation.resuming import TRUE
from rxrl.types import Scenario


def summarise_scenarios(
    scenarios: Sequence[Scenario], played: Mapping[str, Sequence[TurnRecord]], *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """What is said of the games of an evaluation, by the name of the game.

    Args:
        scenarios: What was played; other scenarios than games have no bounds and are left out.
        played: Records of the true memory (`"true"`) and of controls, by name.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap samples.

    Returns:
        For each game: `score` (mean outcome over turns, from 0 to 10) with `interval`, `blind` and `best` (of the players of the game, on
        the same scenarios), `share` (0 at blind, 1 at best), `by_turn`, `blind_by_turn`, `best_by_turn`, `level`, `steps`, `dialogues`;
        `empty_memory` and `swapped_memory` of whole dialogues, None where they were not played.
    """
    games: dict[str, list[Game[Any]]] = defaultdict(list)
    for each in scenarios:
        if isinstance(each, Game):
            games[each.name].append(each)
    return {name: _summary(own, played, seed, resamples) for name, own in games.items()}


def compare_scenarios(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    records: tuple[Sequence[TurnRecord], Sequence[TurnRecord]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """What reinforcement learning made of the games of two evaluations on the same scenarios, for a report (its `scenarios`).

    Args:
        before: What `summarise_scenarios` says of the checkpoint that it started from.
        after: The same of the one that it left.
        records: Of both evaluations, with the true memory.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap samples.

    Returns:
        By the name of the game, what `summarise_scenarios` says of `after`, with its `score` as `after` and `interval` as
        `after_interval`; `before`, `before_interval`, `before_by_turn`; `gain`, the paired difference with `low` and `high`.
    """
    found = {}
    for name, after_it in after.items():
        before_it = before[name]
        kept = {key: value for key, value in after_it.items() if key not in ("score", "interval")}
        found[name] = {
            "before": before_it["score"],
            "before_interval": before_it["interval"],
            "after": after_it["score"],
            "after_interval": after_it["interval"],
            "gain": _gain(name, *records, seed, resamples),
            **kept,
            "before_by_turn": before_it["by_turn"],
        }
    return found


def _gain(name: str, before: Sequence[TurnRecord], after: Sequence[TurnRecord], seed: int, resamples: int) -> dict[str, float]:
    """Mean outcome of dialogues after minus before; the same dialogue may end earlier in one of them."""
    first, second = (_by_dialogue(name, records) for records in (before, after))
    keys = sorted(first.keys() & second.keys())
    difference, low, high = bootstrap([second[key] - first[key] for key in keys], keys, seed=seed, resamples=resamples)
    return {"difference": difference, "low": low, "high": high}


def _by_dialogue(name: str, records: Sequence[TurnRecord]) -> dict[str, float]:
    outcomes: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if (outcome := _outcome(record)) is not None and record.turn.extra.get("scenario") == name:
            outcomes[record.turn.conversation_id].append(outcome)
    return {dialogue: sum(each) / len(each) for dialogue, each in outcomes.items()}


def _summary(games: Sequence[Game[Any]], played: Mapping[str, Sequence[TurnRecord]], seed: int, resamples: int) -> dict[str, Any]:
    names = {game.id for game in games}
    own = {control: [record for record in records if record.turn.conversation_id in names] for control, records in played.items()}
    outcomes, groups = _outcomes(own[TRUE]), [record.turn.conversation_id for record in own[TRUE] if _outcome(record) is not None]
    mean, low, high = bootstrap(outcomes, groups, seed=seed, resamples=resamples)
    found = bounds(games)
    return {
        "score": mean,
        "interval": [low, high],
        "blind": found.blind,
        "best": found.best,
        "share": found.share(mean),
        "by_turn": _by_turn(own[TRUE]),
        "blind_by_turn": list(found.blind_by_turn),
        "best_by_turn": list(found.best_by_turn),
        "level": games[0].level,
        "steps": max(game.steps for game in games),
        "dialogues": len(games),
        "empty_memory": _mean(_outcomes(own.get(EMPTY_WHOLE, ()))),
        "swapped_memory": _mean(_outcomes(own.get(SWAPPED_WHOLE, ()))),
    }


def _outcome(record: TurnRecord) -> float | None:
    return None if record.turn.outcome is None else record.turn.outcome.value


def _outcomes(records: Sequence[TurnRecord]) -> list[float]:
    return [outcome for record in records if (outcome := _outcome(record)) is not None]


def _by_turn(records: Sequence[TurnRecord]) -> list[float | None]:
    turns: dict[int, list[TurnRecord]] = defaultdict(list)
    for record in records:
        turns[record.turn.index].append(record)
    return [_mean(_outcomes(turns[turn])) for turn in sorted(turns)]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
