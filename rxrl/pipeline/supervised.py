"""What a supervised stage starts from: the model, its tokenizer, and the data, from wherever they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rxrl.data.rows import LengthLimit
from rxrl.data.splits import Sources, generated, holds_texts, open_texts, refuse_level, stored_sources
from rxrl.data.stores import Options, Reporter, is_store, needs_store, open_store, sampled_tokenizer, stores_of
from rxrl.data.tokenizer import Tokenizer
from rxrl.factory import load_checkpoint
from rxrl.models import ReactiveTransformer, preset
from rxrl.pipeline.parts import fresh_model
from rxrl.supply import open_named

DEFAULT_PRESET = "pico"


def open_stage(
    name: str,
    seed: int,
    *,
    start: Path | None = None,
    size: str | None = None,
    tokenizer: Path | None = None,
    data: Sequence[str] | None = None,
    held_out: str | None = None,
    level: int | None = None,
    options: Options | None = None,
    reporter: Reporter | None = None,
    changes: Mapping[str, Any] | None = None,
) -> tuple[ReactiveTransformer, Tokenizer, Sources]:
    """The model, its tokenizer and the data of a stage.

    Args:
        name: The stage.
        seed: Key of the draws.
        start: Checkpoint to start from; None: a new model.
        size: Preset of a new model.
        tokenizer: Tokenizer of a new model; None: that of the token store, else one trained on the data.
        data: Names of what to train on; None: the generated world. One token store, or one large source, which becomes one, is read as it
            is needed; smaller sources are read whole.
        held_out: What to validate on.
        level: Difficulty of the generated world.
        options: How a large source is tokenized.
        reporter: Is told what happens.
        changes: Fields of a new model that differ from the preset.

    Raises:
        RxrlError: Something is missing or wrong, or does not fit together.
    """
    reporter, options, changes = reporter or Reporter(), options or Options(), changes or {}
    size = size or DEFAULT_PRESET
    preset(size)
    if data and len(data) == 1 and not generated(data[0]):
        # Before anything is opened: it may be large, or missing.
        refuse_level(level)
    if data and len(data) == 1 and not generated(data[0]) and needs_store(data[0]):
        model, codec = load_checkpoint(start) if start else _model_of(data[0], size, tokenizer, options, seed, reporter, changes)
        train, other = stores_of(data[0], held_out, codec, options, reporter)
        return model, codec, stored_sources(train, other, seed, texts=name == "pretrain")
    sources = open_named(data, held_out, level, seed, texts=name == "pretrain", say=reporter.say)
    model, codec = load_checkpoint(start) if start else fresh_model(size, tokenizer, sources, data, seed, **changes)
    if name == "pretrain" and data and len(data) == 1 and not generated(data[0]) and holds_texts(data[0]):
        # Only now is there a tokenizer to measure with: what is longer than the model takes is cut into several texts.
        sources = open_texts(data[0], held_out, seed, LengthLimit.of_texts(model.config.max_length, codec))
    return model, codec, sources


def _model_of(
    data: str, size: str, tokenizer: Path | None, options: Options, seed: int, reporter: Reporter, changes: Mapping[str, Any]
) -> tuple[ReactiveTransformer, Tokenizer]:
    """A model with random weights for a token store or a large source."""
    if tokenizer is not None:
        codec = Tokenizer.load(tokenizer)
    elif is_store(data):
        codec = open_store(data).files.load_tokenizer()
    else:
        codec = sampled_tokenizer(data, preset(size).vocab_size, options, reporter)
    return ReactiveTransformer.from_preset(size, seed=seed, **{**codec.model_settings, **changes}), codec
