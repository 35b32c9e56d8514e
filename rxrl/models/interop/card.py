"""The model card: what a model is, how large, and what it was measured to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from rxrl.errors import DataError
from rxrl.models.network import ReactiveNetwork
from rxrl.models.sizes import count_parameters
from rxrl.reading import read_text

_HEADLINES = {
    "retention_at_16": "retention at 16 turns",
    "retention_far": "retention, distance 9 to 16",
    "retention_near": "retention, distance 1 to 2",
    "retention": "retention, all asking turns",
}
_CONTROLS = {"empty_memory": "the same with empty memory", "swapped_memory": "the same with swapped memory"}


def model_card(
    model: ReactiveNetwork, evaluation: Mapping[str, Any] | None = None, *, license: str | None = None, repo_id: str | None = None
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
        memory_values=config.memory_values,
        dtype=str(model.dtype).removeprefix("torch."),
        attentions=_attentions(model),
        results=_results(evaluation or {}),
    )


def _counts(model: ReactiveNetwork) -> dict[str, int]:
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


def _attentions(model: ReactiveNetwork) -> dict[str, str]:
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
        if attention is not None
        and name.split(",")[0].replace(" ", "_") not in config.absent
        and not (config.has_memory_tokens and name != "decoder, self-attention")
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
