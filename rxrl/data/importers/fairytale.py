"""FairytaleQA (Xu et al., 2022): sections of fairy tales are told in short pieces, and their questions are asked some turns later.

A question's answer is a fact that the piece with the most words in common with question and answer tells. The attribute of its key
is the data set's own label of the question (action, character, feeling, ...); other annotators' answers are aliases.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rxrl.data.importers.common import ImportResult, cut, existing, one_line
from rxrl.data.rows import LengthLimit, RefusedRow
from rxrl.errors import DataError
from rxrl.facts import content_words, value_words
from rxrl.reading import Refusal, csv_rows
from rxrl.seeding import derive_seed
from rxrl.types import Conversation, Interaction

TELL = "Remember this part of a story: {text}"
TOLD = "Okay."
DEFAULT_LIMIT = LengthLimit(60)
FOLDERS = {"train": "train", "validation": "val", "test": "test"}
"""Folder of each split."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a story.

    Attributes:
        row: Row of the question file.
        sections: Numbers of the sections that it is about.
        text, answer: Question and first answer.
        aliases: Further answers.
        label: What kind of question it is, in the words of the data set.
    """

    row: int
    sections: tuple[str, ...]
    text: str
    answer: str
    aliases: tuple[str, ...]
    label: str


@dataclass(slots=True)
class Story:
    """One story: its sections, cut into pieces that can be told, and its questions."""

    name: str
    question_file: str
    pieces: dict[str, list[str]]
    questions: list[Question]


@dataclass(slots=True)
class _Import:
    split: str
    max_turns: int
    max_answer_words: int
    explicit_only: bool
    limit: LengthLimit
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    refused: list[RefusedRow] = field(default_factory=list)
    conversations: list[Conversation] = field(default_factory=list)


def import_fairytaleqa(
    folder: str | Path,
    *,
    split: str = "train",
    max_turns: int = 16,
    max_answer_words: int = 8,
    explicit_only: bool = True,
    limit: LengthLimit = DEFAULT_LIMIT,
    seed: int = 0,
    keep_valid: bool = False,
) -> ImportResult:
    """Reads one split; stories, never questions, decide to which split a conversation belongs.

    Args:
        folder: The data set, or its folder `data-by-train-split`.
        split: `train`, `validation` or `test`.
        max_turns: Longest conversation; a section whose questions do not fit is told again in the next one.
        max_answer_words: Questions with a longer first answer are left out (0: none is).
        explicit_only: Leave questions out whose answer does not stand in the text.
        limit: Longest interaction; sections are cut at sentence borders to fit.
        seed: Decides how many turns after its section a question is asked.
        keep_valid: Keep the rest where rows do not fit.

    Returns:
        Conversations, and counts of stories, sections, questions (read, left out by choice, merged, asked).

    Raises:
        DataError: The folders are not there, or a row does not fit and the rest is not wanted.
    """
    root = existing(folder, "FairytaleQA folder")
    root = root / "data-by-train-split" if (root / "data-by-train-split").is_dir() else root
    if split not in FOLDERS:
        raise DataError(f"FairytaleQA has the splits {', '.join(FOLDERS)}, but {split!r} was asked for.")
    stories = existing(root / "section-stories" / FOLDERS[split], f"folder of the split {split!r}")
    work = _Import(split, max_turns, max_answer_words, explicit_only, limit, seed)
    for story_file in sorted(stories.glob("*-story.csv")):
        story = _read_story(story_file, root / "questions" / FOLDERS[split], work)
        work.counts["stories"] += 1
        for number, (sections, questions) in enumerate(_groups(story, work), start=1):
            conversation = _conversation(story, number, sections, questions, work)
            # Tokens of a piece and of what stands before it do not simply add up, so that a piece that fits may not once it is told.
            if reason := work.limit.complaint(conversation):
                work.refused.extend(RefusedRow(story.question_file, question.row, reason) for question in questions)
                continue
            work.conversations.append(conversation)
            work.counts["asked"] += len(questions)
    work.counts["conversations"] = len(work.conversations)
    work.counts["refused"] = len(work.refused)
    return ImportResult(work.conversations, dict(work.counts), tuple(work.refused)).checked(folder, keep_valid)


def _read_story(file: Path, question_folder: Path, work: _Import) -> Story:
    name = file.name.removesuffix("-story.csv")
    texts: dict[str, str] = {}
    for _, row in _csv_rows(file, ("section", "text"), work):
        section = row["section"].strip()
        # A few stories give two sections one number: the questions do not tell them apart, so neither do we.
        texts[section] = f"{texts[section]}\n{row['text']}" if section in texts else row["text"]
        work.counts["sections"] += 1
    room = work.limit.longest - work.limit.measure(TELL.format(text="")) - work.limit.measure(TOLD)
    pieces = {section: cut(text, room, work.limit.measure) for section, text in texts.items()}
    questions = []
    question_file = question_folder / f"{name}-questions.csv"
    if not question_file.is_file():
        work.refused.append(RefusedRow(str(file), 1, f"the story has no question file {question_file.name}"))
        return Story(name, str(question_file), pieces, [])
    for number, row in _csv_rows(question_file, ("cor_section", "question", "answer1", "ex-or-im1", "attribute1"), work):
        work.counts["questions"] += 1
        try:
            question = _question(number, row, pieces)
            if not _left_out(row, question, work):
                _check_length(question, work.limit)
                questions.append(question)
        except ValueError as error:
            work.refused.append(RefusedRow(str(question_file), number, str(error)))
    return Story(name, str(question_file), pieces, _each_once(questions, work))


def _each_once(questions: Sequence[Question], work: _Import) -> list[Question]:
    """Annotators ask the same: asked twice in one conversation, each of two right answers would be wrong once."""
    found: dict[tuple[tuple[str, ...], str], Question] = {}
    for question in questions:
        key = (question.sections, question.text.casefold())
        if key not in found:
            found[key] = question
            continue
        work.counts["merged: same question"] += 1
        first = found[key]
        others = dict.fromkeys((*first.aliases, question.answer, *question.aliases))
        found[key] = replace(first, aliases=tuple(other for other in others if other != first.answer))
    return list(found.values())


def _csv_rows(file: Path, columns: Sequence[str], work: _Import) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (row number, row) of the rows that have no more fields than the header; row 1 is the header."""
    for number, row in csv_rows(file, columns, Refusal(advice="expected the CSV files of FairytaleQA")):
        if row is None:
            work.refused.append(RefusedRow(str(file), number, "more fields than the header has columns"))
        else:
            yield number, row


def _question(number: int, row: dict[str, str], pieces: dict[str, list[str]]) -> Question:
    text, answer = one_line(row["question"]), one_line(row["answer1"])
    sections = tuple(part.strip() for part in row["cor_section"].replace(";", ",").split(",") if part.strip())
    if not text or not answer:
        raise ValueError("the question or its first answer is empty")
    if not value_words(answer):
        raise ValueError(f"the answer {answer!r} holds no word")
    if unknown := [section for section in sections if not pieces.get(section)] or ([] if sections else ["none"]):
        raise ValueError(f"the question is about section {unknown[0]}, which the story does not have")
    others = [one_line(row.get(f"answer{index}") or "") for index in range(2, 7)]
    aliases = tuple(dict.fromkeys(other for other in others if other and other != answer))
    return Question(number, tuple(dict.fromkeys(sections)), text, answer, aliases, one_line(row["attribute1"]) or "question")


def _check_length(question: Question, limit: LengthLimit) -> None:
    if (length := limit.measure(question.text) + limit.measure(question.answer)) > limit.longest:
        raise ValueError(f"question and answer have {length} {limit.unit}, but at most {limit.longest} are allowed")


def _left_out(row: dict[str, str], question: Question, work: _Import) -> bool:
    """Whether the options leave a question out; counts it by reason."""
    if work.explicit_only and row["ex-or-im1"].strip() != "explicit":
        work.counts["left out: not explicit"] += 1
        return True
    if 0 < work.max_answer_words < len(question.answer.split()):
        work.counts["left out: long answer"] += 1
        return True
    return False


def _groups(story: Story, work: _Import) -> Iterator[tuple[list[str], list[Question]]]:
    """Yields sections and the questions to ask about them, each group small enough for one conversation."""
    windows: list[list[str]] = []
    size = 0
    for section, pieces in story.pieces.items():
        cost = len(pieces) + sum(question.sections == (section,) for question in story.questions)
        if not windows or size + cost > work.max_turns + 1:
            windows.append([])
            size = 0
        windows[-1].append(section)
        size += cost
    waiting = list(story.questions)
    for window in windows:
        yield from _shared_out(story, window, [question for question in waiting if set(question.sections) <= set(window)], work)
        waiting = [question for question in waiting if not set(question.sections) <= set(window)]
    for sections in dict.fromkeys(question.sections for question in waiting):
        together = [section for section in story.pieces if section in sections]
        yield from _shared_out(story, together, [question for question in waiting if question.sections == sections], work)


def _shared_out(story: Story, window: list[str], questions: list[Question], work: _Import) -> Iterator[tuple[list[str], list[Question]]]:
    """Shares questions out over as many conversations as needed, each of which tells the whole window."""
    room = work.max_turns + 1 - sum(len(story.pieces[section]) for section in window)
    if room < 1:
        reason = f"the sections {', '.join(window)} alone are longer than {work.max_turns} turns"
        work.refused.extend(RefusedRow(story.question_file, question.row, reason) for question in questions)
        return
    for start in range(0, len(questions), room):
        yield window, questions[start : start + room]


def _conversation(story: Story, number: int, sections: list[str], questions: list[Question], work: _Import) -> Conversation:
    rng = random.Random(derive_seed(work.seed, "fairytaleqa", story.name, number))
    pieces = [(section, piece) for section in sections for piece in story.pieces[section]]
    told_at: dict[int, list[Question]] = {index: [] for index in range(len(pieces))}
    asked_after: dict[int, list[Question]] = {index: [] for index in range(len(pieces))}
    for question in questions:
        own = [index for index, (section, _) in enumerate(pieces) if section in question.sections]
        wanted = content_words(question.answer), content_words(question.text)
        best = max(own, key=lambda index: [len(words & content_words(pieces[index][1])) for words in wanted])
        told_at[best].append(question)
        asked_after[rng.randint(own[-1], len(pieces) - 1)].append(question)
    interactions: list[Interaction] = []
    for index, (_, piece) in enumerate(pieces):
        facts = tuple((_key(story, question), question.answer) for question in told_at[index])
        interactions.append(Interaction(TELL.format(text=piece), TOLD, facts, (), kind="tell"))
        interactions += [_ask(story, question) for question in rng.sample(asked_after[index], len(asked_after[index]))]
    while not interactions[-1].asks:
        interactions.pop()
    return Conversation(f"fairytaleqa-{work.split}-{story.name}-{number}", interactions[0], tuple(interactions[1:]), {"story": story.name})


def _ask(story: Story, question: Question) -> Interaction:
    key = _key(story, question)
    aliases = {key: question.aliases} if question.aliases else {}
    return Interaction(question.text, question.answer, (), (key,), aliases, kind=question.label)


def _key(story: Story, question: Question) -> str:
    return f"{story.name.replace('.', '-')}-{question.row}.{question.label.replace(' ', '-')}"
