"""`rxrl report FOLDER`: the HTML and JSON report of a run or an evaluation, made from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rxrl.cli.console import echo
from rxrl.cli.output import writable_folder
from rxrl.cli.serving import serve as serve_live
from rxrl.errors import DataError
from rxrl.evaluation.saved import write_folder_report
from rxrl.runs.folder import RunFolder


def report(
    folder: Annotated[
        Path,
        typer.Argument(callback=writable_folder, metavar="FOLDER", help="Folder of a run or an evaluation.", show_default=False),
    ],
    serve: Annotated[
        bool, typer.Option("--serve", help="Show the run in a browser on this machine while it trains; writes nothing.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of --serve; 0 takes any.")] = 8642,
) -> None:
    """Write the HTML and JSON report of a run or an evaluation."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}: give the folder of a run or an evaluation.")
    if serve:
        serve_live(folder, port, echo)
        return
    with RunFolder(folder).claimed():
        echo(f"Wrote {write_folder_report(folder)}.")
