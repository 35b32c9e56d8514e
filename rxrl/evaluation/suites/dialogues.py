"""Dialogues of people and assistants: Schema-Guided Dialogue (Rastogi et al., 2020) and LoCoMo (Maharana et al., 2024)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from rxrl.data.importers import import_sgd
from rxrl.data.importers.common import cut, one_line
from rxrl.data.rows import LengthLimit
from rxrl.errors import DataError
from rxrl.evaluation.suites.base import Group, Setting, Suite
from rxrl.facts import value_words
from rxrl.reading import Refusal, parse_json, read_text
from rxrl.types import Conversation, Interaction

TOLD = "Okay."
KINDS = {1: "several facts", 2: "time", 3: "world knowledge", 4: "one fact", 5: "never said"}
"""What the categories of questions in LoCoMo are about."""


class Sgd(Suite):
    """Schema-Guided Dialogue: an assistant restates what the user said some turns before."""

    name = "sgd"
    answer_tokens = 96
    unpublished = (
        "No published score is listed: others measure how well the state of a dialogue is tracked with the whole dialogue and its schema "
        "at hand, not whether an assistant restates it from memory."
    )
    where = (
        "give the folder of Schema-Guided Dialogue, with train, dev and test, from "
        "https://github.com/google-research-datasets/dstc8-schema-guided-dialogue."
    )

    def groups(self, setting: Setting) -> list[Group]:
        """One group for each act that restates."""
        source = self.source(setting)
        split = next(
            (split for split, name in (("test", "test"), ("validation", "dev"), ("train", "train")) if (source / name).is_dir()), None
        )
        found = import_sgd(source, split=split, limit=setting.limit, keep_valid=True)
        left = f"; {len(found.refused)} dialogues do not fit" if found.refused else ""
        chosen = tuple(each for each in found.conversations if any(turn.asks for turn in each.follow_ups))[: setting.count or self.count]
        kinds = sorted({turn.kind for each in chosen for turn in each.follow_ups if turn.asks and turn.kind})
        return [Group(kind, chosen, kind, f"split {split or source.name}{left}") for kind in kinds]


class Locomo(Suite):
    """LoCoMo: questions about conversations of many sessions; told utterance by utterance, all questions asked at the end."""

    name = "locomo"
    answer_tokens = 32
    attributes = False
    unpublished = (
        "No published score is listed: others measure the overlap of words, or ask a judge, on answers of language models that read the "
        "conversation again or search in it."
    )
    where = "give the file locomo10.json, or one in its form, from https://github.com/snap-research/locomo."
    count = 10
    measures = "share of questions whose answer holds the expected words (LoCoMo itself scores the overlap of words)"

    def groups(self, setting: Setting) -> list[Group]:
        """One group for each category of questions."""
        source = self.source(setting)
        chosen = tuple(read_locomo(source, setting.limit)[: setting.count or self.count])
        kinds = [kind for kind in KINDS.values() if any(turn.kind == kind for each in chosen for turn in each.follow_ups)]
        if not kinds:
            raise DataError(f"{source} holds no question that fits {setting.limit.longest} {setting.limit.unit}: {self.where}")
        return [Group(kind, chosen, kind) for kind in kinds]


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Question(_Model):
    question: str
    answer: str | int | float | None = None
    adversarial_answer: str | None = None
    evidence: tuple[str, ...] = ()
    category: int


class _Utterance(_Model):
    speaker: str
    text: str
    dia_id: str
    blip_caption: str | None = None


class _Sample(_Model):
    sample_id: str | None = None
    conversation: dict[str, Any]
    qa: list[_Question] = Field(min_length=1)


class _Session(_Model):
    utterances: list[_Utterance]


def read_locomo(path: Path, limit: LengthLimit) -> list[Conversation]:
    """Conversations of a file in LoCoMo's form; questions that are too long, and answers without a word, are left out.

    Args:
        path: The file.
        limit: Longest interaction; longer utterances are cut.

    Raises:
        DataError: It is missing or has another form.
    """
    refusal = Refusal(DataError, "give a file in the form of locomo10.json", expected="a list of conversations with questions")
    samples = parse_json(read_text(path, refusal), path, list[_Sample], refusal)
    return [_conversation(each, f"locomo-{each.sample_id or number}", limit, path, refusal) for number, each in enumerate(samples)]


def _conversation(sample: _Sample, name: str, limit: LengthLimit, path: Path, refusal: Refusal) -> Conversation:
    told: list[Interaction] = []
    place: dict[str, int] = {}
    for date, utterance in _utterances(sample.conversation, path, refusal):
        shown = f" (shows {utterance.blip_caption})" if utterance.blip_caption else ""
        text = one_line(f"{date}{utterance.speaker}: {utterance.text}{shown}")
        for piece in cut(text, max(limit.longest - limit.measure(TOLD), 1), limit.measure):
            told.append(Interaction(piece, TOLD, asks=(), kind="tell"))
        place[utterance.dia_id] = len(told) - 1
    facts: dict[int, list[tuple[str, str]]] = defaultdict(list)
    asks = [each for number, question in enumerate(sample.qa) if (each := _question(question, number, place, facts, limit))]
    said = [_with_facts(each, tuple(facts[number])) for number, each in enumerate(told)]
    if not said or not asks:
        raise DataError(f"{path}: {name} holds no utterance, or no question that fits {limit.longest} {limit.unit}.")
    return Conversation(name, said[0], (*said[1:], *asks), {})


def _with_facts(interaction: Interaction, facts: tuple[tuple[str, str], ...]) -> Interaction:
    return Interaction(interaction.query, interaction.answer, facts, (), kind=interaction.kind)


def _utterances(conversation: Mapping[str, Any], path: Path, refusal: Refusal) -> Iterator[tuple[str, _Utterance]]:
    """Utterances of all sessions in order; the first of a session carries its date."""
    numbers = sorted(int(name.removeprefix("session_")) for name in conversation if name.removeprefix("session_").isdigit())
    for number in numbers:
        session = refusal_checked(conversation[f"session_{number}"], path, refusal)
        date = conversation.get(f"session_{number}_date_time")
        for place, utterance in enumerate(session):
            yield (f"{date}. " if date and not place else ""), utterance


def refusal_checked(session: Any, path: Path, refusal: Refusal) -> Sequence[_Utterance]:
    """A session as utterances."""
    try:
        return _Session(utterances=session).utterances
    except ValueError:
        raise refusal.error(f"{path} should hold sessions of utterances with speaker, text and dia_id: {refusal.advice}.") from None


def _question(
    question: _Question, number: int, place: Mapping[str, int], facts: dict[int, list[tuple[str, str]]], limit: LengthLimit
) -> Interaction | None:
    kind, key = KINDS.get(question.category, "other"), f"q{number}.answer-{number}"
    query = one_line(question.question)
    if limit.measure(query) > limit.longest:
        return None
    if kind == "never said":
        return Interaction(query, "I do not know.", asks=(key,), unknown=True, kind=kind)
    answer = one_line(str(question.answer or ""))
    found = [place[each] for each in question.evidence if each in place]
    if not value_words(answer) or not found:
        return None
    facts[max(found)].append((key, answer))
    return Interaction(query, answer, asks=(key,), kind=kind)
