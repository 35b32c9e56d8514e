"""The page of a run while it trains, made from the metrics so far; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rxrl.evaluation.played_stages import played_stages
from rxrl.evaluation.report import METRICS, REPORT_JSON, read_metrics, read_report, render
from rxrl.reading import read_yaml

CONFIG = "config.yaml"
Row = Mapping[str, Any]


def live_page(folder: str | Path, refresh: int) -> str:
    """The page as text.

    Args:
        folder: Of a run, finished or not.
        refresh: Seconds after which a browser asks for it again.

    Raises:
        DataError: A file is not what a run writes.
    """
    folder = Path(folder)
    rows, finished = read_metrics(folder / METRICS), (folder / REPORT_JSON).is_file()
    run: dict[str, Any] = read_report(folder) if finished else {"live": True, "stages": played_stages(rows), **_settings(folder)}
    return render({**run, "title": f"{folder.resolve().name}, {'finished' if finished else _place(rows)}"}, rows, (), refresh=refresh)


def _place(rows: Sequence[Row]) -> str:
    """Where the training stands."""
    if not rows:
        return "no metrics yet"
    last = rows[-1]
    where = " ".join(str(last[key]) for key in ("phase", "stage") if key in last)
    return f"{where}, iteration {last.get('iteration', len(rows))}"


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    config = read_yaml(file).data if file.is_file() else None
    return {"config": config, "seed": config.get("seed")} if isinstance(config, dict) else {}
