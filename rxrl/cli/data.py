"""`rxrl data`: generate and inspect conversations; train a tokenizer on them. Imports are a module of their own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from rxrl.cli.bar import ByteBar
from rxrl.cli.console import echo, plain_console
from rxrl.cli.importing import KeepValid, Out, Seed, Source, Split, TokenizerFolder, imports, show_refused
from rxrl.cli.output import writable_folder
from rxrl.data.corpora import open_corpus
from rxrl.data.importers.text import texts_of, write_texts
from rxrl.data.pairs import told_and_asked
from rxrl.data.rows import LengthLimit, RefusedRow, conversations_of, write_conversations
from rxrl.data.stats import DataStats, data_stats
from rxrl.data.stores import Manifest, Options, build
from rxrl.data.stores.manifest import MANIFEST
from rxrl.data.tokenizer import Tokenizer
from rxrl.data.world import DEFAULT_LEVEL, GeneratedSource
from rxrl.errors import DataError
from rxrl.runs.folder import RunFolder
from rxrl.template import texts_of as said_in
from rxrl.types import Strategy

app = typer.Typer(help="Generate, import and inspect conversations.", no_args_is_help=True, add_completion=False, rich_markup_mode=None)
app.add_typer(imports, name="import")


@app.command()
def generate(
    out: Out,
    count: Annotated[int, typer.Option(min=1, help="Number of conversations, or of stories.")] = 1000,
    level: Annotated[
        int,
        typer.Option(
            min=0,
            max=3,
            help="Difficulty: 0 tells each attribute of one person, 1 of several, 2 is about everything, 3 adds stories and aliases.",
        ),
    ] = DEFAULT_LEVEL,
    steps: Annotated[int, typer.Option(min=1, help="Turns of each conversation.")] = 16,
    strategy: Annotated[Strategy, typer.Option(help="Structure of the conversations.")] = "multi-step",
    split: Annotated[Split, typer.Option(help="Splits share no conversation; test has combinations that train has not.")] = Split.train,
    start: Annotated[int, typer.Option(min=0, help="Index of the first conversation in the endless sequence.")] = 0,
    seed: Seed = 0,
    stories: Annotated[bool, typer.Option("--stories", help="Write plain stories for pre-training, not conversations.")] = False,
) -> None:
    """Generate conversations.

    The same options always give the same file.
    """
    world = GeneratedSource(level=level, seed=seed, split=split.value)
    if stories:
        written, what = write_texts(out, world.stories(split.value, start, count)), "stories"
    else:
        conversations = world.take(steps=steps, strategy=strategy, start=start, count=count)
        written, what = write_conversations(out, conversations), "conversations"
    echo(f"Wrote {written} {what} to {out}.")


@app.command()
def stats(
    source: Source,
    tokenizer: TokenizerFolder = None,
    subset: Annotated[str | None, typer.Option(help="Configuration of a data set on the Hub.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set.")] = None,
    keep_valid: KeepValid = False,
) -> None:
    """Describe conversations: turns, asks, distances, chance, lengths."""
    refused: list[RefusedRow] = []
    corpus = open_corpus(source, subset=subset, split=split)
    codec = None if tokenizer is None else Tokenizer.load(tokenizer)
    for part in corpus.splits.values() if corpus.asked is None else [corpus.choose("any")]:
        conversations = conversations_of(part, keep_valid=keep_valid, refused=refused)
        if codec is None:
            _show_stats(data_stats(conversations), "words", part.name)
        else:
            _show_stats(data_stats(conversations, lambda text: len(codec.encode(text))), "tokens", part.name)
    show_refused(refused)


@app.command()
def pairs(source: Source, out: Out, keep_valid: KeepValid = False) -> None:
    """Write each question with the interaction that told its answer, for the stage reading.

    Conversations of one turn. Questions for what was never told, or was told in several interactions, are left out.
    """
    refused: list[RefusedRow] = []
    conversations = conversations_of(open_corpus(source).choose("any"), keep_valid=keep_valid, refused=refused)
    made = list(told_and_asked(conversations))
    show_refused(refused)
    if not made:
        raise DataError(f"{source} holds no question whose answer an earlier interaction tells.")
    echo(f"Wrote {write_conversations(out, made)} conversations of one turn to {out}, from {len(conversations)} conversations.")


@app.command("tokenizer")
def train_tokenizer(
    sources: Annotated[
        list[str], typer.Argument(help="Files or data sets of conversations or texts. Only the split train is used if there are several.")
    ],
    out: Annotated[Path, typer.Option(callback=writable_folder, help="Folder for the tokenizer.")],
    vocab_size: Annotated[int, typer.Option(min=263, help="Maximum number of tokens, including special tokens and bytes.")] = 512,
    template: Annotated[
        bool, typer.Option("--template", help="Add markers for instructions, thoughts, tool calls and tool results.")
    ] = False,
) -> None:
    """Train a byte-level BPE tokenizer on conversations and texts."""
    with RunFolder(out).claimed():
        trained = Tokenizer.train([text for source in sources for text in _texts_of(source)], vocab_size, template=template)
        trained.save(out)
    echo(f"Wrote a tokenizer of {trained.vocab_size} tokens to {out} (hash {trained.hash[:12]}).")


@app.command()
def tokenize(
    source: Source,
    out: Annotated[Path, typer.Argument(callback=writable_folder, help="Folder of the token store.")],
    tokenizer: Annotated[Path, typer.Option(help="Folder of a tokenizer or a checkpoint, or a tokenizer.json.")],
    column: Annotated[str, typer.Option(help="Column of the text, in rows of texts.")] = "text",
    keep_whitespace: Annotated[
        bool, typer.Option("--keep-whitespace", help="Keep line ends and runs of spaces. Without it they become single spaces.")
    ] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip rows and files that cannot be read, and list them.")] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Read a data set of the Hub as it is used, without downloading it first.")
    ] = False,
    subset: Annotated[str | None, typer.Option(help="Configuration of a data set on the Hub.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set. Default: train.")] = None,
) -> None:
    """Tokenize texts or conversations once, for stages that train on them.

    Writes a token store, which `rxrl stage NAME --data` takes in place of the source. A store that is whole is left as it is.
    """
    chosen = open_corpus(source, subset=subset, split=split, stream=stream).choose("train", echo)
    options = Options(column=column, keep_whitespace=keep_whitespace, skip_bad=skip_bad)
    codec, started = Tokenizer.load(tokenizer), time.monotonic()
    with ByteBar("Tokenizing") as bar:
        found = build(chosen, out, codec, options, bar.say, bar)
    echo(described(found, out, time.monotonic() - started))


def described(store: Manifest, folder: Path, seconds: float) -> str:
    """One sentence about a store that has been written, or was there."""
    what = (
        "texts"
        if store.kind == "texts" and store.items == store.documents
        else "sections of texts"
        if store.kind == "texts"
        else "conversations"
    )
    skipped = f" Skipped {store.left_out}; {folder / MANIFEST} lists the first." if store.skipped_count else ""
    return f"{folder}: {store.items:,} {what} with {store.tokens:,} tokens, in {seconds:.1f} s.{skipped}"


def _texts_of(source: str) -> list[str]:
    """All text of what is trained on: rows of conversations, rows of texts, or plain text."""
    split = open_corpus(source).choose("train", echo)
    if split.holds_texts():
        return texts_of(split, LengthLimit(10_000))
    return [part for each in conversations_of(split) for turn in each.interactions for part in said_in(turn)]


def _show_stats(stats: DataStats, unit: str, name: str) -> None:
    table = Table("what", "value", title=Text(f"Conversations of {name}"), title_justify="left")
    facts = stats.facts / stats.conversations
    table.add_row("conversations", f"{stats.conversations}")
    table.add_row("turns", f"{stats.turns}")
    table.add_row("steps", _histogram(stats.steps))
    table.add_row("facts told per conversation", f"{facts:.1f}")
    table.add_row("asking turns", f"{stats.asks} ({stats.asks / stats.turns:.0%}), {stats.unknown} of them for what was never told")
    if stats.asks:
        table.add_row("asked with a rival told", f"{stats.rivalled / stats.asks:.0%}")
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
