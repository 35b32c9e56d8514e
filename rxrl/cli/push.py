"""`rxrl push`: a checkpoint with its tokenizer and a model card on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rxrl.cli.console import echo
from rxrl.evaluation.saved import read_object
from rxrl.factory import load_checkpoint
from rxrl.models.interop.card import model_card
from rxrl.models.interop.hub import push_to_hub


def push(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint.")],
    repo_id: Annotated[str, typer.Argument(help="Repository, as owner/name; created if missing.")],
    evaluation: Annotated[Path | None, typer.Option(help="evaluation.json or report.json, for the results in the model card.")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the weights, for the model card.")] = None,
    private: Annotated[bool | None, typer.Option("--private/--public", help="Visibility of a new repository.", show_default=False)] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to upload to.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the model card and upload nothing.")] = False,
) -> None:
    """Upload a checkpoint with its tokenizer and a model card to the Hugging Face Hub."""
    model, tokenizer = load_checkpoint(checkpoint)
    results = None if evaluation is None else read_object(evaluation)
    if dry_run:
        echo(model_card(model, results, license=license, repo_id=repo_id))
        return
    address = push_to_hub(model, repo_id, tokenizer=tokenizer, evaluation=results, license=license, private=private, revision=revision)
    echo(f"Uploaded to {address}.")
