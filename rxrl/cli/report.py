"""`rxrl report FOLDER`: the HTML and JSON report of a run or an evaluation, made from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rxrl.cli.console import echo
from rxrl.cli.output import writable_folder
from rxrl.errors import DataError
from rxrl.evaluation.saved import write_folder_report
from rxrl.runs.folder import RunFolder


def report(
    folder: Annotated[
        Path,
        typer.Argument(callback=writable_folder, metavar="FOLDER", help="Folder of a run or an evaluation.", show_default=False),
    ],
) -> None:
    """Write the HTML and JSON report of a run or an evaluation."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}: give the folder of a run or an evaluation.")
    with RunFolder(folder).claimed():
        echo(f"Wrote {write_folder_report(folder)}.")
