"""The report of a run: one self-contained HTML file, with its numbers as JSON and CSV beside it.

`report.json` is the content and the page is a view of it: whatever is missing there is left out of the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import TemplateError

from rxrl.errors import DataError
from rxrl.evaluation.answers import with_load
from rxrl.evaluation.curves import learning_curves
from rxrl.evaluation.mistakes import mistakes_view
from rxrl.evaluation.pages import page
from rxrl.evaluation.played_stages import played_stages
from rxrl.evaluation.provenance import data_rows, times_sentence
from rxrl.evaluation.records import TurnRecord, read_records
from rxrl.evaluation.scenario_views import scenario_views
from rxrl.evaluation.stress_views import stress_view
from rxrl.evaluation.suite_views import curve_views, suite_view
from rxrl.evaluation.tables import csv_text
from rxrl.evaluation.transcripts import choose_episodes
from rxrl.evaluation.views import (
    by_distance_view,
    configuration_rows,
    cost_view,
    headline_view,
    run_facts,
    stages_view,
)
from rxrl.reading import OBJECT, Refusal, parse_json, read_json, read_text
from rxrl.writing import write_json, write_text

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
REPORT_CSV = "retention_by_distance.csv"
METRICS, TIMINGS = "metrics.jsonl", "timings.jsonl"
TRANSCRIPTS = ("transcripts.jsonl", "evaluation/mrl/transcripts.jsonl")
"""Where transcripts may be, below the folder of a run; the first that is there is shown."""

CHOSEN_FROM = 16_000
"""Turns, from the beginning of a transcript, of which some conversations are shown."""
_METRICS_REFUSAL = Refusal(advice="use the file that the run wrote")
_COLUMNS = ("distance", "mean", "low", "high", "exact", "turns", "conversations")
_CONDITIONS = ("evaluation", "after_mrl", "after_smat_continued", "after_supervised")


def write_report(
    run: Mapping[str, Any],
    metrics: Iterable[Mapping[str, Any]],
    transcripts: Sequence[TurnRecord] | None,
    out_dir: str | Path,
) -> Path:
    """Writes `report.html`, `report.json` and `retention_by_distance.csv`.

    Args:
        run: Content of report.json, every key optional: `seed`, `wall_seconds` and whether they count from where the run was `resumed`,
            `preset`, `budget`; `after_supervised`, `after_mrl`, `after_smat_continued` and `evaluation` from `summarise`; `controls` from
            `summarise_controls`; `stress` from `stress_by_axis`; `comparisons` from `summarise_comparisons`; `stages`, each from
            `summarise_stage`; `cost` from `cost_by_turn`, or such lists by label; `scenarios` from `compare_scenarios`; `suite` and
            `stress_curves` of an evaluation; `made_with`; `data`, each from `Origin.saved`; `config`, any nested mapping;
            `title`; `notes`, sentences.
        metrics: Rows of metrics.jsonl.
        transcripts: Turns of the evaluation to show a few conversations of.
        out_dir: Folder of the report; made where missing.

    Returns:
        Path of `report.html`.
    """
    folder = Path(out_dir)
    page = render(run, metrics, transcripts or (), times=times_sentence(read_metrics(folder / TIMINGS)))
    write_json(folder / REPORT_JSON, run)
    write_text(folder / REPORT_CSV, _csv(run))
    return write_text(folder / REPORT_HTML, page)


def write_run_report(run_dir: str | Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Makes the report of a finished run again from its own files: report.json, metrics.jsonl and transcripts.

    Args:
        run_dir: Folder of the run; metrics and transcripts may be missing.
        changes: Parts of report.json to replace; nothing is written unless the whole can be shown.

    Returns:
        Path of `report.html`.

    Raises:
        DataError: report.json is missing, or a file is not what it should be.
    """
    folder = Path(run_dir)
    run, source = read_report(folder), folder / REPORT_JSON
    found = next((folder / name for name in TRANSCRIPTS if (folder / name).is_file()), None)
    metrics, transcripts = read_metrics(folder / METRICS), read_records(found, CHOSEN_FROM) if found else []
    try:
        return write_report({**run, **(changes or {})}, metrics, transcripts, folder)
    except (AttributeError, KeyError, TypeError, ValueError, TemplateError) as error:
        raise DataError(f"{source} does not hold what an evaluation writes ({error}): make the file again with an evaluation.") from error


def read_report(run_dir: str | Path) -> dict[str, Any]:
    """Content of the report.json of a run.

    Raises:
        DataError: It is missing, or not what it should be.
    """
    source = Path(run_dir) / REPORT_JSON
    if not source.is_file():
        raise DataError(
            f"Expected {source}, found no such file: give the folder of a run, or evaluate into this one first, with "
            f"`rxrl evaluate WHAT --out {source.parent}`."
        )
    return read_json(source, OBJECT, Refusal(DataError, "make the file again with an evaluation"))


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl; none where the file is missing, and a last line that was cut off is left out."""
    path = Path(path)
    if not path.is_file():
        return []
    # Whole lines end, so what follows the last end of a line was cut off.
    lines = read_text(path, _METRICS_REFUSAL).split("\n")[:-1]
    return [
        parse_json(line, f"{path}, line {number}", OBJECT, _METRICS_REFUSAL, numbers="null")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def render(
    run: Mapping[str, Any],
    metrics: Iterable[Mapping[str, Any]],
    transcripts: Sequence[TurnRecord],
    *,
    refresh: int | None = None,
    times: str = "",
) -> str:
    """The page as text; all values are escaped.

    Args:
        run: As for `write_report`.
        metrics: As for `write_report`.
        transcripts: As for `write_report`.
        refresh: Seconds after which a browser loads it again; None: it does not.
        times: A sentence on where the time went.
    """
    metrics = list(metrics)
    distances, curves, headline = by_distance_view(run), curve_views(run.get("stress_curves")), headline_view(run)
    if headline is None and not any(run.get(name) for name in (*_CONDITIONS, "suite")):
        headline = headline_view({**run, "stages": played_stages(metrics)})
    if headline and curves:
        headline["answers"] = with_load(headline["answers"], curves["sentences"])
    return page(
        "report.html.j2",
        kind="report",
        refresh=refresh,
        title=run.get("title") or "Memory reinforcement learning",
        facts=run_facts(run),
        headline=headline,
        suite=suite_view(run.get("suite")),
        curves=curves,
        by_distance=distances and distances | {"csv": f"data:text/csv;charset=utf-8,{quote(_csv(run))}"},
        stress=stress_view(run),
        scenarios=scenario_views(run.get("scenarios") or {}),
        stages=stages_view(run.get("stages") or ()),
        learning=learning_curves(metrics),
        episodes=choose_episodes(transcripts),
        mistakes=mistakes_view(transcripts),
        cost=cost_view(run.get("cost")),
        configuration=configuration_rows(run.get("config") or {}),
        notes=list(run.get("notes") or ()),
        times=times,
        made_with=configuration_rows(run.get("made_with") or {}),
        data=data_rows(run.get("data") or ()),
    )


def _csv(run: Mapping[str, Any]) -> str:
    """Retention by distance of every condition as CSV."""
    controls = {name: part for name, part in (run.get("controls") or {}).items() if isinstance(part, Mapping)}
    parts = {**{name: run.get(name) or {} for name in _CONDITIONS}, **controls}
    rows = ((name, *(row.get(column) for column in _COLUMNS)) for name, part in parts.items() for row in part.get("by_distance") or ())
    return csv_text(("condition", *("f1" if name == "mean" else name for name in _COLUMNS)), rows)
