"""From the content of report.json to what the page shows: sentences, plots and table rows. Missing parts become None."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from markupsafe import Markup

from rxrl.evaluation.charts import Key, Mark, Series, dot_plot, legend, line_plot, number, plot, range_plot

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
TOP_REWARD: Final = 10.0
MINUTE, HOUR = 60, 3600
FEW = 5
"""Conversations below which intervals are not shown."""


def headline_view(run: Part) -> dict[str, Any] | None:
    """The first screen: the number that counts, what it is compared with, and what that means in words."""
    conditions = [(label, style, run[name]) for name, label, style in CONDITIONS if run.get(name)]
    if not conditions or run.get("suite"):
        return None  # The scores of a suite are its headline.
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
        "interval": _interval(main, metric),
        "turns": main.get(f"{metric}_turns"),
        "conversations": main.get(f"{metric}_conversations"),
        "sentences": [*_comparison_sentences(run), *_control_sentences(controls, level)],
        "tiles": list(_tiles(main)),
        "plot": plot(dot_plot(marks, title=title, level=level)) if marks else None,
        "chance": level,
    }


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
        "columns": list(table),
        "rows": [
            (distance, [table[words].get(distance) for words in table])
            for distance in sorted({row["distance"] for _, _, rows in parts for row in rows})
        ],
    }


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
    draw = range_plot(marks, title="Reward by curriculum stage", y_range=(0.0, TOP_REWARD), x_label="steps of the stage") if marks else None
    return {"plot": plot(draw) if draw else None, "rows": list(stages), "episodes": episodes, "long": any(mark.note for mark in marks)}


def cost_view(cost: Sequence[Part] | Mapping[str, Sequence[Part]] | None) -> dict[str, Any] | None:
    """Tokens read and time of each turn, for one memory or for several by label."""
    if not cost:
        return None
    groups = dict(cost) if isinstance(cost, Mapping) else {"this model": cost}
    styles = ("mrl", "supervised", "smat", "plain")
    panels = []
    for key, title, factor in (("tokens", "Tokens read in a turn", 1.0), ("seconds", "Milliseconds a turn", 1000.0)):
        series = [
            Series(label, style, [(row["turn"], row[key] * factor) for row in rows if row.get(key) is not None])
            for (label, rows), style in zip(groups.items(), styles, strict=False)
        ]
        series = [item for item in series if item.points]
        if series:
            ends = (0.0, 1.15 * max(y for item in series for _, y in item.points) or 1.0)
            keys = legend([(item.label, item.style, "line") for item in series]) if len(series) > 1 else Markup()
            panels.append((title, keys, plot(line_plot(series, title=title, x_label="turn", y_range=ends, height=210), half=True)))
    return {"panels": panels} if panels else None


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
    low, high = _interval(part, metric) or (None, None)
    return Mark(label, style, part[metric], low, high)


def _interval(part: Part, metric: str) -> Sequence[float] | None:
    """The interval of a metric; None where too few conversations gave it."""
    return None if _too_few(part.get(f"{metric}_conversations")) else part.get(f"{metric}_interval")


def _tiles(main: Part) -> Iterator[dict[str, Any]]:
    for key, title in (
        ("retention_near", "at distance 1 to 2"),
        ("retention_far", "at distance 9 to 16"),
        ("retention_exact", "of answers exactly right"),
        ("binding_accuracy", "of answers with a rival told name no rival"),
    ):
        if main.get(key) is not None:
            yield {"value": number(main[key]), "title": title, "interval": _interval(main, key), "note": ""}
    reward = main.get("reward") or {}
    if reward.get("mean") is not None:
        note = f"{number(reward.get('min'))} to {number(reward.get('max'))}"
        yield {"value": number(reward["mean"]), "title": "mean reward (of 10)", "interval": None, "note": note}


def _comparison_sentences(run: Part) -> Iterator[dict[str, str]]:
    comparisons = run.get("comparisons") or {}
    for key, against in (
        ("mrl_minus_supervised", "the supervised checkpoint it started from"),
        ("mrl_minus_smat", "supervised training (SMAT) continued for the same number of tokens"),
    ):
        if part := comparisons.get(key):
            yield {"tone": _tone(part), "text": _difference_sentence(part, against)}


def _difference_sentence(part: Part, against: str) -> str:
    span = f"paired 95 % interval {number(part['low'])} to {number(part['high'])}"
    size = f"{number(abs(part['difference']))} ({span})"
    if _too_few(part.get("conversations")):
        where = "one conversation" if part["conversations"] == 1 else f"{part['conversations']} conversations"
        return f"MRL and {against} differ by {number(part['difference'])} on {where}: too few to tell them apart."
    if part["low"] > 0:
        return f"MRL remembers more than {against}: ahead by {size}."
    if part["high"] < 0:
        return f"MRL remembers less than {against}: behind by {size}. On this run, MRL did not pay."
    return f"MRL and {against} cannot be told apart: difference {number(part['difference'])} ({span})."


def _too_few(conversations: int | None) -> bool:
    """Whether an interval over these conversations says nothing: resamples of so few are too much alike."""
    return conversations is not None and conversations < FEW


def _tone(part: Part) -> str:
    return "open" if _too_few(part.get("conversations")) else "good" if part["low"] > 0 else "bad" if part["high"] < 0 else "open"


def _control_sentences(controls: Part, level: float | None) -> Iterator[dict[str, str]]:
    swapped = controls.get("swapped_memory") or {}
    contribution = swapped.get("contribution")
    if contribution:
        count = contribution.get("conversations")
        span = f"paired 95 % interval {number(contribution['low'])} to {number(contribution['high'])}"
        text = (
            f"With another conversation's memory the same questions are answered at {number(contribution['second'])} instead of "
            f"{number(contribution['first'])}: memory contributes {number(contribution['difference'])} "
            f"({f'too few conversations to be sure: {count}' if _too_few(count) else span})."
        )
        yield {"tone": _tone(contribution), "text": text}
    if level is not None:
        yield {"tone": "open", "text": f"The best constant answer to each kind of question earns {number(level)} (chance)."}
    oracle = (controls.get("oracle") or {}).get("retention")
    if oracle is not None and oracle < 1:
        text = f"The reference answers themselves earn {number(oracle, 3)}, not 1: some references are not scored as right."
        yield {"tone": "bad", "text": text}


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
