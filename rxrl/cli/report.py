"""`rxrl report FOLDER`: the HTML and JSON report of a run, made again from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rxrl.errors import DataError
from rxrl.evaluation import write_run_report
from rxrl.evaluation.files import write_json
from rxrl.evaluation.report import REPORT_JSON

EVALUATION_JSON = "evaluation.json"


def report(run: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)]) -> None:
    """Write the HTML and JSON report of a run."""
    if not run.is_dir():
        raise DataError(f"There is no folder {run}: give the folder of a run.")
    if (run / EVALUATION_JSON).is_file() and (run / REPORT_JSON).is_file():
        take_in_evaluation(run)
    typer.echo(f"Wrote {write_run_report(run)}.")


def take_in_evaluation(folder: Path) -> None:
    """Puts what `rxrl evaluate --out` left in the folder into its report.json."""
    evaluation = read_object(folder / EVALUATION_JSON)
    controls, cost = evaluation.pop("controls", {}), evaluation.pop("cost", [])
    write_json(folder / REPORT_JSON, read_object(folder / REPORT_JSON) | {"after_mrl": evaluation, "controls": controls, "cost": cost})


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        DataError: The file is missing or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable JSON ({error}): make it again.") from None
    if not isinstance(content, dict):
        raise DataError(f"Expected an object in {path}, got {type(content).__name__}: make it again.")
    return content
