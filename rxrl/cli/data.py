"""`rxrl data`: generate, import and inspect conversations; train a tokenizer on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from rxrl.cli.console import echo, plain_console
from rxrl.cli.output import writable_file, writable_folder
from rxrl.data.corpora import open_corpus
from rxrl.data.importers import ImportResult, import_babi, import_chat, import_fairytaleqa, import_published, import_text
from rxrl.data.importers import fairytale as fairytale_defaults
from rxrl.data.importers.text import DEFAULT_LIMIT, texts_of, write_texts
from rxrl.data.rows import LengthLimit, RefusedRow, conversations_of, write_conversations
from rxrl.data.stats import DataStats, data_stats
from rxrl.data.tokenizer import Tokenizer
from rxrl.data.world import GeneratedSource
from rxrl.errors import ConfigError
from rxrl.types import Conversation, Strategy

app = typer.Typer(help="Generate, import and inspect conversations.", no_args_is_help=True, add_completion=False, rich_markup_mode=None)
imports = typer.Typer(help="Turn data sets and plain text into the rows of rxrl.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(imports, name="import")


class Split(StrEnum):
    """Splits of a data set."""

    train = "train"
    validation = "validation"
    test = "test"


Source = Annotated[str, typer.Argument(help="File, folder, or name of a data set on the Hub; `:SPLIT` behind it takes one split.")]
Out = Annotated[Path, typer.Argument(callback=writable_file, help="File to write: .jsonl or .parquet.")]
Seed = Annotated[int, typer.Option(help="Seed of all draws.")]
KeepValid = Annotated[bool, typer.Option("--keep-valid", help="Keep the rest where rows do not fit, and list what was refused.")]
MaxLength = Annotated[
    int | None, typer.Option(min=8, help="Longest interaction: in tokens (special ones included) with --tokenizer, else in words.")
]
TokenizerFolder = Annotated[Path | None, typer.Option(help="Folder of a trained tokenizer or of a checkpoint.")]


@app.command()
def generate(
    out: Out,
    count: Annotated[int, typer.Option(min=1, help="Number of conversations (or stories).")] = 1000,
    level: Annotated[int, typer.Option(min=1, max=3, help="Difficulty: 1 people, 2 everything, 3 with stories and aliases.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Turns of each conversation.")] = 16,
    strategy: Annotated[Strategy, typer.Option(help="Shape of the conversations.")] = "multi-step",
    split: Annotated[Split, typer.Option(help="No two splits share a conversation; test holds unseen combinations.")] = Split.train,
    start: Annotated[int, typer.Option(min=0, help="Index of the first one in the endless sequence.")] = 0,
    seed: Seed = 0,
    stories: Annotated[bool, typer.Option("--stories", help="Write plain stories for pre-training instead of conversations.")] = False,
) -> None:
    """Write conversations of the generated world; the same options always give the same file."""
    world = GeneratedSource(level=level, seed=seed, split=split.value)
    if stories:
        written, what = write_texts(out, world.stories(split.value, start, count)), "stories"
    else:
        conversations = world.take(steps=steps, strategy=strategy, start=start, count=count)
        written, what = write_conversations(out, conversations), "conversations"
    echo(f"Wrote {written} {what} to {out}.")


@imports.command("babi")
def babi(  # noqa: PLR0913, PLR0917
    source: Source,
    out: Out,
    holdout: Annotated[int, typer.Option(min=0, help="Write the last episodes of each file, never renamed, to NAME.test.jsonl.")] = 0,
    max_turns: Annotated[int, typer.Option(min=1, help="Most turns of a conversation.")] = 8,
    statements: Annotated[int, typer.Option(min=1, help="Most statements that are told together.")] = 10,
    rename: Annotated[int, typer.Option(min=0, help="Copies of each episode with people and places renamed, for training.")] = 0,
    reword: Annotated[bool, typer.Option("--reword", help="In those copies, draw the verbs of movements anew.")] = False,
    own_names: Annotated[bool, typer.Option("--own-names", help="Rename among the task's own people and places only.")] = False,
    sentences: Annotated[bool, typer.Option("--sentences", help="Answer with the supporting statement, not with the bare word.")] = False,
    max_length: MaxLength = None,
    tokenizer: TokenizerFolder = None,
    seed: Seed = 0,
    keep_valid: KeepValid = False,
) -> None:
    """Import a file of the bAbI tasks, or a folder of them: one conversation per episode."""
    result = import_babi(
        source,
        max_turns=max_turns,
        statements_per_turn=statements,
        rename=rename > 0,
        copies=rename,
        own_names=own_names,
        reword=reword,
        sentences=sentences,
        limit=_limit(max_length, tokenizer),
        seed=seed,
        keep_valid=keep_valid,
    )
    held_out = _last_episodes(result.conversations, holdout)
    test = [each for each in result.conversations if each.id in held_out]
    train = [each for each in result.conversations if each.extra["episode"] not in held_out]
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


@imports.command("fairytaleqa")
def fairytaleqa(
    source: Source,
    out: Out,
    split: Annotated[Split, typer.Option(help="Split of the data set; stories are never shared.")] = Split.train,
    max_turns: Annotated[int, typer.Option(min=1, help="Most turns of a conversation.")] = 16,
    max_answer_words: Annotated[int, typer.Option(min=0, help="Leave questions with longer answers out; 0 keeps all.")] = 8,
    implicit: Annotated[bool, typer.Option("--implicit", help="Keep questions whose answer does not stand in the text, too.")] = False,
    max_length: MaxLength = None,
    tokenizer: TokenizerFolder = None,
    seed: Seed = 0,
    keep_valid: KeepValid = False,
) -> None:
    """Import FairytaleQA: sections are told in pieces, their questions are asked some turns later."""
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


@imports.command("published")
def published(
    source: Source,
    out: Out,
    subset: Annotated[str | None, typer.Option(help="Configuration of a data set on the Hub, for example steps-4.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set; needed where there are several.")] = None,
    max_length: MaxLength = None,
    tokenizer: TokenizerFolder = None,
    keep_valid: KeepValid = False,
) -> None:
    """Check conversations in the published MRL format (JSONL, Parquet, Hub name or local folder) and write them as rows."""
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
    """Import chats: `messages` of role and content, or `conversations` of from and value (ShareGPT)."""
    result = import_chat(source, limit=_limit(max_length, tokenizer), keep_valid=keep_valid)
    _finish(result, result.conversations, out)


@imports.command("text")
def text(
    source: Source,
    out: Annotated[Path, typer.Argument(callback=writable_file, help='JSONL file to write: rows of {"text": ...}.')],
    max_length: MaxLength = None,
    tokenizer: TokenizerFolder = None,
) -> None:
    """Import plain text for pre-training, cut at paragraphs and sentences."""
    texts = import_text(source, limit=_limit(max_length, tokenizer) or DEFAULT_LIMIT)
    echo(f"Wrote {write_texts(out, texts)} texts to {out}.")


@app.command()
def stats(
    source: Source,
    tokenizer: TokenizerFolder = None,
    subset: Annotated[str | None, typer.Option(help="Configuration of a data set on the Hub.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set.")] = None,
    keep_valid: KeepValid = False,
) -> None:
    """Show what a file of conversations holds: turns, asks, distances, chance, lengths."""
    refused: list[RefusedRow] = []
    corpus = open_corpus(source, subset=subset, split=split)
    codec = None if tokenizer is None else Tokenizer.load(tokenizer)
    for part in corpus.splits.values() if corpus.asked is None else [corpus.choose("any")]:
        conversations = conversations_of(part, keep_valid=keep_valid, refused=refused)
        if codec is None:
            _show_stats(data_stats(conversations), "words", part.name)
        else:
            _show_stats(data_stats(conversations, lambda text: len(codec.encode(text))), "tokens", part.name)
    _show_refused(refused)


@app.command("tokenizer")
def train_tokenizer(
    sources: Annotated[list[str], typer.Argument(help="Files or data sets of conversations or of texts; of several splits, train.")],
    out: Annotated[Path, typer.Option(callback=writable_folder, help="Folder to write the tokenizer to.")],
    vocab_size: Annotated[int, typer.Option(min=263, help="Most tokens, special tokens and bytes included.")] = 512,
) -> None:
    """Train a ByteLevel BPE tokenizer on conversations and texts."""
    trained = Tokenizer.train([text for source in sources for text in _texts_of(source)], vocab_size)
    trained.save(out)
    echo(f"Wrote a tokenizer of {trained.vocab_size} tokens to {out} (hash {trained.hash[:12]}).")


def _texts_of(source: str) -> list[str]:
    """All text of what is trained on: rows of conversations, rows of texts, or plain text."""
    split = open_corpus(source).choose("train", echo)
    if split.holds_texts():
        return texts_of(split, LengthLimit(10_000))
    return [part for each in conversations_of(split) for turn in each.interactions for part in (turn.query, turn.answer)]


def _limit(max_length: int | None, tokenizer: Path | None) -> LengthLimit | None:
    if tokenizer is None:
        return None if max_length is None else LengthLimit(max_length)
    if max_length is None:
        raise ConfigError("--tokenizer measures lengths here: give --max-length, too, or leave it out.")
    return LengthLimit.in_tokens(max_length, Tokenizer.load(tokenizer))


def _finish(result: ImportResult, conversations: Sequence[Conversation], out: Path) -> None:
    _write(conversations, out)
    echo(", ".join(f"{name} {count}" for name, count in result.counts.items()) + ".")
    _show_refused(result.refused)


def _write(conversations: Sequence[Conversation], out: Path) -> None:
    echo(f"Wrote {write_conversations(out, conversations)} conversations to {out}.")


def _show_refused(refused: Sequence[RefusedRow]) -> None:
    for row in refused:
        echo(f"refused: {row}", err=True)


def _show_stats(stats: DataStats, unit: str, name: str) -> None:
    table = Table("what", "value", title=Text(f"Conversations of {name}"), title_justify="left")
    facts = stats.facts / stats.conversations
    table.add_row("conversations", f"{stats.conversations}")
    table.add_row("turns", f"{stats.turns}")
    table.add_row("steps", _histogram(stats.steps))
    table.add_row("facts told per conversation", f"{facts:.1f}")
    table.add_row("asking turns", f"{stats.asks} ({stats.asks / stats.turns:.0%}), {stats.unknown} of them for what was never told")
    table.add_row("distances (reference answers)", _histogram({at: n for at, n in stats.distances.items() if at is not None}))
    if (far := stats.share_beyond(9)) is not None:
        table.add_row("distance 9 and more", f"{far:.0%}")
    if stats.chance is not None:
        worst = max(stats.chance_by_kind, key=lambda kind: stats.chance_by_kind[kind])
        table.add_row("chance", f"{stats.chance:.3f}; highest for {worst}: {stats.chance_by_kind[worst]:.3f}")
    table.add_row(
        f"{unit} per interaction", f"median {stats.length_at(0.5)}, 95 % up to {stats.length_at(0.95)}, longest {stats.lengths[-1]}"
    )
    table.add_row("kinds", ", ".join(f"{kind} {count}" for kind, count in stats.kinds.most_common()))
    plain_console().print(table)


def _histogram(counts: Mapping[int, int]) -> str:
    total = max(1, sum(counts.values()))
    return ", ".join(f"{value}: {count} ({count / total:.0%})" for value, count in sorted(counts.items())) or "none"
