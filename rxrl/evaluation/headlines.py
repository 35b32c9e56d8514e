"""The headline numbers of an evaluation for people: as text, HTML and LaTeX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from rxrl.evaluation.charts import number
from rxrl.evaluation.tables import latex

Part = Mapping[str, Any]

RETENTION: Mapping[str, str] = {
    "retention_at_16": "retention at 16 turns",
    "retention_near": "retention, distance 1 to 2",
    "retention_far": "retention, distance 9 to 16",
    "retention": "retention, all asking turns",
}
CONTROLS: Mapping[str, str] = {"swapped_memory": "swapped memory", "empty_memory": "empty memory", "oracle": "oracle"}
HEADER = ("", "mean", "95 % interval", "turns")


class Headline(NamedTuple):
    """One number of an evaluation.

    Attributes:
        label: What it is.
        mean: Its value.
        interval: Ends of its 95 % interval, or None.
        turns: Turns behind it, or None.
    """

    label: str
    mean: float
    interval: Sequence[float] | None = None
    turns: int | None = None

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """The number as texts, in the order of `HEADER`."""
        span = "" if self.interval is None else f"{number(self.interval[0], 3)} to {number(self.interval[1], 3)}"
        return self.label, number(self.mean, 3), span, "" if self.turns is None else f"{self.turns:,}"


def headlines(summary: Part, controls: Part, scenarios: Part) -> list[Headline]:
    """The numbers to show first: retention, its controls, chance, reward, and the score of each scenario."""
    found = [Headline(label, summary[name], *_extent(summary, name)) for name, label in RETENTION.items() if _known(summary, name)]
    for name, label in CONTROLS.items():
        part = controls.get(name) or {}
        metric = next((each for each in ("retention_at_16", "retention") if _known(part, each)), None)
        found += [Headline(label, part[metric], *_extent(part, metric))] if metric else []
    chance = controls.get("chance", summary.get("chance"))
    found += [] if chance is None else [Headline("chance", chance)]
    reward = summary.get("reward") or {}
    found += [Headline("reward (of 10)", reward["mean"], None, reward.get("turns"))] if _known(reward, "mean") else []
    return found + [Headline(f"scenario {name} (of 10)", each["score"], each.get("interval")) for name, each in scenarios.items()]


def described(summary: Part, controls: Part, scenarios: Part) -> str:
    """At most ten lines of text."""
    rows = [row.cells for row in headlines(summary, controls, scenarios)][:9]
    width = max((len(label) for label, *_ in rows), default=0)
    lines = (f"  {label:{width}}  {mean:>6}{f'  ({span})' if span else ''}" for label, mean, span, _ in rows)
    return "\n".join([f"Evaluation: {_size(summary)}", *lines])


def as_html(summary: Part, controls: Part, scenarios: Part) -> str:
    """A table for notebooks."""
    rows = Markup().join(_html_row("td", row.cells) for row in headlines(summary, controls, scenarios))
    form = Markup("<table><caption>Evaluation: {}</caption><thead>{}</thead><tbody>{}</tbody></table>")
    return str(form.format(_size(summary), _html_row("th", HEADER), rows))


def as_latex(summary: Part, controls: Part, scenarios: Part, *, caption: str, label: str) -> str:
    """A LaTeX table."""
    rows = [row.cells for row in headlines(summary, controls, scenarios)]
    return latex(HEADER, rows, caption=caption, label=label)


def _html_row(tag: str, cells: Sequence[str]) -> Markup:
    return Markup("<tr>{}</tr>").format(Markup().join(_html_cells(tag, cells)))


def _html_cells(tag: str, cells: Sequence[str]) -> Iterator[Markup]:
    for place, text in enumerate(cells):
        yield Markup('<{} style="text-align:{}">{}</{}>').format(Markup(tag), "right" if place else "left", text, Markup(tag))


def _size(summary: Part) -> str:
    counts = (summary.get(name) or 0 for name in ("conversations", "turns", "asking_turns"))
    return "{:,} conversations, {:,} turns, {:,} of them asking".format(*counts)


def _extent(part: Part, name: str) -> tuple[Sequence[float] | None, int | None]:
    return part.get(f"{name}_interval"), part.get(f"{name}_turns")


def _known(part: Part, name: str) -> bool:
    return part.get(name) is not None
