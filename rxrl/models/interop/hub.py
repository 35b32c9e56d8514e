"""Models on the Hugging Face Hub: fetching, the model card, and pushing a checkpoint with its tokenizer and card."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import huggingface_hub
import jinja2
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from rxrl.errors import CheckpointError, DataError
from rxrl.models.presets import count_parameters
from rxrl.reading import read_text

if TYPE_CHECKING:
    from rxrl.models.model import ReactiveTransformer

CARD_FILE = "README.md"
FILES = ("*.json", "*.safetensors", "*.sha256", CARD_FILE)
"""What is fetched of a repository: nothing of it is ever run."""
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_HEADLINES = {
    "retention_at_16": "retention at 16 turns",
    "retention_far": "retention, distance 9 to 16",
    "retention_near": "retention, distance 1 to 2",
    "retention": "retention, all asking turns",
}
_CONTROLS = {"empty_memory": "the same with empty memory", "swapped_memory": "the same with swapped memory"}


class SavedTokenizer(Protocol):
    """A tokenizer that can be stored beside a model."""

    def save(self, directory: str | Path) -> None:
        """Writes its files into `directory`."""
        ...


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


def model_card(
    model: ReactiveTransformer, evaluation: Mapping[str, Any] | None = None, *, license: str | None = None, repo_id: str | None = None
) -> str:
    """The text of a model card.

    Args:
        model: What it describes.
        evaluation: Content of `evaluation.json`, or of a run's `report.json`.
        license: Identifier of the licence of the weights, such as `apache-2.0`.
        repo_id: Name on the Hub, for the example.

    Raises:
        DataError: `evaluation` is something else.
    """
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False)
    template = environment.from_string(read_text(Path(__file__).with_name("templates") / "model_card.md.j2"))
    config = model.config
    return template.render(
        config=config,
        license=license,
        repo_id=repo_id or f"owner/{config.name}",
        counts=_counts(model),
        memory_values=config.layers * config.slots * config.dim,
        dtype=str(model.dtype).removeprefix("torch."),
        attentions=_attentions(model),
        results=_results(evaluation or {}),
    )


def push_to_hub(
    model: ReactiveTransformer,
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
        model.save_pretrained(folder, tokenizer=tokenizer, card=card)
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


def _counts(model: ReactiveTransformer) -> dict[str, int]:
    names = {
        "encoder": "encoder, with the token embedding",
        "decoder": "decoder, with the token embedding",
        "decoder_active": "decoder, used by a token",
        "memory_attention": "memory attention",
        "mlm_head": "MLM head",
        "total": "total without the MLM head",
    }
    counts = count_parameters(model)
    absent = {*model.config.absent, *(["decoder_active"] if "decoder" in model.config.absent else [])}
    return {text: counts[name] for name, text in names.items() if name not in absent}


def _attentions(model: ReactiveTransformer) -> dict[str, str]:
    config = model.config
    found = {
        "encoder, self-attention": config.encoder.self_attention,
        "encoder, reading memory": config.encoder.cross_attention,
        "decoder, self-attention": config.decoder.self_attention,
        "decoder, reading memory": config.decoder.cross_attention,
        "memory attention, encoded data": config.memory_attention.attention,
        "memory attention, before it": config.memory_attention.first_attention,
    }
    return {
        name: f"{attention.types(config.heads)[0].upper()}, {attention.query_groups} query and {attention.kv_groups} key/value heads"
        for name, attention in found.items()
        if attention is not None and name.split(",")[0].replace(" ", "_") not in config.absent
    }


def _results(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of the table of results, from what an evaluation or the report of a run holds."""
    try:
        return _readable_results(evaluation)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"This is not what an evaluation writes ({error}): give an evaluation.json or report.json.") from None


def _readable_results(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    if evaluation and not evaluation.keys() & {"after_mrl", "after_supervised", "retention"}:
        raise ValueError("it has no retention")
    summary = evaluation.get("after_mrl") or evaluation.get("after_supervised") or evaluation
    rows = [_row(text, summary, name) for name, text in _HEADLINES.items() if summary.get(name) is not None]
    for control, text in _CONTROLS.items():
        part = (evaluation.get("controls") or {}).get(control) or {}
        name = "retention" if part.get("retention_at_16") is None else "retention_at_16"
        if part.get(name) is not None:
            rows.append(_row(text, part, name))
    return {
        "rows": rows,
        "chance": summary.get("chance") if rows else None,
        "by_distance": [row for row in summary.get("by_distance") or [] if row.get("mean") is not None],
        "conversations": summary.get("conversations"),
    }


def _row(text: str, summary: Mapping[str, Any], name: str) -> tuple[str, float, Any, Any]:
    return text, float(summary[name]), summary.get(f"{name}_interval"), summary.get(f"{name}_turns")
