"""Retention metrics with intervals that respect conversations: questions of one conversation are correlated.

Every interval is a 95 % percentile bootstrap over conversations, paired where two conditions share them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rxrl.errors import ConfigError, unknown_name
from rxrl.evaluation.chance import chance
from rxrl.evaluation.records import TurnRecord, asking_keys
from rxrl.evaluation.resuming import TurnCost
from rxrl.facts import named
from rxrl.types import Turn

RESAMPLES = 2000
LEVEL = 0.95
FULL_EPISODE = 16
NEAR = range(1, 3)
FAR = range(9, 17)

Select = Callable[[TurnRecord], bool]

SELECTIONS: Mapping[str, Select] = {
    "retention": lambda record: True,
    "retention_at_16": lambda record: record.turn.steps == FULL_EPISODE,
    "retention_near": lambda record: record.turn.distance in NEAR,
    "retention_far": lambda record: record.turn.distance in FAR,
}
"""Named groups of asking turns: all, those of 16-turn episodes, those at distance 1 to 2, those at distance 9 to 16."""

Array = NDArray[np.float64]


def bootstrap(
    values: Sequence[float] | Array, groups: Sequence[str] | Sequence[int], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """Mean of `values` with its bootstrap interval over groups.

    Args:
        values: One number a turn.
        groups: The conversation of each value.
        seed: Seed of the resampling.
        resamples: Number of bootstrap samples.

    Returns:
        Mean, lower and upper end of the 95 % interval.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or array.size != len(groups):
        raise ConfigError(f"Expected one conversation for each of at least one value, got {array.size} values, {len(groups)} groups.")
    # Sorted, so that the order of the records does not change which conversations are drawn.
    position = {group: place for place, group in enumerate(sorted(set(groups), key=str))}
    index = np.fromiter((position[group] for group in groups), dtype=np.int64, count=len(groups))
    sums = np.bincount(index, weights=array)
    counts = np.bincount(index).astype(np.float64)
    number = len(counts)
    draws = np.random.default_rng(seed).multinomial(number, np.full(number, 1.0 / number), size=resamples)
    means = (draws @ sums) / (draws @ counts)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(array.mean()), float(low), float(high)


def interval(records: Iterable[TurnRecord], *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any] | None:
    """Mean retention of the asking turns among `records`, with interval, exact accuracy and counts; None without any."""
    asking = _asking(records)
    if not asking:
        return None
    mean, low, high = bootstrap(_retention(asking), _conversations(asking), seed=seed, resamples=resamples)
    exact = [float(bool(record.exact)) for record in asking]
    return {
        "mean": mean,
        "low": low,
        "high": high,
        "exact": _mean(exact),
        "exact_interval": list(bootstrap(exact, _conversations(asking), seed=seed, resamples=resamples)[1:]),
        "turns": len(asking),
        "conversations": len(set(_conversations(asking))),
    }


def binding_interval(records: Iterable[TurnRecord], *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any] | None:
    """Share of the answers that name no other entity's value, over the turns where one was told, with interval; None without any.

    An answer that names nothing at all confuses nobody, so this is to be read beside retention.
    """
    told = [(record, others) for record in _asking(records) if (others := _values_of_others(record.turn))]
    if not told:
        return None
    right = [float(not named(record.turn.answer, others)) for record, others in told]
    conversations = _conversations([record for record, _ in told])
    mean, low, high = bootstrap(right, conversations, seed=seed, resamples=resamples)
    return {"mean": mean, "low": low, "high": high, "turns": len(told), "conversations": len(set(conversations))}


def _values_of_others(turn: Turn) -> tuple[str, ...]:
    """What was told of others for the asked attributes, without what the right answer names."""
    values = tuple(dict.fromkeys(value for values in turn.told_rivals.values() for value in values))
    right = named(turn.reference, values)
    return tuple(value for value in values if value not in right)


def retention_by_distance(records: Iterable[TurnRecord], *, seed: int = 0, resamples: int = RESAMPLES) -> list[dict[str, Any]]:
    """F1 and exact accuracy at each distance that occurs, nearest first, as `interval` gives them."""
    groups: dict[int, list[TurnRecord]] = defaultdict(list)
    for record in _asking(records):
        if record.turn.distance is not None:
            groups[record.turn.distance].append(record)
    rows = [(distance, interval(groups[distance], seed=seed, resamples=resamples)) for distance in sorted(groups)]
    return [{"distance": distance, **row} for distance, row in rows if row is not None]


def compare(
    first: Iterable[TurnRecord],
    second: Iterable[TurnRecord],
    *,
    select: str = "retention",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any] | None:
    """Paired difference in retention of two evaluations on the asking turns that both have: `first` minus `second`.

    Args:
        first: Records of one evaluation.
        second: Records of the other; only turns that occur in both (same conversation, same turn) count.
        select: Name in `SELECTIONS`; a turn counts where it belongs to the selection in both evaluations.
        seed: Seed of the resampling.
        resamples: Number of bootstrap samples.

    Returns:
        `difference`, `low`, `high`, the two means `first` and `second`, `turns`, `conversations`; None without shared turns.

    Raises:
        ConfigError: `select` is unknown, or a turn occurs twice in one evaluation.
    """
    left, right = (_by_key(records, _selection(select)) for records in (first, second))
    keys = [key for key in left if key in right]
    if not keys:
        return None
    ours, theirs = (np.asarray(_retention([side[key] for key in keys])) for side in (left, right))
    difference, low, high = bootstrap(ours - theirs, [key[0] for key in keys], seed=seed, resamples=resamples)
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "first": float(ours.mean()),
        "second": float(theirs.mean()),
        "turns": len(keys),
        "conversations": len({key[0] for key in keys}),
    }


def summarise(records: Sequence[TurnRecord], *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Summarises one evaluation for a report (its `after_supervised`, `after_mrl`).

    Args:
        records: All turns of the evaluation.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap samples.

    Returns:
        JSON values. `retention`, `retention_at_16`, `retention_near`, `retention_far`: mean F1 (None where there are no such turns), each
        with `<name>_interval` (low, high), `<name>_exact`, `<name>_turns` and `<name>_conversations`. `binding_accuracy`: share of answers
        that name no other entity's value where one was told (None where nothing has a rival), with the same. `retention_by_distance`:
        mean F1 by distance (as a string); `by_distance`: the same with intervals. `by_turn`, `by_kind`. `reward`: mean, min, max over
        turns that ask or that a scenario judged, and the lowest and highest mean of an episode; `reward_other`: the same over the other
        turns. `terms`: mean of each reward term over the former. `chance`. Counts.
    """
    summary: dict[str, Any] = {
        "conversations": len({record.turn.conversation_id for record in records}),
        "turns": len(records),
        "asking_turns": len(_asking(records)),
    }
    for name, select in SELECTIONS.items():
        part = interval(filter(select, records), seed=seed, resamples=resamples)
        summary[name] = part and part["mean"]
        summary[f"{name}_interval"] = part and [part["low"], part["high"]]
        summary[f"{name}_exact"] = part and part["exact"]
        summary[f"{name}_exact_interval"] = part and part["exact_interval"]
        summary[f"{name}_turns"] = part["turns"] if part else 0
        summary[f"{name}_conversations"] = part["conversations"] if part else 0
    binding = binding_interval(records, seed=seed, resamples=resamples)
    summary |= {
        "binding_accuracy": binding and binding["mean"],
        "binding_accuracy_interval": binding and [binding["low"], binding["high"]],
        "binding_accuracy_turns": binding["turns"] if binding else 0,
        "binding_accuracy_conversations": binding["conversations"] if binding else 0,
    }
    rows = retention_by_distance(records, seed=seed, resamples=resamples)
    asking, counted = _asking(records), rewarded(records)
    known = {record.key for record in counted}
    other = [record for record in records if record.key not in known]
    return summary | {
        "retention_by_distance": {str(row["distance"]): row["mean"] for row in rows},
        "by_distance": rows,
        "by_turn": _by_turn(asking),
        "by_kind": _by_kind(asking, seed, resamples),
        "reward": reward_range(counted),
        "reward_interval": _reward_interval(counted, seed, resamples),
        "reward_other": reward_range(other),
        "terms": _term_means(counted),
        "chance": chance(_headline(records)),
    }


def summarise_controls(
    true: Sequence[TurnRecord], controls: Mapping[str, Sequence[TurnRecord]], *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Summarises the controls of one evaluation for a report (its `controls`).

    Args:
        true: Records with the true memory.
        controls: Records of each control (`empty_memory`, `swapped_memory`, `oracle`) on the same conversations.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap samples.

    Returns:
        `chance` on the headline turns (those of 16-turn episodes; all asking turns where there are none), and for each
        control: `retention_at_16`, `retention` and `retention_far` with intervals, `by_distance`, `chance` on its own turns, `turns`,
        `left_out` (asking turns of the true run that the control does not have), `contribution` (true minus control on
        the same turns, paired).
    """
    asked = asking_keys(true)
    content: dict[str, Any] = {"chance": chance(_headline(true))}
    for control, records in controls.items():
        summary = summarise(records, seed=seed, resamples=resamples)
        names = ("retention", "retention_at_16", "retention_far")
        kept = [name + suffix for name in names for suffix in ("", "_interval", "_turns", "_conversations")]
        kept += ["retention_by_distance", "by_distance", "chance"]
        content[control] = {name: summary[name] for name in kept} | {
            "turns": summary["asking_turns"],
            "left_out": len(asked - asking_keys(records)),
            "contribution": compare(true, records, seed=seed, resamples=resamples),
        }
    return content


def summarise_comparisons(
    *,
    mrl: Sequence[TurnRecord],
    supervised: Sequence[TurnRecord],
    smat: Sequence[TurnRecord] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Compares MRL with its starting checkpoint and with SMAT continued for the same tokens, for a report (its `comparisons`).

    Args:
        mrl: Records after MRL.
        supervised: Records of the checkpoint that MRL started from.
        smat: Records of that checkpoint trained on with SMAT for the same number of tokens, where there is one.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap samples.

    Returns:
        `mrl_minus_supervised` and `mrl_minus_smat` as `compare` gives them, on the turns of 16-turn episodes where there are any.
    """
    select = "retention_at_16" if any(map(SELECTIONS["retention_at_16"], _asking(mrl))) else "retention"
    pairs = {"mrl_minus_supervised": supervised, "mrl_minus_smat": smat}
    results = {name: compare(mrl, other, select=select, seed=seed, resamples=resamples) for name, other in pairs.items() if other}
    return {name: result for name, result in results.items() if result}


def summarise_stage(
    *, steps: int, strategy: str, records: Sequence[TurnRecord], iterations: int, ended: str, name: str | None = None
) -> dict[str, Any]:
    """One entry of a report's `stages`: a curriculum stage with its held-out evaluation.

    Args:
        steps: Turns of an episode in this stage.
        strategy: Strategy or mix of strategies, as text.
        records: Held-out turns evaluated at the end of the stage.
        iterations: Iterations that were trained.
        ended: Why the stage ended, in words.
        name: Name of the stage.
    """
    retention = interval(records)
    return {
        "name": name or f"{steps} steps",
        "steps": steps,
        "strategy": strategy,
        "reward": reward_range(rewarded(records)),
        "retention": retention and retention["mean"],
        "iterations": iterations,
        "ended": ended,
    }


def cost_by_turn(costs: Iterable[TurnCost]) -> list[dict[str, Any]]:
    """Cost of one conversation at each turn (a report's `cost`).

    Returns:
        For each turn: `turn`, mean `tokens` read, mean `seconds`, `conversations`, mean `memory_bytes` (None where not known).
    """
    return [
        {
            "turn": cost.turn,
            "tokens": cost.tokens / cost.rows,
            "seconds": cost.seconds / cost.rows,
            "conversations": cost.rows,
            "memory_bytes": None if cost.memory_bytes is None else cost.memory_bytes / cost.rows,
        }
        for cost in costs
    ]


def rewarded(records: Iterable[TurnRecord]) -> list[TurnRecord]:
    """Turns whose rewards are headline numbers: those that ask for what was told, and those that a scenario judged."""
    return [record for record in records if record.retention is not None or record.turn.outcome is not None]


def reward_range(records: Iterable[TurnRecord]) -> dict[str, Any]:
    """Mean, min and max of the rewards over turns, and the lowest and highest mean of an episode; unscored turns are left out."""
    episodes: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if record.reward is not None:
            episodes[record.turn.conversation_id].append(record.reward)
    rewards = [value for values in episodes.values() for value in values]
    means = [sum(values) / len(values) for values in episodes.values()]
    return {
        "mean": _mean(rewards),
        "min": min(rewards, default=None),
        "max": max(rewards, default=None),
        "episode_min": min(means, default=None),
        "episode_max": max(means, default=None),
        "turns": len(rewards),
    }


def _reward_interval(records: Iterable[TurnRecord], seed: int, resamples: int) -> list[float] | None:
    """Ends of the interval of the mean reward; None where nothing was scored."""
    scored = [(record.reward, record.turn.conversation_id) for record in records if record.reward is not None]
    if not scored:
        return None
    values, groups = zip(*scored, strict=True)
    return list(bootstrap(values, groups, seed=seed, resamples=resamples)[1:])


def _headline(records: Sequence[TurnRecord]) -> Sequence[TurnRecord]:
    full = [record for record in records if SELECTIONS["retention_at_16"](record)]
    return full if _asking(full) else records


def _by_turn(asking: Sequence[TurnRecord]) -> list[dict[str, Any]]:
    groups: dict[int, list[TurnRecord]] = defaultdict(list)
    for record in asking:
        groups[record.turn.index].append(record)
    return [{"turn": turn, "retention": _mean(_retention(groups[turn])), "reward": reward_range(groups[turn])} for turn in sorted(groups)]


def _by_kind(asking: Sequence[TurnRecord], seed: int, resamples: int) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[TurnRecord]] = defaultdict(list)
    for record in asking:
        groups[record.turn.kind or "other"].append(record)
    found = {kind: interval(groups[kind], seed=seed, resamples=resamples) or {} for kind in sorted(groups)}
    names = {"retention": "mean", "low": "low", "high": "high", "turns": "turns"}
    return {kind: {name: part[key] for name, key in names.items()} for kind, part in found.items()}


def _term_means(records: Sequence[TurnRecord]) -> dict[str, float | None]:
    values: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for name, value in record.terms.items():
            if value is not None:
                values[name].append(value)
    return {name: _mean(values[name]) for name in sorted(values)}


def _selection(name: str) -> Select:
    if name not in SELECTIONS:
        raise ConfigError(unknown_name("selection of turns", name, SELECTIONS))
    return SELECTIONS[name]


def _by_key(records: Iterable[TurnRecord], select: Select) -> dict[tuple[str, int], TurnRecord]:
    table: dict[tuple[str, int], TurnRecord] = {}
    for record in _asking(records):
        if record.key in table:
            name, number = record.key
            raise ConfigError(f"Expected every turn once in an evaluation, got turn {number} of {name!r} twice.")
        table[record.key] = record
    return {key: record for key, record in table.items() if select(record)}


def _asking(records: Iterable[TurnRecord]) -> list[TurnRecord]:
    return [record for record in records if record.retention is not None]


def _retention(asking: Sequence[TurnRecord]) -> list[float]:
    return [record.retention for record in asking if record.retention is not None]


def _conversations(records: Sequence[TurnRecord]) -> list[str]:
    return [record.turn.conversation_id for record in records]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
