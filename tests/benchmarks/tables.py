"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.table import Table

Result = dict[str, Any]
Found = dict[str, Any]


def results(found: Found) -> Iterator[Table | str]:
    """A heading, then a table for each preset and number of threads with the probe of the machine above it."""
    about = found["machine"]
    name = found["suite"] + ", quick: not for comparing" * found["quick"]
    yield f"{name}: {about['processor']}, {about['cpus']} CPUs, torch {about['torch']}, kernels: {about['kernels'] or 'none'}"
    yield _legend(found)
    for (preset, threads), rows in groupby(found["rows"], lambda row: (row["preset"], row["threads"])):
        table = _table(f"{preset}, {_probe(found, threads)}", "value", "unit", "by CPU time", "bar here", "probe", "runs")
        for row in rows:
            verdict = {True: "[green]", False: "[red]", None: ""}[row["reached"]]
            values = verdict + number(row["value"]), row["unit"], number(row["by_cpu"]), number(row["bar"]), _speeds(row["probe"])
            table.add_row(f"{row['name']}\n  [dim]{row['note']}[/]" if row["note"] else row["name"], *values, _runs(row))
        yield table


def comparison(new: Found, old: Found) -> Iterator[Table | str]:
    """How many times as good each row of one file is as the same row of another; above 1 is better: faster or smaller."""
    before = {_key(row): row for row in old["rows"]}
    for (preset, threads), rows in groupby(new["rows"], lambda row: (row["preset"], row["threads"])):
        table = _table(f"{preset}, new: {_probe(new, threads)}; old: {_probe(old, threads)}", "new", "old", "unit", "times as good")
        for row in rows:
            other = before.pop(_key(row), None)
            if other is None:
                table.add_row(row["name"], number(row["value"]), "", row["unit"], "")
                continue
            doubt = "?" if _disturbed(row) or _disturbed(other) else ""
            table.add_row(row["name"], number(row["value"]), number(other["value"]), row["unit"], f"{number(ratio(row, other))}{doubt}")
        yield table
    if before:
        yield f"Only in the old file: {', '.join(' '.join(map(str, key)) for key in before)}."


def ratio(new: Result, old: Result) -> float | None:
    """Above 1 where the new value is better; by CPU time where both have it and a wall time was disturbed."""
    which = "by_cpu" if (_disturbed(new) or _disturbed(old)) and new["by_cpu"] and old["by_cpu"] else "value"
    if not new[which] or not old[which]:
        return None
    return float(new[which] / old[which] if new["more_is_better"] else old[which] / new[which])


def number(value: float | None) -> str:
    """Three significant digits at least, nothing for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("what", min_width=36)
    for name in columns:
        table.add_column(name, justify="left" if name in ("unit", "runs") else "right")
    return table


def _key(row: Result) -> tuple[str, str, int]:
    return row["preset"], row["name"], row["threads"]


def _disturbed(row: Result) -> bool:
    return bool(row["measurement"] and row["measurement"]["disturbed"])


def _runs(row: Result) -> str:
    found = row["measurement"]
    if found is None:
        return ""
    if found["disturbed"]:
        return f"[yellow]{100 * found['others']:.0f} % taken[/]"
    return f"{found['kept']}" + (f" (-{found['discarded']})" if found["discarded"] else "")


def _speeds(probe: Sequence[float] | None) -> str:
    return "" if probe is None else "{:.0f} / {:.1f}".format(*probe)


def _probe(found: Found, threads: int) -> str:
    probe = found["probes"].get(str(threads))
    if probe is None:
        return f"{threads} threads: not measured"
    return f"{threads} thread{'s' * (threads > 1)}: {probe['gflops']:.0f} GFLOP/s, {probe['copy']:.1f} GB/s"


def _legend(found: Found) -> str:
    about = "Bars are scaled by the probe (GFLOP/s / GB/s) that was taken between the repetitions (reference: 322 / 21.6)."
    if found["machine"]["others"] == "not measured":
        return f"{about} What other processes took was not measured on this system."
    rule = "Discarded: repetitions in which others took more than 5 % of the CPUs; where none is left, the least disturbed one stands"
    return f"{about} {rule}, and what was taken is shown."
