"""Several runs side by side: paired within a seed, resampled over seeds."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rxrl.errors import ConfigError
from rxrl.evaluation.evaluate import Evaluation
from rxrl.evaluation.headlines import RETENTION
from rxrl.evaluation.metrics import RESAMPLES, SELECTIONS, bootstrap
from rxrl.evaluation.records import TurnRecord
from rxrl.evaluation.results import Run, load_run
from rxrl.evaluation.statistics import (
    difference_of,
    interquartile_mean,
    probability_of_improvement,
    stratified_bootstrap,
)

_SEED = re.compile(r"^(?P<stem>.*?)[-_.]?seed[-_=]?(?P<seed>\d+)$")
Turns = dict[tuple[str, int], float]
"""Value of each turn, by conversation and number of the turn."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One run of a comparison.

    Attributes:
        variant: What it is a run of; runs of one variant differ in their seed alone.
        seed: Its seed, or a number that tells runs of one variant apart where none is known.
        folder: Where it is.
        values: For each measure, the value of every turn.
    """

    variant: str
    seed: int
    folder: str
    values: Mapping[str, Turns]


class Named(NamedTuple):
    """A folder of the command line."""

    variant: str
    seed: int | None
    folder: Path


def named_runs(arguments: Sequence[str]) -> list[Named]:
    """Variant and seed of each argument.

    Folders whose names differ in the number of a seed alone (`small-seed0`, `small/seed-1`) are runs of one variant, named by what they
    share; `NAME=FOLDER` says the name of the variant instead.

    Raises:
        ConfigError: A name or folder is empty.
    """
    found = []
    for argument in arguments:
        name, equals, path = argument.partition("=")
        given = equals and not Path(argument).exists()
        if not (name and path if given else argument):
            raise ConfigError(f"Expected a folder, or a name and a folder as NAME=FOLDER, got {argument!r}.")
        folder = Path(path if given else argument)
        match = _SEED.match(folder.resolve().name)
        stem = folder.resolve().name if match is None else match["stem"] or folder.resolve().parent.name
        seed = None if match is None else int(match["seed"])
        found.append(Named(stem if folder == Path(argument) else name, seed, folder))
    return found


def compare_runs(arguments: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Compares runs with the first variant.

    Args:
        arguments: Folders of runs or of evaluations, as `named_runs` reads them.
        seed: Seed of the resampling.
        resamples: Number of bootstrap samples.

    Returns:
        `variants` (names, the first is what the others are compared with), `runs`, and `measures`: for each its `label`, `scores` of every
        run, and by variant `iqm` with `interval`, `difference` to the first variant with `interval`, `probability` of improvement over it
        with `interval`, and `paired`: the difference within each seed that both have, with its interval over conversations.

    Raises:
        ConfigError: Fewer than two runs, or two of one variant and seed.
        DataError: A folder has no evaluation.
    """
    if len(arguments) < 2:
        raise ConfigError(f"A comparison needs at least two runs, got {len(arguments)}: name their folders one after the other.")
    entries = _entries(named_runs(arguments))
    variants = list(dict.fromkeys(entry.variant for entry in entries))
    names = dict.fromkeys(name for entry in entries for name in entry.values)
    measures = {name: _measure(name, variants, entries, seed, resamples) for name in names}
    runs = [{key: value for key, value in asdict(entry).items() if key != "values"} for entry in entries]
    return {"variants": variants, "runs": runs, "measures": measures, "seed": seed}


def turn_values(evaluation: Evaluation) -> dict[str, Turns]:
    """For each measure of an evaluation, the value of every turn that it counts: retention in its selections, reward, scenarios."""
    records = evaluation.records
    asking = [(each, each.retention) for each in records if each.retention is not None]
    found = {name: {each.key: value for each, value in asking if fits(each)} for name, fits in SELECTIONS.items()}
    found["reward"] = {each.key: each.reward for each, _ in asking if each.reward is not None}
    for name in evaluation.scenarios:
        outcomes = ((each.key, _outcome(each, name)) for each in records)
        found[f"scenario {name}"] = {key: value for key, value in outcomes if value is not None}
    return {name: values for name, values in found.items() if values}


def _entries(named: Sequence[Named]) -> list[Entry]:
    found: list[Entry] = []
    for variant, seed, folder in named:
        run = load_run(folder)
        known = _seed_of(run) if seed is None else seed
        taken = {entry.seed for entry in found if entry.variant == variant}
        if known is None:
            known = next(number for number in count() if number not in taken)
        if known in taken:
            raise ConfigError(
                f"{folder} is the second run of {variant!r} with the seed {known}: name one of the variants apart, as in NAME={folder}."
            )
        if any(entry.variant == variant and Path(entry.folder).resolve() == folder.resolve() for entry in found):
            raise ConfigError(f"{folder} is named twice, and one run is not two seeds: leave one of them out.")
        found.append(Entry(variant, known, str(folder), turn_values(run.evaluation)))
    return found


def _seed_of(run: Run) -> int | None:
    seed = run.config.get("seed", run.report.get("seed"))
    return seed if isinstance(seed, int) else None


def _measure(name: str, variants: Sequence[str], entries: Sequence[Entry], seed: int, resamples: int) -> dict[str, Any]:
    own: dict[str, dict[int, Turns]] = defaultdict(dict)
    for entry in entries:
        if name in entry.values:
            own[entry.variant][entry.seed] = entry.values[name]
    scores = {variant: {number: float(np.mean(list(turns.values()))) for number, turns in own[variant].items()} for variant in own}
    first = variants[0]
    found = {
        variant: _estimates(list(scores[variant].values()), list(scores.get(first, {}).values()), seed, resamples) for variant in scores
    }
    for variant in scores:
        if variant != first and first in own:
            found[variant]["paired"] = _paired(own[variant], own[first], seed, resamples)
    if first in found:
        found[first] = {key: value for key, value in found[first].items() if key in ("iqm", "interval")}
    return {"label": RETENTION.get(name, name), "top": 10.0 if _of_ten(name) else 1.0, "scores": scores, "by_variant": found}


def _estimates(ours: list[float], theirs: list[float], seed: int, resamples: int) -> dict[str, Any]:
    """Interquartile mean of a variant, and what it is beside the first; intervals over seeds where there is more than one."""
    options = {"seed": seed, "resamples": resamples}
    iqm = stratified_bootstrap(interquartile_mean, ours, **options)
    found: dict[str, Any] = {"iqm": iqm.value, "interval": [iqm.low, iqm.high] if len(ours) > 1 else None}
    if theirs:
        several = min(len(ours), len(theirs)) > 1
        statistics = {"difference": difference_of(interquartile_mean), "probability": probability_of_improvement}
        for name, statistic in statistics.items():
            each = stratified_bootstrap(statistic, ours, theirs, **options)
            found[name] = {"value": each.value, "interval": [each.low, each.high] if several else None}
    return found


def _paired(ours: Mapping[int, Turns], theirs: Mapping[int, Turns], seed: int, resamples: int) -> list[dict[str, Any]]:
    """Difference on the turns that both have, for each seed that both have; of two single runs, whatever their seeds."""
    pairs = [(number, ours[number], theirs[number]) for number in sorted(ours.keys() & theirs.keys())]
    if not pairs and len(ours) == len(theirs) == 1:
        pairs = [(number, ours[number], right) for number in ours for right in theirs.values()]
    found = []
    for number, left, right in pairs:
        keys = [key for key in left if key in right]
        if keys:
            differences, names = [left[key] - right[key] for key in keys], [key[0] for key in keys]
            mean, low, high = bootstrap(differences, names, seed=seed, resamples=resamples)
            row = {"seed": number, "difference": mean, "low": low, "high": high, "turns": len(keys), "conversations": len(set(names))}
            found.append(row)
    return found


def _outcome(record: TurnRecord, name: str) -> float | None:
    outcome = record.turn.outcome
    return outcome.value if outcome is not None and record.turn.extra.get("scenario") == name else None


def _of_ten(name: str) -> bool:
    return name == "reward" or name.startswith("scenario ")
