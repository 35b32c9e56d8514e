"""From the content of report.json to what the page shows: sentences, plots and table rows. Missing parts become None."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from markupsafe import Markup

from rxrl.evaluation.answers import answers, extent, too_few, training_answers
from rxrl.evaluation.charts import Key, Mark, Series, dot_plot, legend, line_plot, number, plot, range_plot
from rxrl.scoring import HIGHEST

Part = Mapping[str, Any]

HEADLINES: Final = (("retention_at_16", "Retention in 16-turn episodes"), ("retention", "Retention"))
CONDITIONS: Final = (
    ("after_mrl", "after MRL", "mrl"),
    ("evaluation", "as evaluated", "mrl"),
    ("after_smat_continued", "SMAT continued", "smat"),
    ("after_supervised", "after supervised", "supervised"),
)
CONTROLS: Final = (
    ("swapped_memory", "swapped memory", "swapped"),
    ("empty_memory", "empty memory", "empty"),
    ("oracle", "oracle", "oracle"),
)
MINUTE, HOUR = 60, 3600
PLACES: Final = {"spread": "spread among theirs", "first": "before theirs"}
CHEAP: Final = 0.8
"""A last turn that takes less than this share of the one before it is explained."""


def headline_view(run: Part) -> dict[str, Any] | None:
    """The first screen: the number that counts, what it is compared with, and what that means in words."""
    conditions = [(label, style, run[name]) for name, label, style in CONDITIONS if run.get(name)]
    if run.get("suite"):
        return None  # The scores of a suite are its headline.
    if not conditions:
        return _training_headline(run.get("stages") or (), bool(run.get("live")))
    metric, title = next(((key, words) for key, words in HEADLINES if conditions[0][2].get(key) is not None), HEADLINES[-1])
    label, _, main = conditions[0]
    if run.get("scenarios") and main.get(metric) is None:
        return None  # Nothing was asked that had been told: the scenario is the headline.
    controls = run.get("controls") or {}
    shown = conditions + [(words, style, controls[name]) for name, words, style in CONTROLS if controls.get(name)]
    marks = [_mark(words, style, part, metric) for words, style, part in shown if part.get(metric) is not None]
    level = controls.get("chance", main.get("chance"))
    return {
        "title": title,
        "condition": label,
        "value": main.get(metric),
        "interval": extent(main, metric),
        "turns": main.get(f"{metric}_turns"),
        "conversations": main.get(f"{metric}_conversations"),
        "answers": answers(run, main, metric, level, _load(run), _rival(run)),
        "tiles": list(_tiles(main)),
        "plot": plot(dot_plot(marks, title=title, level=level)) if marks else None,
        "chance": level,
    }


def _training_headline(stages: Sequence[Part], live: bool) -> dict[str, Any] | None:
    """The first screen of a training that was not evaluated: where its curriculum ended."""
    last = stages[-1] if stages else {}
    retention, reward = last.get("retention"), (last.get("reward") or {}).get("mean")
    if retention is None and reward is None:
        return None
    title = f"{'Reward (of 10)' if retention is None else 'Retention'} in {last.get('steps')}-turn episodes"
    shown = {
        "title": title,
        "condition": "held out, so far" if live else "held out, at the end of training",
        "value": reward if retention is None else retention,
    }
    return shown | {
        "interval": None, "turns": None, "conversations": None, "tiles": [], "plot": None, "chance": None,
        "answers": [] if live else training_answers(stages),
    }  # fmt: skip


def _load(run: Part, of: str | None = None) -> list[tuple[str, Part]]:
    """What a condition keeps under stress, in words; None: the one that the page is about."""
    name = of or next((name for name, _, _ in CONDITIONS if run.get(name)), "")
    found = ((axis_title(axis), conditions.get(name)) for axis, conditions in (run.get("stress") or {}).items())
    return [(title, part) for title, part in found if part]


def _rival(run: Part) -> list[tuple[str, Part]]:
    """The same of SMAT continued, where the page is about MRL."""
    return _load(run, "after_smat_continued") if run.get("after_mrl") and run.get("after_smat_continued") else []


def axis_title(axis: str) -> str:
    """An axis of stress in words."""
    if found := re.fullmatch(r"small_talk_(\d+)_(\w+)", axis):
        return f"{found[1]} turns of small talk {PLACES.get(found[2], found[2])}"
    if found := re.fullmatch(r"turns_(\d+)", axis):
        return f"conversations of {found[1]} turns"
    return axis.replace("_", " ")


def by_distance_view(run: Part) -> dict[str, Any] | None:
    """Retention by distance: the plot with bands, and the same numbers as a table."""
    controls = run.get("controls") or {}
    parts = [(words, style, run.get(name) or {}) for name, words, style in CONDITIONS]
    parts += [(words, style, controls.get(name) or {}) for name, words, style in CONTROLS if name != "oracle"]
    parts = [(words, style, part["by_distance"]) for words, style, part in parts if part.get("by_distance")]
    if not parts:
        return None
    series = [
        Series(
            words, style, [(row["distance"], row["mean"]) for row in rows],
            [(row["low"], row["high"]) for row in rows] if style in ("mrl", "supervised", "smat") else (),
        )
        for words, style, rows in parts
    ]  # fmt: skip
    level = controls.get("chance")
    draw = line_plot(
        series, title="Retention by distance", x_label="turns since the fact was last told or said", y_range=(0.0, 1.0), level=level
    )
    keys: list[Key] = [(item.label, item.style, "line") for item in series]
    keys += [("chance", "level", "dotted")] if level is not None else []
    table = {words: {row["distance"]: row for row in rows} for words, _, rows in parts}
    return {
        "plot": plot(draw),
        "legend": legend(keys),
        **_kinds(run),
        "columns": list(table),
        "rows": [
            (distance, [table[words].get(distance) for words in table])
            for distance in sorted({row["distance"] for _, _, rows in parts for row in rows})
        ],
    }


def _kinds(run: Part) -> dict[str, Any]:
    """Retention by kind of question, of the condition that the page is about; None where there is but one kind."""
    found = [(label, style, run[name]) for name, label, style in CONDITIONS if run.get(name)]
    if not found:
        return {"condition": "", "kinds": None}
    label, style, main = found[0]
    kinds = main.get("by_kind") or {}
    marks = [Mark(kind, style, part["retention"], part.get("low"), part.get("high")) for kind, part in kinds.items()]
    return {"condition": label, "kinds": plot(dot_plot(marks, title="Retention by kind of question")) if len(marks) > 1 else None}


def stages_view(stages: Sequence[Part]) -> dict[str, Any] | None:
    """The curriculum: rewards of each stage as ranges, and the table of stages."""
    if not stages:
        return None
    scored = [stage for stage in stages if (stage.get("reward") or {}).get("mean") is not None]
    # Single turns span 0 to 10 in nearly every stage; the means of episodes say more.
    episodes = all(stage["reward"].get("episode_min") is not None for stage in scored)
    low, high = ("episode_min", "episode_max") if episodes else ("min", "max")
    marks = [
        Mark(
            str(stage.get("steps", "")), "mrl", stage["reward"]["mean"], stage["reward"].get(low), stage["reward"].get(high),
            note="long" if stage.get("strategy") == "long-range" else "",
        )
        for stage in scored
    ]  # fmt: skip
    draw = range_plot(marks, title="Reward by curriculum stage", y_range=(0.0, HIGHEST), x_label="steps of the stage") if marks else None
    long = any(mark.note for mark in marks)
    return {"plot": plot(draw) if draw else None, "rows": list(stages), "episodes": episodes, "ends": (low, high), "long": long}


def cost_view(cost: Sequence[Part] | Mapping[str, Sequence[Part]] | None) -> dict[str, Any] | None:
    """Tokens read, time and size of memory of each turn, for one memory or for several by label."""
    if not cost:
        return None
    groups = dict(cost) if isinstance(cost, Mapping) else {"this model": cost}
    styles = ("mrl", "supervised", "smat", "plain")
    panels = []
    for key, title, factor in (
        ("tokens", "Tokens read in a turn", 1.0),
        ("seconds", "Milliseconds a turn", 1000.0),
        ("memory_bytes", "Memory in kilobytes", 0.001),
    ):
        series = [
            Series(label, style, [(row["turn"], row[key] * factor) for row in rows if row.get(key) is not None])
            for (label, rows), style in zip(groups.items(), styles, strict=False)
        ]
        series = [item for item in series if item.points]
        if series:
            ends = (0.0, 1.15 * max(y for item in series for _, y in item.points) or 1.0)
            keys = legend([(item.label, item.style, "line") for item in series]) if len(series) > 1 else Markup()
            panels.append((title, keys, plot(line_plot(series, title=title, x_label="turn", y_range=ends, height=210), half=True)))
    return {"panels": panels, "note": _last_turn(groups)} if panels else None


def _last_turn(groups: Mapping[str, Sequence[Part]]) -> str:
    """Why the last turn is cheap, where it is."""
    cheap = any(len(rows) > 2 and (rows[-1].get("seconds") or 0) < CHEAP * (rows[-2].get("seconds") or 0) for rows in groups.values())
    return "The last turn takes less time because nothing is written into memory after it." if cheap else ""


def configuration_rows(config: Part) -> list[tuple[str, str]]:
    """A nested configuration as dotted keys with their values."""
    return list(_flatten("", config)) if config else []


def run_facts(run: Part) -> list[tuple[str, str]]:
    """Seed, time and size of the run, as short facts below the title."""
    facts = [(name, str(run[name])) for name in ("preset", "budget", "reward_name", "seed") if run.get(name) is not None]
    if (seconds := run.get("wall_seconds")) is not None:
        facts.append(("wall time since resumed" if run.get("resumed") else "wall time", duration(float(seconds))))
    main: Part = next((run[name] for name, _, _ in CONDITIONS if run.get(name)), {})
    counts = (("held-out conversations", main.get("conversations")), ("questions asked", main.get("asking_turns")))
    return facts + [(label, f"{count:,}") for label, count in counts if count]


def duration(seconds: float) -> str:
    """A duration in words, for example `14 min 32 s`."""
    whole = round(seconds)
    if whole >= HOUR:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
    return f"{whole // MINUTE} min {whole % MINUTE} s" if whole >= MINUTE else f"{seconds:.3g} s"


def _mark(label: str, style: str, part: Part, metric: str) -> Mark:
    low, high = extent(part, metric) or (None, None)
    return Mark(label, style, part[metric], low, high)


def _tiles(main: Part) -> Iterator[dict[str, Any]]:
    for key, title in (
        ("retention_near", "at distance 1 to 2"),
        ("retention_far", "at distance 9 to 16"),
        ("retention_exact", "of answers exactly right"),
        ("binding_accuracy", "of answers free of rival values"),
    ):
        if main.get(key) is not None:
            yield {"value": number(main[key]), "title": title, "interval": extent(main, key), "note": ""}
    reward = main.get("reward") or {}
    if reward.get("mean") is not None:
        # Lowest and highest turn would read as an interval beside the others; nearly always they are 0 and 10.
        ends = None if too_few(main.get("conversations")) else main.get("reward_interval")
        yield {"value": number(reward["mean"]), "title": "mean reward (of 10)", "interval": ends, "note": ""}


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
