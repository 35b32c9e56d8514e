"""`rxrl data import`: data sets and plain text turned into the rows of rxrl."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rxrl.cli.console import echo
from rxrl.cli.output import writable_file
from rxrl.cli.shared import assigned
from rxrl.data.importers import (
    IMPORTERS,
    ImportResult,
    import_babi,
    import_chat,
    import_fairytaleqa,
    import_passages,
    import_published,
    import_sgd,
    import_text,
    import_with,
)
from rxrl.data.importers import fairytale as fairytale_defaults
from rxrl.data.importers.text import DEFAULT_LIMIT, write_texts
from rxrl.data.rows import LengthLimit, RefusedRow, write_conversations
from rxrl.data.sources import said
from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import ConfigError
from rxrl.types import Conversation


class Split(StrEnum):
    """Splits of a data set."""

    train = "train"
    validation = "validation"
    test = "test"


_SHOWN = 20
"""Refused rows that are listed one by one."""
Source = Annotated[str, typer.Argument(help="File, folder, or name of a data set on the Hub. Append :SPLIT to take one split.")]
Out = Annotated[Path, typer.Argument(callback=writable_file, help="File to write: .jsonl or .parquet.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
KeepValid = Annotated[bool, typer.Option("--keep-valid", help="Skip rows that do not fit, and list them.")]
MaxLength = Annotated[int | None, typer.Option(min=8, help="Maximum length of an interaction, in words; with --tokenizer, in tokens.")]
ImporterOptions = Annotated[list[str] | None, typer.Option("--set", help="Option of the importer, as name=value. Repeatable.")]
TokenizerFolder = Annotated[Path | None, typer.Option(help="Folder of a tokenizer or a checkpoint, to count tokens with.")]


class ImporterGroup(TyperGroup):
    """The built-in importers, each with options of its own, and by name those of packages and files."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of importers, those of installed packages included."""
        return [*super().list_commands(ctx), *(name for name in IMPORTERS.packages() if name not in IMPORTERS.built_in)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of an importer; what a package registers is loaded when it is called, so that a broken one does not hide others.

        Raises:
            ConfigError: There is no such importer.
        """
        found = super().get_command(ctx, cmd_name)
        if found is None and ":" not in cmd_name and cmd_name not in IMPORTERS:
            IMPORTERS.find(cmd_name)
        return _command_of(cmd_name) if found is None else found


imports = typer.Typer(
    cls=ImporterGroup, help="Turn data sets and plain text into rows of rxrl.", no_args_is_help=True, rich_markup_mode=None
)


def _command_of(name: str) -> Any:
    """The command of an importer that is not built in."""
    single = typer.Typer(add_completion=False, rich_markup_mode=None)

    @single.command(name, help="Import with an importer of a package or of your own.")
    def run(source: Source, out: Out, options: ImporterOptions = None) -> None:
        given = dict(assigned(each) for each in options or [])
        result = import_with(name, source, **given)
        _finish(result, result.conversations, out)

    return typer.main.get_command(single)


@imports.command("babi")
def babi(  # noqa: PLR0913, PLR0917
    source: Source,
    out: Out,
    holdout: Annotated[int, typer.Option(min=0, help="Hold out the last N episodes of each file, and write them to NAME.test.jsonl.")] = 0,
    max_turns: Annotated[int, typer.Option(min=1, help="Maximum number of turns.")] = 8,
    statements: Annotated[int, typer.Option(min=1, help="Maximum number of statements told at once.")] = 10,
    rename: Annotated[int, typer.Option(min=0, help="Add N copies of each training episode with people and places renamed.")] = 0,
    reword: Annotated[bool, typer.Option("--reword", help="In these copies, also vary the verbs of movement.")] = False,
    own_names: Annotated[bool, typer.Option("--own-names", help="In these copies, use people and places of the task only.")] = False,
    sentences: Annotated[bool, typer.Option("--sentences", help="Answer with the supporting statement, not with a single word.")] = False,
    thoughts: Annotated[bool, typer.Option("--thoughts", help="Think of the supporting statements before the answer.")] = False,
    max_length: MaxLength = None,
    tokenizer: TokenizerFolder = None,
    seed: Seed = 0,
    keep_valid: KeepValid = False,
) -> None:
    """Import bAbI tasks, one conversation per episode."""
    result = import_babi(
        source,
        max_turns=max_turns,
        statements_per_turn=statements,
        rename=rename > 0,
        copies=rename,
        own_names=own_names,
        reword=reword,
        sentences=sentences,
        thoughts=thoughts,
        limit=_limit(max_length, tokenizer),
        seed=seed,
        keep_valid=keep_valid,
    )
    held_out = _last_episodes(result.conversations, holdout)
    test = [each for each in result.conversations if each.id in held_out]
    train = _apart([each for each in result.conversations if each.extra["episode"] not in held_out], test)
    _finish(result, train, out)
    if test:
        _write(test, out.with_suffix(f".test{out.suffix}"))


def _last_episodes(conversations: Sequence[Conversation], count: int) -> set[str]:
    """The last `count` episodes of each file: a folder holds tasks of many kinds, and all are to be tested."""
    files: dict[str, dict[str, None]] = {}
    for conversation in conversations:
        episode = str(conversation.extra["episode"])
        files.setdefault(episode.rpartition("-")[0], {})[episode] = None
    for file, episodes in files.items():
        if count >= len(episodes):
            raise ConfigError(f"--holdout {count} leaves none of the {len(episodes)} episodes of {file} for training: hold out fewer.")
    return {episode for episodes in files.values() for episode in list(episodes)[len(episodes) - count :]}


def _apart(train: Sequence[Conversation], test: Sequence[Conversation]) -> list[Conversation]:
    """Training conversations that say something else than every held-out one: short episodes occur more than once in a file."""
    tested = {said(each) for each in test}
    kept = [each for each in train if said(each) not in tested]
    if not kept:
        raise ConfigError(f"--holdout: all {len(train)} conversations left for training are also held out: the episodes are all the same.")
    if len(kept) < len(train):
        echo(f"Left out of training because a held-out episode says the same: {len(train) - len(kept)}.")
    return kept


@imports.command("fairytaleqa")
def fairytaleqa(
    source: Source,
    out: Out,
    split: Annotated[Split, typer.Option(help="Split to import. Splits share no story.")] = Split.train,
    max_turns: Annotated[int, typer.Option(min=1, help="Maximum number of turns.")] = 16,
    max_answer_words: Annotated[int, typer.Option(min=0, help="Skip questions with longer answers; 0 keeps all.")] = 8,
    implicit: Annotated[bool, typer.Option("--implicit", help="Also keep questions whose answer is not in the text.")] = False,
    max_length: MaxLength = None,
    tokenizer: TokenizerFolder = None,
    seed: Seed = 0,
    keep_valid: KeepValid = False,
) -> None:
    """Import FairytaleQA, questions some turns after the story.

    Sections are told in pieces; their questions are asked some turns later.
    """
    result = import_fairytaleqa(
        source,
        split=split.value,
        max_turns=max_turns,
        max_answer_words=max_answer_words,
        explicit_only=not implicit,
        limit=_limit(max_length, tokenizer) or fairytale_defaults.DEFAULT_LIMIT,
        seed=seed,
        keep_valid=keep_valid,
    )
    _finish(result, result.conversations, out)


@imports.command("passages")
def passages(
    source: Source,
    out: Out,
    max_turns: Annotated[int, typer.Option(min=1, help="Maximum number of turns.")] = 16,
    cue_words: Annotated[int, typer.Option(min=1, help="Words that a question quotes.")] = 4,
    answer_words: Annotated[int, typer.Option(min=1, help="Words of the answer, which follow the quoted ones.")] = 3,
    max_length: MaxLength = None,
    tokenizer: TokenizerFolder = None,
    seed: Seed = 0,
) -> None:
    """Turn plain text into conversations that ask how it went on.

    Passages are told one after the other; some turns later, a question quotes a few words and asks for the next ones.
    """
    result = import_passages(
        source,
        max_turns=max_turns,
        cue_words=cue_words,
        answer_words=answer_words,
        limit=_limit(max_length, tokenizer) or DEFAULT_LIMIT,
        seed=seed,
        say=echo,
    )
    _finish(result, result.conversations, out)


@imports.command("published")
def published(
    source: Source,
    out: Out,
    subset: Annotated[str | None, typer.Option(help="Configuration of a data set on the Hub, such as steps-4.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set; required if there are several.")] = None,
    max_length: MaxLength = None,
    tokenizer: TokenizerFolder = None,
    keep_valid: KeepValid = False,
) -> None:
    """Import conversations in the published MRL format.

    Every row is checked: JSON lines, JSON, Parquet, or a data set on the Hub.
    """
    limit = _limit(max_length, tokenizer)
    result = import_published(source, subset=subset, split=split, limit=limit, keep_valid=keep_valid)
    _finish(result, result.conversations, out)


@imports.command("chat")
def chat(
    source: Source,
    out: Out,
    max_length: MaxLength = None,
    tokenizer: TokenizerFolder = None,
    keep_valid: KeepValid = False,
) -> None:
    """Import chats, in the format of OpenAI or of ShareGPT.

    Rows hold `messages` with role and content, or `conversations` with from and value.
    """
    result = import_chat(source, limit=_limit(max_length, tokenizer), keep_valid=keep_valid)
    _finish(result, result.conversations, out)


@imports.command("sgd")
def sgd(
    source: Annotated[Path, typer.Argument(help="Folder of the data set, or of one of its splits.")],
    out: Out,
    split: Annotated[Split | None, typer.Option(help="Split to import; by default train, or the split that the folder is.")] = None,
    max_length: MaxLength = None,
    tokenizer: TokenizerFolder = None,
    keep_valid: KeepValid = False,
) -> None:
    """Import Schema-Guided Dialogue, one conversation per dialogue.

    Slots that the user informs of are facts; an answer that restates one asks for it.
    """
    result = import_sgd(source, split=None if split is None else split.value, limit=_limit(max_length, tokenizer), keep_valid=keep_valid)
    _finish(result, result.conversations, out)


@imports.command("text")
def text(
    source: Source,
    out: Annotated[Path, typer.Argument(callback=writable_file, help='JSONL file to write: rows of {"text": ...}.')],
    max_length: MaxLength = None,
    tokenizer: TokenizerFolder = None,
) -> None:
    """Import plain text for pre-training.

    Texts are cut at paragraphs and sentences.
    """
    texts = import_text(source, limit=_limit(max_length, tokenizer) or DEFAULT_LIMIT)
    echo(f"Wrote {write_texts(out, texts)} texts to {out}.")


def _limit(max_length: int | None, tokenizer: Path | None) -> LengthLimit | None:
    if tokenizer is None:
        return None if max_length is None else LengthLimit(max_length)
    if max_length is None:
        raise ConfigError("--tokenizer measures lengths here: give --max-length, too, or leave it out.")
    return LengthLimit.in_tokens(max_length, Tokenizer.load(tokenizer))


def _finish(result: ImportResult, conversations: Sequence[Conversation], out: Path) -> None:
    _write(conversations, out)
    show_refused(result.refused)
    # Last, so that a long list does not hide it.
    echo(", ".join(f"{name} {count}" for name, count in result.counts.items()) + ".")


def _write(conversations: Sequence[Conversation], out: Path) -> None:
    echo(f"Wrote {write_conversations(out, conversations)} conversations to {out}.")


def show_refused(refused: Sequence[RefusedRow]) -> None:
    """Lists rows that did not fit, the first of them where they are many, on standard error."""
    for row in refused[:_SHOWN]:
        echo(f"refused: {row}", err=True)
    if len(refused) > _SHOWN:
        echo(f"refused: {len(refused) - _SHOWN:,} more, {len(refused):,} in all", err=True)
