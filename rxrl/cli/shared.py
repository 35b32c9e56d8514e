"""What the commands on single steps share: their options, the data they open, and the folders they write to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from rxrl.cli.data import is_plain_text
from rxrl.cli.pipeline import (
    CHECKPOINT,
    DataConfig,
    PipelineConfig,
    Sources,
    check_apart,
    cycled,
    open_sources,
    rows_sources,
    validation_share,
)
from rxrl.data.importers import import_text
from rxrl.data.importers.common import one_line
from rxrl.data.importers.text import read_documents
from rxrl.data.rows import LengthLimit, read_conversations
from rxrl.errors import ConfigError, DataError
from rxrl.training.tracking import METRICS_FILE

IN_LETTERS = LengthLimit(300, len, "letters")
"""How long texts are while there is no tokenizer to measure with; not in words, which some languages do not part."""

Start = Annotated[Path | None, typer.Option("--from", help="Checkpoint to start from.")]
Out = Annotated[Path, typer.Option(help="Folder of the run: metrics, configuration and checkpoints.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file with settings that differ from the defaults.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Dotted override, such as optimizer.learning_rate=1e-3; repeatable.")]
TrainFile = Annotated[str | None, typer.Option("--data", help="Conversations to train on, in place of the embedded world.")]
HeldOut = Annotated[str | None, typer.Option(help="Conversations to validate on; without it, the first twentieth of --data.")]
LevelOption = Annotated[int | None, typer.Option("--level", min=1, max=3, help="Difficulty of the embedded world; 1 without it.")]
Seed = Annotated[int | None, typer.Option(help="Key of every draw; 0, or that of the configuration, without it.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")]


def quoted(text: str | None) -> str | None:
    """Text of the command line as YAML that means just it, in overrides."""
    return None if text is None else json.dumps(text)


def seed_override(seed: int | None) -> list[str]:
    """`--seed` as an override."""
    return [] if seed is None else [f"seed={seed}"]


def open_data(data: str | None, held_out: str | None, level: int | None, seed: int, *, texts: bool = False) -> Sources:
    """What a stage or a training learns from and is validated on.

    Args:
        data: File of conversations; None: the embedded world.
        held_out: File to validate on; None: the first twentieth of `data`.
        level: Difficulty of the embedded world.
        seed: Key of the draws.
        texts: Whether plain texts do, too.

    Raises:
        RxrlError: A file is missing or wrong, or the options contradict each other.
    """
    if data is None:
        if held_out is not None:
            raise ConfigError("--held-out goes with --data: the embedded world has held-out conversations of its own.")
        return open_sources(PipelineConfig(seed=seed, data=DataConfig(level=level or 1, test_conversations=1)))
    if level is not None:
        raise ConfigError("--level is for the embedded world: give either --level or --data.")
    if texts and holds_texts(data):
        return open_texts(data, held_out, seed)
    train = read_conversations(data)
    if held_out is not None:
        validation = read_conversations(held_out)
        check_apart(train, validation, data, held_out)
        return rows_sources(train, validation, [], seed)
    share = validation_share(train, data)
    return rows_sources(train[share:], train[:share], [], seed)


def holds_texts(data: str) -> bool:
    """Whether `--data` names plain texts, not conversations."""
    return Path(data).exists() and is_plain_text(data)


def open_texts(data: str, held_out: str | None, seed: int, limit: LengthLimit = IN_LETTERS) -> Sources:
    """Plain texts, cut to the limit: there are no conversations, only stories.

    Args:
        data: Text file, JSONL of texts, or folder.
        held_out: The same, to validate on; None: the first twentieth of the texts of `data`.
        seed: Key of the draws.
        limit: Longest text; that of the model, once it is there, so that nothing is lost.

    Raises:
        DataError: A file is missing or wrong, holds too few texts, or holds what the other holds.
    """
    train = import_text(data, limit=limit)
    if held_out is None:
        if len(train) < 2:
            raise DataError(f"{data} holds {len(train)} text: give at least two, one to train on and one to validate.")
        share = max(1, len(train) // 20)
        parts = {"train": train[share:], "validation": train[:share]}
    else:
        check_texts_apart(data, held_out)
        parts = {"train": train, "validation": import_text(held_out, limit=limit)}
    empty = rows_sources([], [], [], seed)
    return replace(empty, stories={name: cycled(part) for name, part in parts.items()}.__getitem__)


def check_texts_apart(train: str, held_out: str) -> None:
    """Refuses held-out documents that are trained on; pieces of them may be alike, a story ends as others do."""
    known = {one_line(document) for document in read_documents(train)}
    shared = [text for document in read_documents(held_out) if (text := one_line(document)) and text in known]
    if shared:
        first = shared[0] if len(shared[0]) <= 60 else f"{shared[0][:57]}..."
        raise DataError(f"{len(shared)} texts are in both {train} and {held_out} (first: {first!r}): part them.")


def check_unused(out: Path, resume: bool) -> None:
    """Refuses to mix a new run with what a folder holds.

    Raises:
        ConfigError: The folder holds a run, and nobody said to go on with it.
    """
    if (out / CHECKPOINT).exists() and not resume:
        raise ConfigError(f"{out} holds a finished run: choose another folder with --out, or remove it.")
    if (out / METRICS_FILE).exists() and not resume:
        raise ConfigError(f"{out} holds a run that has begun: go on with --resume, choose another folder with --out, or remove it.")
