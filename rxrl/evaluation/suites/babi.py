"""bAbI (Weston et al., 2015) told in interactions, and among the sentences of a book, as BABILong does (Kuratov et al., 2024)."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from rxrl.data.importers import import_babi
from rxrl.data.importers.babi import TOLD
from rxrl.data.importers.common import cut, one_line
from rxrl.data.rows import LengthLimit
from rxrl.errors import ConfigError, DataError
from rxrl.evaluation.suites.base import Group, Published, Setting, Suite
from rxrl.reading import read_text
from rxrl.seeding import derive_seed
from rxrl.types import Conversation, Interaction

WHERE = (
    "give the folder of the task files (qa1_single-supporting-fact_test.txt and the others), which "
    "https://research.facebook.com/downloads/babi has as tasks_1-20_v1-2.tar.gz."
)
TOGETHER = (10, 5, 3, 2, 1)
"""Statements that are told at once: the most that fit."""
WORDS_OF_TOKENS = 0.75
"""Words of a token, by which lengths are counted, so that every player gets the same text."""
_NAME = re.compile(r"qa(\d+)_(.+)_(train|valid|test)")


class Babi(Suite):
    """The 20 bAbI tasks: every question of an episode, facts told in interactions before it."""

    name = "babi"
    where = WHERE
    published: ClassVar = (
        Published(
            "EntNet, 10,000 training questions a task", "99.5 % mean accuracy", "Henaff et al., 2017, arXiv:1612.03969", False,
            "one model a task, trained on the task with answers from a list of words; it reads statements one by one",
        ),
        Published(
            "EntNet, 1,000 training questions a task", "89.1 % mean accuracy", "Henaff et al., 2017, arXiv:1612.03969", False,
            "as above",
        ),
    )  # fmt: skip

    def groups(self, setting: Setting) -> list[Group]:
        """One group a task."""
        files = task_files(self.source(setting))
        return [self._group(file, *parts, setting) for parts, file in sorted(files.items())]

    def _group(self, file: Path, task: int, title: str, setting: Setting) -> Group:
        for together in TOGETHER:
            try:
                found = import_babi(file, max_turns=None, statements_per_turn=together, limit=setting.limit, keep_valid=True)
            except DataError:
                continue
            # Fewer statements at once are tried before episodes are left out.
            if not found.refused or together == TOGETHER[-1]:
                left = f"; {len(found.refused)} episodes do not fit" if found.refused else ""
                note = f"{together} statement{'s' * (together > 1)} at once{left}"
                return Group(f"{task} {title}", tuple(found.conversations[: setting.count or self.count]), note=note)
        return Group(f"{task} {title}", (), note=f"no episode fits {setting.limit.longest} {setting.limit.unit}")


class BabiLong(Suite):
    """Facts of bAbI among the text of a book, told in interactions, one question at the end: 1,000 to 64,000 tokens."""

    name = "babi-long"
    where = WHERE + " Also name a book or any other plain text: --set text=FILE."
    count = 20
    options: ClassVar[Mapping[str, Any]] = {"text": "", "lengths": [1000, 4000, 16000, 64000], "tasks": [1]}
    published: ClassVar = (
        Published(
            "ARMT, 50 million tokens, task 1", "79.9 % accuracy", "Rodkin et al., 2024, arXiv:2407.04841", False,
            "trained on the task at shorter lengths; segments of 512 tokens with memory tokens between them, no interactions",
        ),
        Published(
            "retrieval from the text, any length, single facts", "about 60 % accuracy", "Kuratov et al., 2024, arXiv:2406.10149", False,
            "a language model with a search in the whole text",
        ),
    )  # fmt: skip

    def groups(self, setting: Setting) -> list[Group]:
        """One group for each task and length."""
        chosen = self.chosen(setting)
        if not chosen["text"]:
            raise DataError(f"The suite {self.name} needs a text for facts to hide in: --set text=FILE, any plain text such as a book.")
        if wrong := [each for name in ("lengths", "tasks") for each in chosen[name] if not isinstance(each, int) or each < 1]:
            raise ConfigError(f"lengths and tasks of the suite {self.name} are lists of whole numbers from 1, got {wrong[0]!r}.")
        files = {task: file for (task, _), file in task_files(self.source(setting)).items()}
        if missing := [task for task in chosen["tasks"] if task not in files]:
            raise DataError(f"{setting.data} holds no file of task {missing[0]}: {self.where}")
        book = one_line(read_text(chosen["text"]))
        if not book:
            raise DataError(f"{chosen['text']} holds no text: give another with --set text=FILE.")
        return [
            Group(f"task {task}, {length:,} tokens", tuple(self._hidden(files[task], book, length, setting)))
            for task in chosen["tasks"]
            for length in chosen["lengths"]
        ]

    def _hidden(self, file: Path, book: str, length: int, setting: Setting) -> Iterator[Conversation]:
        """Episodes of a task among the text."""
        told = import_babi(file, max_turns=None, statements_per_turn=1, limit=setting.limit, keep_valid=True).conversations
        words = round(length * WORDS_OF_TOKENS)
        for conversation in told[: setting.count or self.count]:
            rng = random.Random(derive_seed(setting.seed, self.name, conversation.id, length))
            yield hide(conversation, excerpt(book, words, rng), setting.limit, f"{conversation.id}-{length}", rng)


def hide(conversation: Conversation, text: str, limit: LengthLimit, name: str, rng: random.Random) -> Conversation:
    """The statements of a conversation among the sentences of a text, then its last question that leaves room for the text.

    Args:
        conversation: Tells one statement at a time.
        text: What it is hidden in.
        limit: Longest interaction.
        name: Id of the result.
        rng: Draws the places; the order of the statements stays.
    """
    reply = limit.measure(TOLD)
    interactions = conversation.interactions
    longest = max(limit.measure(each.query) for each in interactions)
    pieces = cut(text, max(limit.longest - longest - reply, 1), limit.measure)
    questions = [place for place, each in enumerate(interactions) if each.asks]
    told = {place: [each for each in interactions[:place] if not each.asks] for place in questions}
    asked = next((place for place in reversed(questions) if len(told[place]) <= len(pieces)), questions[0])
    facts = told[asked]
    while len(pieces) < len(facts):
        pieces.append("")
    places = dict(zip(sorted(rng.sample(range(len(pieces)), len(facts))), facts, strict=True))
    shown = [_piece(piece, places.get(place)) for place, piece in enumerate(pieces)]
    question = replace(interactions[asked], kind="ask")
    return Conversation(name, shown[0], (*shown[1:], question), dict(conversation.extra))


def _piece(text: str, fact: Interaction | None) -> Interaction:
    if fact is None:
        return Interaction(text, TOLD, asks=(), kind="text")
    return replace(fact, query=f"{text} {fact.query}".strip(), kind="fact")


def excerpt(book: str, words: int, rng: random.Random) -> str:
    """So many words of a book from a place that is drawn; a short book is read again and again."""
    every = book.split()
    start = rng.randrange(len(every))
    return " ".join(every[(start + number) % len(every)] for number in range(words))


def task_files(folder: Path) -> dict[tuple[int, str], Path]:
    """Files of bAbI by number and title of the task: those of the test part, or of another part where there is none.

    Raises:
        DataError: There are none.
    """
    files = [folder] if folder.is_file() else sorted(folder.glob("qa*_*.txt"))
    found: dict[str, dict[tuple[int, str], Path]] = {"test": {}, "valid": {}, "train": {}}
    for file in files:
        if match := _NAME.fullmatch(file.stem):
            found[match[3]][int(match[1]), match[2].replace("-", " ")] = file
    chosen: Sequence[dict[tuple[int, str], Path]] = [each for each in found.values() if each]
    if not chosen:
        raise DataError(f"{folder} holds no bAbI files: {WHERE}")
    return chosen[0]
