"""What a supervised stage starts from: the model, its tokenizer, and the data, from wherever they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rxrl.data.mixing import mix_of
from rxrl.data.rows import LengthLimit
from rxrl.data.splits import WORLD, Sources, of_texts, open_texts, paired, refuse_level, stored_sources
from rxrl.data.stores import Options, Reporter, is_store, needs_store, open_store, sampled_tokenizer, stores_of
from rxrl.data.tokenizer import Tokenizer
from rxrl.factory import load_checkpoint
from rxrl.models import ReactiveTransformer, preset
from rxrl.pipeline.parts import fresh_model, new_model
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
    held_out: Sequence[str] = (),
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
        data: Names of what to train on; None: the generated world. Token stores, and large sources, which become one, are read as they
            are needed; smaller sources are read whole. Texts that are mixed become token stores, whatever their size.
        held_out: What validates the files among them, one each in their order; empty: a part of them.
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
    mix = mix_of(WORLD if data is None else data)
    validated = paired(mix, held_out)
    if len(validated) == len(mix):
        # Before anything is opened: it may be large, or missing.
        refuse_level(level)
    texts = [file for file in validated if of_texts(file)] if name == "pretrain" else []
    stored = [file for file in validated if needs_store(file) or (file in texts and len(mix) > 1)]
    if stored:
        model, codec = load_checkpoint(start) if start else _model_of(stored, size, tokenizer, options, seed, reporter, changes)
        opened = partial(_of_store, stored, codec, options, reporter, seed, name == "pretrain")
        return model, codec, open_named(data, held_out, level, seed, say=reporter.say, opened=opened)
    if texts:
        ((file, other),) = validated.items()
        sources = open_texts(file, other, seed)
        model, codec = load_checkpoint(start) if start else fresh_model(size, tokenizer, sources, data, seed, **changes)
        # Only now is there a tokenizer to measure with: what is longer than the model takes is cut into several texts.
        return model, codec, open_texts(file, other, seed, LengthLimit.of_texts(model.config.max_length, codec))
    sources = open_named(data, held_out, level, seed, say=reporter.say)
    model, codec = load_checkpoint(start) if start else fresh_model(size, tokenizer, sources, data, seed, **changes)
    return model, codec, sources


def _of_store(
    stored: Sequence[str], codec: Tokenizer, options: Options, reporter: Reporter, seed: int, texts: bool, file: str, held_out: str | None
) -> Sources | None:
    """A file that is a token store or becomes one, with what validates it; None where it is read whole."""
    return stored_sources(*stores_of(file, held_out, codec, options, reporter), seed, texts=texts) if file in stored else None


def _model_of(
    stored: Sequence[str], size: str, tokenizer: Path | None, options: Options, seed: int, reporter: Reporter, changes: Mapping[str, Any]
) -> tuple[ReactiveTransformer, Tokenizer]:
    """A model with random weights for token stores or large sources, with the tokenizer of the first store, or of the first source."""
    stores = [file for file in stored if is_store(file)]
    if tokenizer is not None:
        codec = Tokenizer.load(tokenizer)
    elif stores:
        codec = open_store(stores[0]).files.load_tokenizer()
    else:
        codec = sampled_tokenizer(stored[0], preset(size).vocab_size, options, reporter)
    return new_model(size, codec, seed, changes), codec
