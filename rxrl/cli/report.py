"""`rxrl report FOLDER`: the HTML and JSON report of a run, made again from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rxrl.cli.console import echo
from rxrl.cli.output import writable_folder
from rxrl.errors import DataError
from rxrl.evaluation import write_run_report
from rxrl.evaluation.report import REPORT_JSON
from rxrl.reading import OBJECT, Refusal, read_json
from rxrl.runs.folder import RunFolder

EVALUATION_JSON = "evaluation.json"


def report(run: Annotated[Path, typer.Argument(callback=writable_folder, help="Folder of a run.", show_default=False)]) -> None:
    """Write the HTML and JSON report of a run."""
    if not run.is_dir():
        raise DataError(f"There is no folder {run}: give the folder of a run.")
    with RunFolder(run).claimed():
        later = (run / EVALUATION_JSON).is_file() and (run / REPORT_JSON).is_file()
        echo(f"Wrote {write_run_report(run, later_evaluation(run) if later else None)}.")


def later_evaluation(folder: Path) -> dict[str, Any]:
    """What `rxrl evaluate --out` left in the folder, as parts of its report.json.

    Raises:
        DataError: The report compares other evaluations with one another, which this one is none of.
    """
    if compared := read_object(folder / REPORT_JSON).get("comparisons"):
        raise DataError(
            f"{folder / REPORT_JSON} compares evaluations of its own ({', '.join(compared)}), and {folder / EVALUATION_JSON} is another "
            "one: move it away, and evaluate into another folder with --out."
        )
    evaluation = read_object(folder / EVALUATION_JSON)
    return {"after_mrl": evaluation, "controls": evaluation.pop("controls", {}), "cost": evaluation.pop("cost", [])}


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        DataError: The file is missing or holds something else.
    """
    return read_json(path, OBJECT, Refusal(DataError, "make it again"))
