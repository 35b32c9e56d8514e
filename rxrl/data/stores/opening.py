"""Data by name as token stores: those that are there, and large sources, which are tokenized once into a cache."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rxrl.data.corpora import Corpus, Row, Split, open_corpus
from rxrl.data.rows import to_conversation
from rxrl.data.stores.building import FIRST_ROWS, Progress, build, fingerprint, kind_of
from rxrl.data.stores.conversations import ConversationStore
from rxrl.data.stores.manifest import is_store, read_manifest
from rxrl.data.stores.options import Options
from rxrl.data.stores.parts import shared_keys
from rxrl.data.stores.sections import Refusals, rows_of, sections_of
from rxrl.data.stores.texts import TextStore
from rxrl.data.tokenizer import TOKENIZER_FILE, Tokenizer
from rxrl.errors import DataError
from rxrl.locks import FileLock
from rxrl.template import segments, texts_of
from rxrl.types import Interaction
from rxrl.writing import failures_told

LARGE = 16 << 20
"""Bytes of a source from which on it is tokenized into a store, not at every start."""
CACHE_VARIABLE = "RXRL_CACHE"
SAMPLE = 8 << 20
"""Characters that a tokenizer is trained on."""
_SHARDS = 64
"""Most shards that a sample is taken from."""
Store = TextStore | ConversationStore


def cache_folder() -> Path:
    """Where stores are kept that nobody has asked for: `$RXRL_CACHE`, else `rxrl` in the user's folder of caches."""
    own, shared = os.environ.get(CACHE_VARIABLE), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else (Path(shared) if shared else Path.home() / ".cache") / "rxrl"


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who is told what happens while a source is tokenized.

    Attributes:
        say: Is told sentences.
        progress: Is told bytes read, and bytes in all.
    """

    say: Callable[[str], None] = lambda text: None
    progress: Progress = lambda done, total: None


def needs_store(name: str) -> bool:
    """Whether data by name is a token store, or so large that it should become one."""
    if is_store(name):
        return True
    corpus = open_corpus(name)
    return corpus.choose("train", lambda text: None).size >= LARGE


def open_store(folder: str | Path) -> Store:
    """The store in a folder, of whichever kind.

    Raises:
        DataError: It is no store, or is damaged.
    """
    return TextStore(folder) if read_manifest(Path(folder)).kind == "texts" else ConversationStore(folder)


def stores_of(data: str, held_out: str | None, tokenizer: Tokenizer, options: Options, reporter: Reporter) -> tuple[Store, Store | None]:
    """What is trained on, and what validates it, as stores; sources are tokenized where no store of them is in the cache.

    Args:
        data: A store, or the name of a source.
        held_out: The same; None: the split `validation` of the source, where it has one.
        tokenizer: That of the model.
        options: How sources are tokenized.
        reporter: Is told what happens.

    Raises:
        DataError: A source cannot be read, a store comes from another tokenizer, the two hold different things, or share something.
    """
    corpus = None if is_store(data) else open_corpus(data)
    train = _opened(data, corpus, tokenizer, options, reporter)
    other: Store | None = None
    if held_out is not None:
        other = _opened(held_out, None if is_store(held_out) else open_corpus(held_out), tokenizer, options, reporter, validates=True)
    elif corpus is not None and (split := corpus.other("validation")) is not None:
        other = open_store(cached(split, tokenizer, options, reporter))
    if other is not None:
        check_stores_apart(train, other)
    return train, other


def check_stores_apart(train: Store, held_out: Store) -> None:
    """Refuses held-out data of another kind, or that is trained on."""
    one, two = train.manifest, held_out.manifest
    if one.kind != two.kind:
        raise DataError(f"{one.source} holds {one.kind}, but {two.source} holds {two.kind}: give data of one kind.")
    keys = [store.keys.reshape(store.manifest.items, -1) for store in (train, held_out)]
    # Of conversations: what they say, and how they begin together with their id.
    shared = max(shared_keys(keys[0][:, column], keys[1][:, column]) for column in range(keys[0].shape[1]))
    if shared:
        raise DataError(f"{shared} {one.kind} are in both {one.source} and {two.source}: part them.")


def cached(split: Split, tokenizer: Tokenizer, options: Options, reporter: Reporter) -> Path:
    """The store of a source in the cache; it is made where it is not there, by one process while others wait.

    Raises:
        DataError: The source cannot be read.
        WriteError: The cache cannot be written.
    """
    name = re.sub(r"[^\w.-]+", "-", Path(split.name).name)[:40]
    folder = cache_folder() / f"{name}-{fingerprint(split, tokenizer.hash, options)[:16]}"
    if not is_store(folder):
        with failures_told(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.parent / f".{folder.name}.lock"):
            if not is_store(folder):
                reporter.say(f"Tokenizing {split.name} once, into {folder}.")
                found = build(split, folder, tokenizer, options, reporter.say, reporter.progress)
                skipped = f"; skipped {found.left_out}" if found.skipped_count else ""
                reporter.say(f"Tokenized {found.items:,} {found.kind} into {found.tokens:,} tokens{skipped}.")
                return folder
    reporter.say(f"{split.name} is tokenized already, in {folder}.")
    return folder


def sampled_tokenizer(data: str, size: int, options: Options, reporter: Reporter) -> Tokenizer:
    """A tokenizer of up to `size` tokens, trained on a sample of a source, or the one in the cache that was.

    Raises:
        DataError: The source cannot be read.
    """
    split = open_corpus(data).choose("train", lambda text: None)
    folder = cache_folder() / "tokenizers" / fingerprint(split, f"{size} of {SAMPLE}", options)[:16]
    if (folder / TOKENIZER_FILE).is_file():
        return Tokenizer.load(folder)
    reporter.say(f"Training a tokenizer on a sample of {data}.")
    trained = Tokenizer.train(sample_texts(split, options), size, template=_needs_markers(split, options))
    trained.save(folder)
    return trained


def sample_texts(split: Split, options: Options) -> list[str]:
    """Texts from all parts of a source, to train a tokenizer on: from up to 64 of its shards, an equal share from the beginning of each.

    Raises:
        DataError: It cannot be read.
    """
    kind, refusals = kind_of(split, options.column), Refusals(skip=True, say=lambda text: None)
    count = min(_SHARDS, len(split.shards))
    texts: list[str] = []
    for shard in (split.shards[len(split.shards) * number // count] for number in range(count)):
        rest = SAMPLE // count
        if kind == "texts":
            found = (" ".join(section.text.split()) for section in sections_of(shard, options.column, refusals))
        else:
            found = (text for row in rows_of(shard, refusals) for each in _told(row) for text in texts_of(each))
        for text in found:
            texts.append(text)
            rest -= len(text)
            if rest <= 0:
                break
    return texts


def _needs_markers(split: Split, options: Options) -> bool:
    """Whether conversations have parts of the interaction template, judged by the first rows of the first shard."""
    if kind_of(split, options.column) == "texts":
        return False
    rows = islice(rows_of(split.shards[0], Refusals(skip=True, say=lambda text: None)), FIRST_ROWS)
    return any(segments(each) for row in rows for each in _told(row))


def _told(row: Row) -> tuple[Interaction, ...]:
    """What a conversation says; nothing where the row is wrong."""
    try:
        conversation = to_conversation(row.value(), row.default_id)
    except ValueError:
        return ()
    return conversation.interactions


def _opened(name: str, corpus: Corpus | None, tokenizer: Tokenizer, options: Options, reporter: Reporter, validates: bool = False) -> Store:
    if corpus is None:
        found = open_store(name)
    else:
        found = open_store(cached(corpus.choose("validation" if validates else "train", reporter.say), tokenizer, options, reporter))
    found.files.check_tokenizer(tokenizer)
    return found


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until no other process holds the file."""
    lock = FileLock(path)
    with failures_told(path):
        while lock.take() is not None:
            time.sleep(0.2)
    try:
        yield
    finally:
        lock.give_back()
