"""Models on the Hugging Face Hub: fetching a checkpoint, and pushing one with its tokenizer and card."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from rxrl.errors import CheckpointError
from rxrl.models.checkpoint import CARD_FILE, SavedTokenizer, save_model
from rxrl.models.interop.card import model_card
from rxrl.models.network import ReactiveNetwork

FILES = ("*.json", "*.safetensors", "*.sha256", CARD_FILE)
"""What is fetched of a repository: nothing of it is ever run."""
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def local_folder(source: str | Path) -> Path:
    """The folder of a checkpoint; one that is not on this machine is fetched from the Hub.

    Args:
        source: A folder, or a Hub id `owner/name`, perhaps with a revision: `owner/name@main`.

    Raises:
        CheckpointError: It is neither, or cannot be fetched.
    """
    path, text = Path(source), str(source)
    if path.is_dir():
        return path
    # `runs/modle` beside a folder `runs` is a misspelt path, not the name of a repository.
    if not _REPOSITORY.fullmatch(text) or Path(path.parts[0]).exists():
        raise CheckpointError(f"There is no checkpoint {source}: give its folder, or its name on the Hub as owner/name.")
    name, _, revision = text.partition("@")
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=list(FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split()[:30])
        raise CheckpointError(
            f"There is no folder {source}, and it cannot be fetched from the Hub ({type(error).__name__}: {reason}): check the name, "
            "the network and your access."
        ) from None


def push_to_hub(
    model: ReactiveNetwork,
    repo_id: str,
    *,
    tokenizer: SavedTokenizer | None = None,
    evaluation: Mapping[str, Any] | None = None,
    license: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload a Reactive Transformer",
    api: huggingface_hub.HfApi | None = None,
) -> str:
    """Uploads a model with its tokenizer and a model card; the repository is made if it is missing.

    Args:
        model: Its weights and configuration.
        repo_id: `owner/name`.
        tokenizer: Stored beside the model.
        evaluation: For the model card; see `model_card`.
        license: For the model card.
        private: Whether a repository that is made is private; None leaves it to the owner's setting.
        revision: Branch; None is the main one.
        commit_message: First line of the commit.
        api: Client; None makes one with the token of this machine.

    Returns:
        Address of the repository.

    Raises:
        CheckpointError: The Hub refuses, or cannot be reached.
        DataError: `evaluation` is something else.
    """
    client = huggingface_hub.HfApi(library_name="rxrl") if api is None else api
    card = model_card(model, evaluation, license=license, repo_id=repo_id)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder), tokenizer, card)
        try:
            address = client.create_repo(repo_id, private=private, exist_ok=True)
            client.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message)
        except Exception as error:
            # Of what kind a failing connection is depends on the version of huggingface_hub.
            reason = " ".join(str(error).split()[:30])
            raise CheckpointError(
                f"{repo_id} cannot be written on the Hub ({type(error).__name__}: {reason}): check the name, the network and your token "
                "(`hf auth login`)."
            ) from None
    return str(address)
