"""Writes the table of hand-made answers into docs/guides/rewards.md: `python -m tests.rewards.table`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from rxrl.rewards import Sample, load_reward, samples
from rxrl.rewards.checking import by_kind, fooled_by
from rxrl.rewards.samples import KINDS
from rxrl.scoring import score_turns

PAGE = Path(__file__).parents[2] / "docs/guides/rewards.md"
REWARDS = ("retention", "classic", "semantic")
LONGEST = 48
_BEGIN, _END = "<!-- python -m tests.rewards.table writes from here -->\n", "<!-- to here -->"


def column(name: str) -> dict[str, str]:
    """What the table says of a reward: mean, lowest and highest score by kind of answer."""
    found = {kind.kind: kind.scores for kind in by_kind(samples(), values(name))}
    return {kind: f"{mean(scores):.1f} ({min(scores):.1f} to {max(scores):.1f})" for kind, scores in found.items()}


def values(name: str) -> list[float | None]:
    """Scores of all samples."""
    return [score.value for score in score_turns(load_reward(name), [sample.turn for sample in samples()])]


def text() -> str:
    """Both tables."""
    columns = {name: column(name) for name in REWARDS}
    lines = [f"| answers | number | {' | '.join(f'`{name}`' for name in REWARDS)} |", "|---|---|" + "---|" * len(REWARDS)]
    counts = {kind: sum(sample.kind == kind for sample in samples()) for kind in KINDS}
    lines += [
        f"| {kind if kind == verdict else f'{kind} ({verdict})'} | {counts[kind]} | {' | '.join(columns[name][kind] for name in REWARDS)} |"
        for kind, verdict in KINDS.items()
    ]
    lines += ["", *_fooled_lines()]
    return "\n".join(lines) + "\n"


def _fooled_lines() -> list[str]:
    """How often each reward is fooled, and the dearest examples."""
    others = sum(sample.verdict != "right" for sample in samples())
    lines = [f"| fools | of {others} wrong answers and hacks, so many earn as much as a right one | dearest examples |", "|---|---|---|"]
    return lines + [f"| `{name}` | {len(fooled(name))} | {_examples(fooled(name))} |" for name in REWARDS]


def fooled(name: str) -> list[tuple[Sample, float]]:
    """Wrong answers and hacks that earn as much as a right answer to the same question."""
    return fooled_by(samples(), values(name))


def _examples(found: Sequence[tuple[Sample, float]]) -> str:
    """The dearest one of each of the first kinds."""
    shown: dict[str, str] = {}
    for sample, value in found:
        answer = " ".join(sample.turn.answer.split())
        cut = answer if len(answer) <= LONGEST else answer[:LONGEST].rsplit(" ", 1)[0] + " ..."
        shown.setdefault(sample.kind, f'{value:.1f} for "{cut}" ({sample.kind}; right: "{sample.turn.reference}")')
    return "; ".join(list(shown.values())[:4]) or "none"


def shown() -> tuple[str, str, str]:
    """The page: what stands before the tables, the tables, what stands behind them."""
    page = PAGE.read_text(encoding="utf-8")
    before, begin, rest = page.partition(_BEGIN)
    tables, end, after = rest.partition(_END)
    assert begin, f"{PAGE} has no place for the tables"
    assert end, f"{PAGE} does not say where the tables end"
    return before + begin, tables, end + after


def cells(tables: str) -> dict[str, list[str]]:
    """Rows of both tables by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables.splitlines() if line.startswith("|")]
    return {re.sub(r" \(.*", "", first): rest for first, *rest in rows}


if __name__ == "__main__":
    start, _, end = shown()
    PAGE.write_text(start + text() + end, encoding="utf-8")
