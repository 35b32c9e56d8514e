"""What `rxrl evaluate` left in a folder, as the parts of a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import TemplateError

from rxrl.errors import DataError
from rxrl.evaluation.evaluate import EVALUATION_FILE, read_evaluation
from rxrl.evaluation.records import read_records
from rxrl.evaluation.report import CHOSEN_FROM, REPORT_JSON, TRANSCRIPTS, write_report, write_run_report
from rxrl.reading import OBJECT, Refusal, read_json

Found = TypeVar("Found")


def write_folder_report(folder: str | Path) -> Path:
    """The report of a run, of an evaluation, or of a run in whose folder an evaluation was saved later.

    Args:
        folder: Holds `report.json`, `evaluation.json` or both.

    Returns:
        Path of `report.html`.

    Raises:
        DataError: Neither is there, or a file is not what it should be.
    """
    folder = Path(folder)
    if not (folder / EVALUATION_FILE).is_file():
        return write_run_report(folder)
    if not (folder / REPORT_JSON).is_file() or "evaluation" in read_object(folder / REPORT_JSON):
        return _write_evaluation_report(folder)
    return write_run_report(folder, later_evaluation(folder))


def later_evaluation(folder: Path) -> dict[str, Any]:
    """An evaluation in the folder of a run, as parts of its report.json.

    Raises:
        DataError: The report compares other evaluations with one another, which this one is none of.
    """
    if compared := read_object(folder / REPORT_JSON).get("comparisons"):
        raise DataError(
            f"{folder / REPORT_JSON} compares evaluations of its own ({', '.join(compared)}), and {folder / EVALUATION_FILE} is another "
            "one: move it away, and evaluate into another folder with --out."
        )
    parts = _checked(folder / EVALUATION_FILE, lambda: _parts(folder))
    played = parts["evaluation"].get("about", {}).get("played")
    if played:
        known = read_object(folder / REPORT_JSON).get("data") or []
        parts["data"] = [*(each for each in known if each["use"] != "evaluation"), played]
    return {"after_mrl": parts.pop("evaluation"), **{name: part for name, part in parts.items() if name != "scenarios"}}


def _write_evaluation_report(folder: Path) -> Path:
    """The report of an evaluation that belongs to no run."""
    transcripts = folder / TRANSCRIPTS[0]
    records = read_records(transcripts, CHOSEN_FROM) if transcripts.is_file() else []

    def write() -> Path:
        parts = _parts(folder)
        about = parts["evaluation"].pop("about")
        title, played = f"Evaluation of {about['what']}" if "what" in about else "Evaluation", about.pop("played", None)
        return write_report({"title": title, **parts, "config": about, "data": [played] if played else []}, (), records, folder)

    return _checked(folder / EVALUATION_FILE, write)


def _parts(folder: Path) -> dict[str, Any]:
    """The file of an evaluation, with its times, as a report shows them."""
    evaluation = read_evaluation(folder)
    scenarios = {
        name: {"after": each["score"], "after_interval": each["interval"], **each} for name, each in evaluation.pop("scenarios").items()
    }
    parts = {name: evaluation.pop(name) for name in ("controls", "cost", "suite")}
    return {"evaluation": evaluation, "scenarios": scenarios, "stress_curves": evaluation.pop("stress"), **parts}


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        DataError: The file is missing or holds something else.
    """
    return read_json(path, OBJECT, Refusal(DataError, "make it again"))


def _checked(source: Path, make: Callable[[], Found]) -> Found:
    """What is made of a file; a file of another form is refused in one sentence."""
    try:
        return make()
    except (AttributeError, KeyError, TypeError, ValueError, TemplateError) as error:
        raise DataError(f"{source} does not hold what an evaluation writes ({error}): make the file again with an evaluation.") from error
