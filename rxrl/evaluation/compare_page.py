"""A comparison of runs as a page, as CSV, as LaTeX and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rxrl.evaluation.charts import Mark, dot_plot, number, plot
from rxrl.evaluation.pages import page
from rxrl.evaluation.tables import csv_text, latex, markdown
from rxrl.writing import write_json, write_text

Part = Mapping[str, Any]

STYLES: Final = ("supervised", "mrl", "smat", "plain", "swapped", "oracle", "empty")
HEADER: Final = (
    "variant",
    "runs",
    "interquartile mean (over seeds)",
    "difference (over seeds)",
    "P(improvement)",
    "difference within a seed",
)
_CSV: Final = (
    "measure", "variant", "runs", "iqm", "low", "high", "difference", "difference_low", "difference_high",
    "probability", "probability_low", "probability_high",
)  # fmt: skip


def write_comparison(found: Part, folder: str | Path) -> Path:
    """Writes `compare.html`, `compare.json`, `compare.csv`, `compare.tex` and `compare.md`.

    Args:
        found: As `compare_runs` gives it.
        folder: Where to; made where missing.

    Returns:
        Path of `compare.html`.
    """
    folder, first = Path(folder), found["variants"][0]
    views = [_view(name, each, found["variants"]) for name, each in _different(found["measures"]).items()]
    facts = [("variants", str(len(found["variants"]))), ("runs", str(len(found["runs"]))), ("compared with", first)]
    text = page("compare.html.j2", kind="compare", title=f"{_listed(found['variants'][1:])} against {first}", facts=facts, first=first,
                measures=views, runs=found["runs"])  # fmt: skip
    write_json(folder / "compare.json", found)
    write_text(folder / "compare.csv", csv_text(_CSV, _csv_rows(found)))
    tables = [(view["title"], view["header"], view["rows"]) for view in views]
    write_text(folder / "compare.md", "\n".join(f"**{title}**\n\n{markdown(header, rows)}" for title, header, rows in tables))
    write_text(folder / "compare.tex", "\n".join(latex(header, rows, caption=title) for title, header, rows in tables))
    return write_text(folder / "compare.html", text)


def comparison_lines(found: Part) -> list[str]:
    """The main measure as lines of text, for the terminal."""
    name = next((each for each in ("retention_at_16", "retention") if each in found["measures"]), next(iter(found["measures"]), None))
    if name is None:
        return ["These runs have nothing in common that could be compared."]
    view = _view(name, found["measures"][name], found["variants"])
    return [f"{view['title']}:", *markdown(view["header"], view["rows"]).splitlines(), *(each["text"] for each in view["sentences"])]


def _view(name: str, measure: Part, variants: Sequence[str]) -> dict[str, Any]:
    known = [variant for variant in variants if variant in measure["by_variant"]]
    title = measure["label"][0].upper() + measure["label"][1:] + (" (of 10)" if measure["top"] == 10 else "")
    marks = []
    for variant in known:
        each, scores = measure["by_variant"][variant], list(measure["scores"][variant].values())
        style = STYLES[variants.index(variant) % len(STYLES)]
        low, high = each["interval"] or (None, None)
        marks.append(Mark(variant, style, each["iqm"], low, high, points=scores if len(scores) > 1 else ()))
    return {
        "anchor": re.sub(r"\W+", "-", name),
        "title": title,
        "seeds": any(each["interval"] for each in measure["by_variant"].values()),
        "plot": plot(dot_plot(marks, title=f"{title} by variant", x_range=(0.0, measure["top"]))),
        "sentences": list(_sentences(measure, known)),
        "header": HEADER,
        "rows": [_row(variant, measure) for variant in known],
    }


def _row(variant: str, measure: Part) -> list[str]:
    each, first = measure["by_variant"][variant], next(iter(measure["by_variant"].values()))
    difference, probability = (each.get(name) or {"value": None, "interval": None} for name in ("difference", "probability"))
    paired = (f"{pair['seed']}: {_value(pair['difference'], (pair['low'], pair['high']))}" for pair in each.get("paired", ()))
    # Of two single runs one is above the other: no probability of anything.
    chance = _value(probability["value"], probability["interval"], 2) if probability["interval"] else ""
    numbers = [_value(each["iqm"], each["interval"]), "" if each is first else _value(difference["value"], difference["interval"]), chance]
    return [variant, str(len(measure["scores"][variant])), *numbers, "; ".join(paired)]


def _sentences(measure: Part, known: Sequence[str]) -> Iterator[dict[str, str]]:
    for variant in known[1:]:
        each, first = measure["by_variant"][variant], known[0]
        difference = each.get("difference")
        if difference is None:
            continue
        if difference["interval"]:
            value, ends, kind = difference["value"], difference["interval"], "95 % interval over seeds"
        elif pair := _only_pair(each):
            # Of the turns and the seed that both have, as the interval is.
            value, ends = pair["difference"], (pair["low"], pair["high"])
            single = len(measure["scores"][variant]) == len(measure["scores"][first]) == 1
            seeds = "one seed each" if single else f"seed {pair['seed']} alone"
            kind = f"{seeds}; paired 95 % interval over conversations"
        else:
            text = f"{variant} and {first} share no turns of one seed, and one of them has a single seed: nothing can be said."
            yield {"tone": "open", "text": text}
            continue
        tone = "good" if ends[0] > 0 else "bad" if ends[1] < 0 else "open"
        size = f"{number(abs(value), 3)} ({kind} {number(ends[0], 3)} to {number(ends[1], 3)})"
        verb = {"good": "is above", "bad": "is below"}.get(tone)
        text = f"{variant} {verb} {first} by {size}." if verb else f"{variant} and {first} cannot be told apart: {size}."
        yield {"tone": tone, "text": text}


def _only_pair(each: Part) -> Part | None:
    """The one paired difference; None where there is none, or several."""
    paired: list[Part] = list(each.get("paired") or [])
    return paired[0] if len(paired) == 1 else None


def _csv_rows(found: Part) -> Iterator[list[object]]:
    for name, measure in found["measures"].items():
        for variant, each in measure["by_variant"].items():
            compared = [cell for part in ("difference", "probability") for cell in _cells(each.get(part) or {}, "value")]
            yield [name, variant, len(measure["scores"][variant]), *_cells(each, "iqm"), *compared]


def _cells(part: Part, name: str) -> list[object]:
    ends = part.get("interval")
    return [part.get(name), *(ends or ["", ""])]


def _value(value: float | None, ends: Sequence[float] | None, digits: int = 3) -> str:
    return number(value, digits) if ends is None else f"{number(value, digits)} ({number(ends[0], digits)} to {number(ends[1], digits)})"


def _listed(variants: Sequence[str]) -> str:
    return ", ".join(variants if len(variants) <= 3 else [*variants[:2], f"{len(variants) - 2} more"]) or "Seeds"


def _different(measures: Mapping[str, Part]) -> dict[str, Part]:
    """The measures without those that repeat an earlier one, as all asking turns do those of 16-turn episodes where there are no others."""
    found: dict[str, Part] = {}
    for name, each in measures.items():
        if all(each["scores"] != other["scores"] for other in found.values()):
            found[name] = each
    return found
