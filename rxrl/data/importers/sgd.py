"""Schema-Guided Dialogue (Rastogi et al., 2020): task dialogues in which an assistant confirms what the user said some turns before.

What the user informs of is a fact; an answer that restates a fact of an earlier interaction asks for it. The annotations of the data
set say which words of a turn are values of which slot. One value is said in many ways ("6 pm", "18:00", "evening 6"): all that
the split has for it are right answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rxrl.data.corpora import split_of
from rxrl.data.importers.common import ImportResult, existing, one_line
from rxrl.data.rows import LengthLimit, RefusedRow
from rxrl.errors import DataError
from rxrl.facts import contains, holds, value_words
from rxrl.reading import json_value, read_json_rows
from rxrl.types import Conversation, Interaction
from rxrl.validation import first_refusal

FOLDERS = {"train": "train", "validation": "dev", "test": "test"}
"""Folder of each split."""
TELLS = frozenset({"INFORM", "SELECT"})
"""Acts by which a user says a value."""
RESTATES = {"CONFIRM": "confirm", "OFFER": "offer", "INFORM": "inform"}
"""Acts by which an assistant says a value, and what a turn that asks for it is called; the first one counts."""
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# Such a value never stands in the text: "with live music" is how a dialogue puts True.
_NO_WORDS = frozenset({"true", "false", "dontcare"})
_SERVICE_NUMBER = re.compile(r"_\d+$")


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Action(_Model):
    act: str
    slot: str = ""
    values: tuple[str, ...] = ()
    canonical_values: tuple[str, ...] = ()


class _Frame(_Model):
    service: str
    actions: tuple[_Action, ...] = ()


class _Turn(_Model):
    speaker: Literal["USER", "SYSTEM"]
    utterance: str
    frames: tuple[_Frame, ...] = ()


class _Dialogue(_Model):
    dialogue_id: str = Field(min_length=1)
    services: tuple[str, ...] = ()
    turns: tuple[_Turn, ...]


class _Mention(NamedTuple):
    """A value of a slot in one turn: as it was said, and in the one form that the data set has for it."""

    act: str
    key: str
    said: str
    meant: str

    @property
    def value(self) -> tuple[str, str]:
        """What two mentions of the same value share, whatever the service."""
        return self.key.rpartition(".")[2], self.meant


class _Pair(NamedTuple):
    """What the user says, what the assistant answers, and the values in both."""

    query: str
    answer: str
    told: tuple[_Mention, ...]
    restated: tuple[_Mention, ...]


@dataclass(slots=True)
class _Import:
    split: str
    limit: LengthLimit | None
    counts: Counter[str] = field(default_factory=Counter)
    refused: list[RefusedRow] = field(default_factory=list)
    forms: dict[tuple[str, str], dict[str, None]] = field(default_factory=dict)


def import_sgd(folder: str | Path, *, split: str | None = None, limit: LengthLimit | None = None, keep_valid: bool = False) -> ImportResult:
    """Reads one split; a dialogue becomes a conversation, a user's turn and its answer an interaction.

    Args:
        folder: The data set, or the folder of one split.
        split: `train`, `validation` or `test`; None takes the one that `folder` is, and `train` of a whole data set.
        limit: Longest interaction; dialogues with a longer one do not fit.
        keep_valid: Keep the rest where rows do not fit.

    Returns:
        Conversations, and counts of dialogues, turns, facts, asks (turns) and asked facts, and of restated values that ask for nothing.

    Raises:
        DataError: The folder is not there or is another split, or a dialogue does not fit and the rest is not wanted.
    """
    chosen, files = _files(existing(folder, "folder of Schema-Guided Dialogue"), split)
    work = _Import(chosen, limit)
    dialogues = [(file, row, dialogue, list(_pairs(dialogue))) for file in files for row, dialogue in _dialogues(file, work)]
    for *_, pairs in dialogues:
        for mention in (each for pair in pairs for each in (*pair.told, *pair.restated)):
            work.forms.setdefault(mention.value, {})[mention.said] = None
    conversations = []
    for file, row, dialogue, pairs in dialogues:
        work.counts["dialogues"] += 1
        try:
            conversations.append(_conversation(dialogue, pairs, work))
        except ValueError as error:
            work.refused.append(RefusedRow(str(file), row, str(error)))
    work.counts["conversations"], work.counts["refused"] = len(conversations), len(work.refused)
    return ImportResult(conversations, dict(work.counts), tuple(work.refused)).checked(folder, keep_valid)


def _files(folder: Path, split: str | None) -> tuple[str, list[Path]]:
    """The split and its files: those of the folder itself, or of the folder of that split in it."""
    if split is not None and split not in FOLDERS:
        raise DataError(f"Schema-Guided Dialogue has the splits {', '.join(FOLDERS)}, but {split!r} was asked for.")
    if any(folder.glob("dialogues_*.json*")):
        found = split_of(Path(folder.resolve().name) / "dialogues.json")
        if split not in {None, found}:
            raise DataError(f"{folder} is the split {found!r}, but {split!r} was asked for: give the folder of the whole data set.")
        return found, sorted(folder.glob("dialogues_*.json*"))
    split = split or "train"
    files = sorted(existing(folder / FOLDERS[split], f"folder of the split {split!r}").glob("dialogues_*.json*"))
    if not files:
        raise DataError(f"{folder / FOLDERS[split]} holds no file dialogues_*.json: give the folder of Schema-Guided Dialogue.")
    return split, files


def _dialogues(file: Path, work: _Import) -> Iterator[tuple[int, _Dialogue]]:
    for number, content in read_json_rows(file):
        try:
            found = json_value(content) if isinstance(content, (str, bytes)) else content
            yield number, _Dialogue.model_validate(found)
        except ValidationError as error:
            work.refused.append(RefusedRow(str(file), number, first_refusal(error, _Dialogue, "the dialogue")))
        except ValueError as error:
            work.refused.append(RefusedRow(str(file), number, str(error)))


def _pairs(dialogue: _Dialogue) -> Iterator[_Pair]:
    """The user's turns with their answers; what does not alternate is refused by `_conversation`."""
    # Nobody names the service, so that as an entity it would hide that an answer exposes a fact; among several it keeps slots apart.
    several = len({frame.service for turn in dialogue.turns for frame in turn.frames}) > 1
    for user, assistant in zip(dialogue.turns[::2], dialogue.turns[1::2], strict=False):
        told, restated = (tuple(_mentions(turn, acts, several)) for turn, acts in ((user, TELLS), (assistant, RESTATES)))
        yield _Pair(one_line(user.utterance), one_line(assistant.utterance), told, restated)


def _mentions(turn: _Turn, acts: Iterable[str], several: bool) -> Iterator[_Mention]:
    for frame in turn.frames:
        entity = _SERVICE_NUMBER.sub("", frame.service).lower().replace(".", "-") + "." if several else ""
        for action in frame.actions:
            if action.act not in acts or not action.slot or len(action.values) != 1:
                continue
            said = one_line(action.values[0])
            meant = one_line(action.canonical_values[0]) if len(action.canonical_values) == 1 else said
            if value_words(said) and not {said.lower(), meant.lower()} & _NO_WORDS:
                yield _Mention(action.act, f"{entity}{action.slot.replace('.', '-')}", said, meant)


def _conversation(dialogue: _Dialogue, pairs: list[_Pair], work: _Import) -> Conversation:
    """The conversation of a dialogue.

    Raises:
        ValueError: It does not fit.
    """
    speakers = [turn.speaker for turn in dialogue.turns]
    if speakers != ["USER", "SYSTEM"] * (len(speakers) // 2):
        raise ValueError("user and system do not take turns, beginning with the user")
    if len(pairs) < 2:
        raise ValueError(f"it has {len(pairs)} question with an answer, but two are needed: what is told, and a turn that can recall it")
    if empty := [number for number, pair in enumerate(pairs) if not pair.query or not pair.answer]:
        raise ValueError(f"what is said in interaction {empty[0]} is empty")
    told: dict[str, _Mention] = {}
    counts: Counter[str] = Counter()
    interactions = []
    for pair in pairs:
        interactions.append(_interaction(pair, told, work.forms, counts))
        told.update({mention.key: mention for mention in pair.told})
    extra = {"services": list(dialogue.services)}
    built = Conversation(f"sgd-{work.split}-{dialogue.dialogue_id}", interactions[0], tuple(interactions[1:]), extra)
    if work.limit is not None and (reason := work.limit.complaint(built)):
        raise ValueError(reason)
    counts["turns"], counts["asks"] = built.steps, sum(bool(each.asks) for each in interactions)
    work.counts.update(counts)
    return built


def _interaction(
    pair: _Pair, told: Mapping[str, _Mention], forms: Mapping[tuple[str, str], Iterable[str]], counts: Counter[str]
) -> Interaction:
    """An interaction that tells what the user informs of, and asks for what the answer restates of what was `told` before."""
    facts = {mention.key: mention.said for mention in pair.told}
    asked: dict[str, tuple[str, ...]] = {}
    acts = set()
    for mention in pair.restated:
        before = told.get(mention.key)
        if before is None or mention.key in facts:
            continue
        spelt = _spellings(before, forms)
        if before.meant != mention.meant and value_words(mention.said) not in {value_words(each) for each in spelt}:
            counts["left out: another value than told"] += 1
        elif any(contains(pair.query, each) for each in spelt):
            counts["left out: value in the query"] += 1
        elif not any(holds(pair.answer, each) for each in spelt):
            counts["left out: value not in the answer"] += 1
        else:
            asked[mention.key] = tuple(each for each in spelt if each != before.said)
            acts.add(mention.act)
    counts["facts"] += len(facts)
    counts["asked facts"] += len(asked)
    kind = next((name for act, name in RESTATES.items() if act in acts), "tell" if facts else "other")
    aliases = {key: others for key, others in asked.items() if others}
    return Interaction(pair.query, pair.answer, tuple(facts.items()), tuple(asked), aliases, kind=kind)


def _spellings(mention: _Mention, forms: Mapping[tuple[str, str], Iterable[str]]) -> tuple[str, ...]:
    """All ways to say a value, the one that was told first; each once, whatever the case."""
    every = (mention.said, mention.meant, *forms[mention.value])
    numbers = (_NUMBERS[int(each)] for each in every if each.isdecimal() and int(each) < len(_NUMBERS))
    found: dict[tuple[str, ...], str] = {}
    for each in (*every, *numbers):
        found.setdefault(value_words(each), each)
    return tuple(found.values())
