"""The page of `rxrl probe`: what is forgotten, what is stored and not said, and what the memory does, as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from rxrl.evaluation.charts import Key, Mark, Series, dot_plot, legend, line_plot, number, plot
from rxrl.evaluation.heatmaps import heatmap
from rxrl.evaluation.pages import page
from rxrl.evaluation.tables import csv_text
from rxrl.writing import write_json, write_text

Part = Mapping[str, Any]

SHOWN_SLOTS = 64
"""Most slots that a picture shows apart; of more, neighbours are averaged."""
PICTURES: Final = (
    ("gates", "Openness of the write gate", "How much of a slot each write replaces: 0 keeps what is old, 1 takes what is new."),
    ("drift", "Change of memory", "Mean squared change of each slot at a write."),
    ("write", "Sharpness of write attention", "1 where a slot reads a single token of the interaction, 0 where it reads all alike."),
    ("read", "Read attention", "How much of an answer's attention goes to each slot."),
)


def write_probe(found: Part, folder: str | Path, *, title: str) -> Path:
    """Writes `probe.html`, `probe.json` and `forgetting.csv`.

    Args:
        found: As `probe` gives it.
        folder: Where to; made where missing.
        title: Heading of the page.

    Returns:
        Path of `probe.html`.
    """
    folder = Path(folder)
    facts = [(name, str(found[name])) for name in ("conversations", "facts", "level", "seed", "slots")]
    text = page("probe.html.j2", kind="probe", title=title, facts=facts, headline=_headline(found),
                forgetting=_forgetting(found), capacity=_capacity(found), linear=_linear(found), ablation=_ablation(found),
                pictures=list(_pictures(found["pictures"])), example=_example(found["pictures"]["example"]))  # fmt: skip
    write_json(folder / "probe.json", found)
    cells = ((told, asked, value) for told, row in enumerate(found["forgetting"], start=1) for asked, value in enumerate(row, start=1))
    known = [cell for cell in cells if cell[2] is not None]
    write_text(folder / "forgetting.csv", csv_text(("told", "asked", "retention"), known))
    return write_text(folder / "probe.html", text)


def _headline(found: Part) -> dict[str, Any]:
    last, oldest, linear = found["capacity"][-1], found["by_age"][-1], found["linear"]["rows"][-1]
    sentences = [
        f"Of {last['told']} facts told, {number(last['mean'], 1)} are known after the last one ({_span(last, 1)}).",
        f"The oldest fact is then known in {number(oldest['mean'])} of the conversations ({_span(oldest)}); "
        f"a fact that was just told in {number(found['by_age'][0]['mean'])}.",
    ]
    gap = linear["stored_mean"] - linear["said_mean"]
    words = "as much as" if abs(gap) < 0.02 else "more than" if gap > 0 else "less than"
    sentences.append(
        f"A linear probe reads the oldest fact off the memory in {number(linear['stored_mean'])} of the conversations, {words} the answers "
        f"say ({number(linear['said_mean'])}); guessing gives {number(found['linear']['chance'])}."
    )
    most = max((*found["ablation"]["layers"], *found["ablation"]["slots"]), key=lambda row: row["mean"])
    sentences.append(f"Zeroing {most['zeroed']} costs most: {number(most['mean'])} of retention ({_span(most)}).")
    return {"value": number(last["mean"], 1), "of": last["told"], "sentences": sentences}


def _forgetting(found: Part) -> dict[str, Any]:
    numbers = [str(each + 1) for each in range(found["facts"])]
    draw = heatmap(found["forgetting"], title="Retention by interaction told and asked", rows=numbers, columns=numbers,
                   y_label="told at", x_label="asked after", ends=(0.0, 1.0))  # fmt: skip
    ages = _lines([("", "mrl", found["by_age"], "age", "")], "Retention by age", "interactions since the fact was told")
    kinds = [Mark(row["kind"], "mrl", row["mean"], row["low"], row["high"]) for row in found["by_kind"]]
    return {
        "plot": plot(draw), "ages": ages, "kinds": plot(dot_plot(kinds, title="Retention by kind of fact")),
        "columns": numbers, "rows": list(zip(numbers, found["forgetting"], strict=True)),
    }  # fmt: skip


def _capacity(found: Part) -> dict[str, Any]:
    rows, top = found["capacity"], float(found["facts"])
    told = [(row["told"], row["told"]) for row in rows]
    series = [_series("known", "mrl", rows, "told", ""), Series("all that was told", "oracle", told)]
    draw = line_plot(series, title="Facts known by facts told", x_label="facts told", y_range=(0.0, top))
    keys: list[Key] = [(each.label, each.style, "line") for each in series]
    return {"plot": plot(draw), "legend": legend(keys)}


def _linear(found: Part) -> dict[str, Any]:
    rows = found["linear"]["rows"]
    groups = [("stored: read by the linear probe", "smat", rows, "age", "stored_"), ("said: in the answers", "mrl", rows, "age", "said_")]
    keys: list[Key] = [(label, style, "line") for label, style, *_ in groups]
    return {
        "plot": _lines(groups, "Facts stored and facts said by age", "interactions since the fact was told", found["linear"]["chance"]),
        "legend": legend([*keys, ("guessing", "level", "dotted")]),
        "rows": rows,
    }


def _ablation(found: Part) -> dict[str, Any]:
    parts = found["ablation"]
    marks = [Mark(row["zeroed"], "swapped", row["mean"], row["low"], row["high"]) for row in parts["layers"]]
    low = min([0.0, *(row["low"] for row in parts["layers"])])
    slots = heatmap([[row["mean"] for row in parts["slots"]]], title="Retention lost by zeroing slots", rows=["lost"],
                    columns=[row["zeroed"].removeprefix("slot ").removeprefix("slots ") for row in parts["slots"]], x_label="slots",
                    style="swapped")  # fmt: skip
    worst = max(parts["slots"], key=lambda row: row["mean"])
    return {
        "layers": plot(dot_plot(marks, title="Retention lost by zeroing a layer", x_range=(low, 1.0))),
        "slots": plot(slots),
        "worst": f"{worst['zeroed']}: {number(worst['mean'], 3)} ({_span(worst, 3)})",
        "whole": parts["whole"], "conversations": parts["conversations"],
    }  # fmt: skip


def _pictures(parts: Part) -> Iterator[dict[str, Any]]:
    for name, title, caption in PICTURES:
        turns, slots = parts[name]["by_turn"], _fewer(parts[name]["by_slot"])
        layers = [f"layer {number + 1}" for number in range(len(slots[0]))]
        first = 2 if name == "read" else 1
        style, numbers = "smat" if name == "read" else "mrl", [str(number + first) for number in range(len(turns))]
        by_turn = heatmap(_turned(turns), title=f"{title} by interaction", rows=layers, columns=numbers, x_label="interaction", style=style)
        by_slot = heatmap(slots[0], title=f"{title} by slot", rows=layers, columns=slots[1], x_label="slot", style=style)
        yield {"title": title, "caption": caption, "panels": [plot(by_turn, half=True), plot(by_slot, half=True)]}


def _example(example: Part) -> dict[str, Any]:
    found = []
    for layer, weights in enumerate(example["attention"]):
        rows, names = _fewer(_turned(weights))
        draw = heatmap(_turned(rows), title=f"Layer {layer + 1}: what each slot reads of an interaction", rows=names,
                       columns=[token or "·" for token in example["tokens"]], y_label="slot", ends=(0.0, 1.0))  # fmt: skip
        found.append((f"Layer {layer + 1}", plot(draw)))
    return {"panels": found, "text": " ".join(token for token in example["tokens"] if token)}


def _lines(groups: Sequence[tuple[str, str, Sequence[Part], str, str]], title: str, x_label: str, level: float | None = None) -> Markup:
    series = [_series(label or title, style, rows, x, prefix) for label, style, rows, x, prefix in groups]
    return plot(line_plot(series, title=title, x_label=x_label, y_range=(0.0, 1.0), level=level))


def _series(label: str, style: str, rows: Sequence[Part], x: str, prefix: str) -> Series:
    points = [(float(row[x]), row[f"{prefix}mean"]) for row in rows]
    return Series(label, style, points, [(row[f"{prefix}low"], row[f"{prefix}high"]) for row in rows])


def _fewer(rows: Sequence[Sequence[float]]) -> tuple[list[list[float]], list[str]]:
    """Rows with at most `SHOWN_SLOTS` columns, and the names of those."""
    count = len(rows[0])
    size = -(-count // SHOWN_SLOTS)
    starts = range(0, count, size)
    kept = [[sum(row[start : start + size]) / len(row[start : start + size]) for start in starts] for row in rows]
    return kept, [str(start + 1) for start in starts]


def _turned(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _span(row: Part, digits: int = 2) -> str:
    return f"95 % interval {number(row['low'], digits)} to {number(row['high'], digits)}"
