"""Where the conversations and texts of a command come from: the generated world, or files, each in parts that share nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from rxrl.config import BaseConfig, WrongValueError
from rxrl.data.corpora import Say, Split, open_corpus
from rxrl.data.importers.common import one_line
from rxrl.data.importers.text import texts_of
from rxrl.data.mixing import MixedSource, Shares, mix_of, mixed_lists
from rxrl.data.origins import Origin
from rxrl.data.rows import LengthLimit, conversations_of
from rxrl.data.sources import ConversationSource, EpisodeSource, RowsSource, said, told_together
from rxrl.data.stores import (
    ConversationStore,
    MixedTexts,
    PackedRows,
    Store,
    TextStore,
    check_stores_apart,
    is_store,
    open_store,
    read_manifest,
)
from rxrl.data.world import GeneratedSource, level_or_default
from rxrl.errors import ConfigError, DataError
from rxrl.types import Conversation, Scenario

SCENARIO = "scenario:"
"""Begins the name of a scenario where conversations are named."""
WORLD = "world"
"""Name of the generated world where it is mixed with other data."""
DEFAULT_STEPS = 16
IN_LETTERS = LengthLimit(300, len, "letters")
"""How long texts are while there is no tokenizer to measure with; not in words, which some languages do not part."""


class DataConfig(BaseConfig):
    """Where conversations come from: the generated world, scenarios, files, or a mix of them."""

    level: int | None = Field(
        None, ge=0, le=3, description="Difficulty of the generated world, from 0, and of scenarios, from 1; null: the lowest."
    )
    train: str | dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        None,
        description="What to train on: a file of conversations, `scenario:NAME` or `world`; or a mix, a weight for each of them; "
        "null: the generated world.",
    )
    held_out: str | tuple[str, ...] | None = Field(
        None,
        description="File of held-out conversations; needed with a file to train on; one for each where there are several.",
    )
    steps: int | None = Field(
        None, ge=1, le=64, description="Turns of the test conversations of the generated world (null: 16) and of scenarios (null: 12)."
    )
    test_conversations: int = Field(200, ge=1, description="Held-out conversations of the final evaluation.")

    @model_validator(mode="after")
    def _files_are_as_they_are(self) -> DataConfig:
        try:
            mix = self.mix
        except ConfigError as error:
            raise WrongValueError(str(error).rstrip("."), "train") from None
        try:
            files = paired(mix, self.held_out or ())
        except ConfigError as error:
            raise WrongValueError(str(error).rstrip("."), "held_out") from None
        for name in ("level", "steps"):
            if len(files) == len(mix) and getattr(self, name) is not None:
                raise WrongValueError("it is of the generated world and of scenarios: leave it out with conversations from a file", name)
        return self

    @property
    def mix(self) -> dict[str, float]:
        """What is mixed, with weights; most often one name."""
        return mix_of(WORLD if self.train is None else self.train)

    @property
    def told(self) -> bool:
        """Whether conversations are among what is played."""
        return not all(name.startswith(SCENARIO) for name in self.mix)

    @property
    def reacts(self) -> bool:
        """Whether a scenario is among what is played."""
        return any(name.startswith(SCENARIO) for name in self.mix)


@dataclass(frozen=True, slots=True)
class Sources:
    """The three splits.

    Attributes:
        train: Conversations for the supervised stages.
        validation: The same, to validate on.
        test: What the final evaluation plays.
        stories: Plain texts of a split, for pre-training.
        longer: Test conversations of any length, where they are made as they are needed.
        scenarios: What MRL plays and is evaluated on, where that is not `train` and `validation`.
        packed: Texts of a split as packed rows of a length, in place of `stories`, where they come from token stores.
        origins: Where all this comes from.
    """

    train: ConversationSource
    validation: ConversationSource
    test: Sequence[Scenario]
    stories: Callable[[str], Callable[[int, int], Sequence[str]]]
    longer: ConversationSource | None = None
    scenarios: tuple[EpisodeSource, EpisodeSource] | None = None
    packed: Callable[[str, int], PackedRows] | None = None
    origins: tuple[Origin, ...] = ()

    @property
    def played(self) -> tuple[EpisodeSource, EpisodeSource]:
        """What MRL plays, and what it is evaluated on while it trains."""
        return self.scenarios or (self.train, self.validation)


def open_sources(data: DataConfig, seed: int, say: Say | None = None) -> Sources:
    """The generated world, or the conversations of a file.

    Args:
        data: Where they come from; no mix, so one name is held out at most. Without, the splits `test` (else `validation`) of the data set
            are the test.
        seed: Key of the draws.
        say: Is told which splits were taken, where there were several.

    Raises:
        DataError: A file is missing or wrong, or nothing is held out.
    """
    (name,) = data.mix
    if name == WORLD:
        level = level_or_default(data.level)
        worlds = {split: GeneratedSource(level=level, seed=seed, split=split) for split in ("train", "validation", "test")}
        test = worlds["test"].take(steps=data.steps or DEFAULT_STEPS, strategy="multi-step", start=0, count=data.test_conversations)

        def world_stories(split: str) -> Callable[[int, int], Sequence[str]]:
            return lambda start, count: worlds["train"].stories(split, start, count)

        made = (Origin.of_generated(WORLD, level=level, split=split, seed=seed, source=source) for split, source in worlds.items())
        return Sources(worlds["train"], worlds["validation"], test, world_stories, worlds["test"], origins=tuple(made))
    corpus = open_corpus(name)
    split = corpus.choose("train", say)
    given = paired(data.mix, data.held_out or ())[name]
    tested = corpus.other("test", "validation") if given is None else open_corpus(given).choose("test", say)
    if tested is None:
        raise DataError("Training data from a file needs held-out conversations too: give them with --held-out FILE.")
    train, held_out = conversations_of(split), conversations_of(tested)
    check_apart(train, held_out, split.name, tested.name)
    validation = corpus.other("validation")
    origins = file_origins(training=split, test=tested)
    if validation is not None and validation.name != tested.name:
        validated = conversations_of(validation)
        check_apart(train, validated, split.name, validation.name)
        origins += file_origins(validation=validation)
    else:
        share = validation_share(train, split.name)
        validated, train = train[:share], train[share:]
    return replace(rows_sources(train, validated, held_out[: data.test_conversations], seed), origins=origins)


def file_origins(**splits: Split | None) -> tuple[Origin, ...]:
    """Where files come from that are used for something."""
    return tuple(Origin.of_split(use, split) for use, split in splits.items() if split is not None)


def generated(name: str) -> bool:
    """Whether a name of data stands for what is made as it is needed, not for a file."""
    return name == WORLD or name.startswith(SCENARIO)


def paired(mix: Iterable[str], held_out: str | Sequence[str]) -> dict[str, str | None]:
    """The files among data by name, each with what is held out of it.

    Args:
        mix: Names.
        held_out: As many as there are files, in their order; or none: then a file holds out a part of itself.

    Raises:
        ConfigError: There are more or fewer.
    """
    held_out = (held_out,) if isinstance(held_out, str) else held_out
    files = [name for name in mix if not generated(name)]
    if held_out and len(held_out) != len(files):
        raise ConfigError(
            f"Give --held-out once for each file of --data, in the same order: got {len(held_out)} for {len(files)}. "
            "The generated world and scenarios have held-out data of their own."
        )
    names: Sequence[str | None] = held_out or [None] * len(files)
    return dict(zip(files, names, strict=True))


def check_apart(train: Sequence[Conversation], held_out: Sequence[Conversation], train_name: str, held_out_name: str) -> None:
    """Refuses held-out conversations that are trained on: those that say what one says, or begin as it does under its id."""
    # The id is not enough: rows without one are called by file and number.
    begun = {(conversation.id, *said(conversation)[:1]) for conversation in train}
    known = {said(conversation) for conversation in train}
    shared = {each.id for each in held_out if said(each) in known or (each.id, *said(each)[:1]) in begun}
    if shared:
        raise DataError(f"{len(shared)} conversations are in both {train_name} and {held_out_name} (first: {min(shared)!r}): part them.")


def validation_share(train: Sequence[Conversation], name: str) -> int:
    """How many of the first conversations validate: a twentieth, at least one."""
    if len(train) < 2:
        raise DataError(f"{name} holds {len(train)} conversation: give at least two, one to train on and one to validate.")
    return max(1, len(train) // 20)


def rows_sources(train: Sequence[Conversation], validation: Sequence[Conversation], test: list[Conversation], seed: int) -> Sources:
    """Splits of conversations that are already there; what they say serves as texts for pre-training."""
    stories = {"train": cycled(interaction_texts(train)), "validation": cycled(interaction_texts(validation))}
    return Sources(RowsSource(train, seed), RowsSource(validation, seed), test, stories.__getitem__)


def stored_sources(train: Store, held_out: Store | None, seed: int, *, texts: bool = False) -> Sources:
    """Splits of token stores.

    Args:
        train: What is trained on.
        held_out: What validates it; None: a twentieth of the documents or conversations of `train`, drawn at random.
        seed: Key of the order.
        texts: Whether plain texts serve, too.

    Raises:
        DataError: There are too few documents or conversations, or texts where conversations are needed.
    """
    if isinstance(train, TextStore):
        if not texts:
            raise DataError(f"{train.manifest.source} holds texts, but conversations are needed: texts are for `rxrl stage pretrain`.")
        own = train

        def packed(split: str, length: int) -> PackedRows:
            if isinstance(held_out, TextStore):
                return (own if split == "train" else held_out).packed(length, seed)
            return own.packed(length, seed, "train" if split == "train" else "validation")

        return replace(rows_sources([], [], [], seed), packed=packed)
    if isinstance(held_out, ConversationStore):
        parts = {"train": train.source(seed), "validation": held_out.source(seed)}
    else:
        parts = {"train": train.source(seed, "train"), "validation": train.source(seed, "validation")}
    return Sources(parts["train"], parts["validation"], [], lambda split: parts[split].texts)


def cycled(texts: Sequence[str]) -> Callable[[int, int], Sequence[str]]:
    """`(start, count)` to that many of the endlessly repeated texts."""
    return lambda start, count: [texts[index % len(texts)] for index in range(start, start + count)]


def interaction_texts(conversations: Sequence[Conversation]) -> list[str]:
    """Each interaction together with the one before it: recalling a fact within one text is what memory builds on.

    Where two are longer than the model, the end of the second is left out; the next text begins with it.
    """
    return [told_together(before, after) for each in conversations for before, after in pairwise(each.interactions)]


def mixed_sources(parts: Sequence[tuple[Sources, float]], test: int) -> Sources:
    """Splits that mix those of several sources.

    Args:
        parts: Splits with their weights.
        test: Test scenarios in all; fewer where a part has fewer than its share.

    Raises:
        DataError: Some hold texts and others conversations.
    """
    texts = [(sources.packed, weight) for sources, weight in parts if sources.packed is not None]
    if texts and len(texts) < len(parts):
        raise DataError("Texts are mixed with texts alone: `rxrl data generate --stories` writes those of the generated world.")
    shares = Shares([weight for _, weight in parts])

    def stories(split: str) -> Callable[[int, int], Sequence[str]]:
        takes = [sources.stories(split) for sources, _ in parts]
        return lambda start, count: shares.gather(start, count, takes)

    return Sources(
        MixedSource([(sources.train, weight) for sources, weight in parts]),
        MixedSource([(sources.validation, weight) for sources, weight in parts]),
        mixed_lists([(sources.test, weight) for sources, weight in parts], test),
        stories,
        next((sources.longer for sources, _ in parts if sources.longer is not None), None),
        (
            MixedSource([(sources.played[0], weight) for sources, weight in parts]),
            MixedSource([(sources.played[1], weight) for sources, weight in parts]),
        ),
        packed=(lambda split, length: MixedTexts([(each(split, length), weight) for each, weight in texts])) if texts else None,
        origins=tuple(each for sources, _ in parts for each in sources.origins),
    )


def refuse_level(level: int | None) -> None:
    """Refuses a level where other data than the generated world is named.

    Raises:
        ConfigError: One was given.
    """
    if level is not None:
        raise ConfigError("--level is for the generated world: give either --level or --data.")


def open_data(data: str | None, held_out: str | None, level: int | None, seed: int, say: Say | None = None) -> Sources:
    """What a stage or a training learns from and is validated on.

    Args:
        data: File or name of conversations; None: the generated world.
        held_out: What to validate on; None: the split `validation` of `data`, else its first twentieth.
        level: Difficulty of the generated world.
        seed: Key of the draws.
        say: Is told which splits were taken, where there were several.

    Raises:
        RxrlError: A file is missing or wrong, or the options contradict each other.
    """
    if data is None:
        if held_out is not None:
            raise ConfigError("--held-out goes with --data: the generated world has held-out conversations of its own.")
        return open_sources(DataConfig(level=level_or_default(level), test_conversations=1), seed)
    refuse_level(level)
    if is_store(data):
        return _opened_stores(data, held_out, seed)
    split, other = _training_splits(data, held_out, say)
    train = conversations_of(split)
    if other is not None:
        validation = conversations_of(other)
        check_apart(train, validation, split.name, other.name)
    else:
        share = validation_share(train, split.name)
        validation, train = train[:share], train[share:]
    return replace(rows_sources(train, validation, [], seed), origins=file_origins(training=split, validation=other))


def _opened_stores(data: str, held_out: str | None, seed: int) -> Sources:
    train = open_store(data)
    other = None if held_out is None else open_store(held_out)
    if other is not None:
        check_stores_apart(train, other)
    given = [("training", data, train), *([("validation", str(held_out), other)] if other is not None else [])]
    origins = tuple(Origin(use, name, store.manifest.content, "the content of the token store") for use, name, store in given)
    return replace(stored_sources(train, other, seed), origins=origins)


def _training_splits(data: str, held_out: str | None, say: Say | None) -> tuple[Split, Split | None]:
    """What is trained on and what validates it, where there is such a split."""
    corpus = open_corpus(data)
    other = corpus.other("validation") if held_out is None else open_corpus(held_out).choose("validation", say)
    return corpus.choose("train", say), other


def of_texts(name: str) -> bool:
    """Whether a file, a folder, a data set or a token store holds plain texts, not conversations."""
    return read_manifest(Path(name)).kind == "texts" if is_store(name) else open_corpus(name).choose("train").holds_texts()


def open_texts(data: str, held_out: str | None, seed: int, limit: LengthLimit = IN_LETTERS) -> Sources:
    """Plain texts, cut to the limit: there are no conversations, only stories.

    Args:
        data: Text file, rows of texts, or a folder or data set of them.
        held_out: The same, to validate on; None: the split `validation` of `data`, else the first twentieth of its texts.
        seed: Key of the draws.
        limit: Longest text; that of the model, once it is there, so that nothing is lost.

    Raises:
        DataError: A file is missing or wrong, holds too few texts, or holds what the other holds.
    """
    return _texts_sources(*_training_splits(data, held_out, None), seed, limit)


def _texts_sources(split: Split, other: Split | None, seed: int, limit: LengthLimit) -> Sources:
    train = texts_of(split, limit)
    if other is None:
        if len(train) < 2:
            raise DataError(f"{split.name} holds {len(train)} text: give at least two, one to train on and one to validate.")
        share = max(1, len(train) // 20)
        parts = {"train": train[share:], "validation": train[:share]}
    else:
        check_texts_apart(split, other)
        parts = {"train": train, "validation": texts_of(other, limit)}
    empty = rows_sources([], [], [], seed)
    return replace(empty, stories={name: cycled(part) for name, part in parts.items()}.__getitem__)


def check_texts_apart(train: Split, held_out: Split) -> None:
    """Refuses held-out documents that are trained on; pieces of them may be alike, a story ends as others do."""
    known = {one_line(document) for document in train.documents()}
    shared = [text for document in held_out.documents() if (text := one_line(document)) and text in known]
    if shared:
        first = shared[0] if len(shared[0]) <= 60 else f"{shared[0][:57]}..."
        raise DataError(f"{len(shared)} texts are in both {train.name} and {held_out.name} (first: {first!r}): part them.")
