"""Rows of Markdown tables that several experiments share."""

from collections.abc import Mapping, Sequence

from rxrl.evaluation.metrics import compare
from rxrl.evaluation.records import TurnRecord


def mean_retention(records: Sequence[TurnRecord]) -> float:
    """Mean over asking turns."""
    asked = [record.retention for record in records if record.retention is not None]
    return sum(asked) / len(asked)


def paired_row(
    labels: Sequence[str], found: Mapping[int, Sequence[TurnRecord]], base: Mapping[int, Sequence[TurnRecord]], *, verdict: bool = False
) -> list[str]:
    """One row: labels, retention by seed, its mean, and the paired difference to a base over the seeds that both have.

    Args:
        labels: First cells.
        found: Records by seed, in the order of the columns; empty where a seed has none.
        base: The same of the row to compare with; empty for no difference.
        verdict: With a last cell that says what the interval of the difference shows.

    Returns:
        The row, or nothing where no seed has records.
    """
    means = {seed: mean_retention(records) for seed, records in found.items() if records}
    if not means:
        return []
    shared = [seed for seed in means if base.get(seed)]
    paired = compare([r for seed in shared for r in found[seed]], [r for seed in shared for r in base[seed]]) if shared else None
    cells = [*labels, *(f"{means[seed]:.3f}" if seed in means else "" for seed in found), f"{sum(means.values()) / len(means):.3f}"]
    cells.append("{difference:+.3f} [{low:+.3f}, {high:+.3f}]".format(**paired) if paired else "")
    if verdict:
        cells.append("" if paired is None else "better" if paired["low"] > 0 else "worse" if paired["high"] < 0 else "undecided")
    return [f"| {' | '.join(cells)} |"]
