"""bAbI tasks (Weston et al., 2015): statements are told, questions are asked, and the supporting lines give the distances.

Where the statements of a task allow it (1, 2, 8, 11, 12, 13), facts such as `mary.location` are read from every statement and checked
against every answer. Elsewhere the answer itself is the fact: the last supporting line tells it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

from rxrl.data.importers.babi_world import EXACT_TASKS, PLACES_MATTER, Carrying, question_key, renamed, reworded
from rxrl.data.importers.common import ImportResult, existing
from rxrl.data.rows import LengthLimit, RefusedRow
from rxrl.data.sources import said
from rxrl.errors import ConfigError, DataError
from rxrl.facts import contains
from rxrl.reading import read_text
from rxrl.seeding import derive_seed
from rxrl.types import Conversation, Interaction

TOLD = "Okay."
NOTHING_ASKED = "Nothing is asked."
"""What is thought where statements are told."""
LISTS = 8
"""The task whose answers are lists in any order: they are sorted, other orders are aliases."""
PARTS = ("train", "valid", "test")
"""Parts of a task, as the ends of its files' names have them."""
_LINE = re.compile(r"(\d+) (.+)")
_TASK = re.compile(r"qa(\d+)_")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an episode; a question has an answer and the numbers of its supporting lines."""

    number: int
    text: str
    answer: str | None = None
    supports: tuple[int, ...] = ()


@dataclass(slots=True)
class Episode:
    """Lines that belong together, beginning in row `row` of the file."""

    row: int
    lines: list[Line] = field(default_factory=list)
    problem: tuple[int, str] | None = None


@dataclass(slots=True)
class Block:
    """One interaction to be: statements that are told together, or one question."""

    lines: list[Line]
    facts: dict[str, str] = field(default_factory=dict)
    key: str | None = None

    @property
    def asks(self) -> bool:
        """The block is a question."""
        return self.lines[0].answer is not None


def import_babi(
    source: str | Path,
    *,
    max_turns: int | None = 8,
    statements_per_turn: int = 10,
    rename: bool = False,
    copies: int = 1,
    own_names: bool = False,
    reword: bool = False,
    sentences: bool = False,
    thoughts: bool = False,
    limit: LengthLimit | None = None,
    seed: int = 0,
    keep_valid: bool = False,
) -> ImportResult:
    """Reads the episodes of a task file, or of all task files of a folder, one conversation each.

    Consecutive statements are told together. An episode that still has more than `max_turns` turns is shortened: where statements
    may be told one question earlier without changing its answer, they are; what is left over at the end is cut off.

    Args:
        source: A file such as `qa1_single-supporting-fact_train.txt`, or a folder of them, all of one part (train, valid or test).
        max_turns: Most turns of a conversation; None for no limit.
        statements_per_turn: Most statements that are told together.
        rename: Add `copies` of each episode with people, places and kinds of animals renamed at random, for training; places not in
            task 20, where it matters what a place is for.
        copies: Renamed copies of each episode.
        own_names: Rename among the people and places of the task itself, in place of a larger pool.
        reword: In renamed copies, also draw the verb of every movement anew ("went to", "travelled to" ...).
        sentences: Answer with the statement that supports the answer, in place of the bare word.
        thoughts: Think of the supporting statements before the answer, in the order of the file: who needs several of them can then look
            up one after the other. Where nothing is asked, that is the thought: whoever is to think learns it at every turn.
        limit: Longest interaction; longer ones do not fit.
        seed: Decides names and which statements move.
        keep_valid: Keep the rest where rows do not fit.

    Returns:
        Conversations (an episode is followed by its renamed copies, those that repeat nothing), and counts of episodes, statements,
        questions and copies left out.

    Raises:
        ConfigError: Options for renamed copies without any.
        DataError: Nothing is there, a folder holds several parts, or a row does not fit and the rest is not wanted.
    """
    if (own_names or reword) and not rename:
        option = "own names" if own_names else "reword"
        raise ConfigError(f"The option {option} is about renamed copies, but none are wanted: ask for some with --rename N.")
    work = _Import(statements_per_turn, max_turns, sentences, thoughts, limit, seed)
    for file in _task_files(existing(source, "bAbI file or folder")):
        work.read(file, copies if rename else 0, own_names, reword)
    kept = _without_repeats(work.conversations)
    if rename:
        work.counts["left out: repeated copies"] = len(work.conversations) - len(kept)
    work.counts["conversations"], work.counts["refused"] = len(kept), len(work.refused)
    return ImportResult(kept, dict(work.counts), tuple(work.refused)).checked(source, keep_valid)


class _Renaming(NamedTuple):
    """How many renamed copies an episode gets, among which names, and whether its verbs are drawn anew."""

    copies: int
    own: set[str] | None
    reword: bool


@dataclass
class _Import:
    """Options of an import, and what it has given so far."""

    statements_per_turn: int
    max_turns: int | None
    sentences: bool
    thoughts: bool
    limit: LengthLimit | None
    seed: int
    conversations: list[Conversation] = field(default_factory=list)
    refused: list[RefusedRow] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def read(self, file: Path, copies: int, own_names: bool, reword: bool) -> None:
        """Adds the episodes of a task file."""
        task = _TASK.match(file.name)
        if task is None:
            raise DataError(f"{file.name!r} does not name its task: bAbI files are called like qa1_single-supporting-fact_train.txt.")
        # The official files of a task have the same numbers of episodes, so that ids name the file's part (train, valid, test), too.
        part = file.stem.rpartition("_")[2]
        own = set(re.findall(r"\w+", read_text(file).lower())) if own_names else None
        for number, episode in enumerate(_episodes(file), start=1):
            self.counts["episodes"] += 1
            try:
                self.add(episode, task[1], part, number, _Renaming(copies, own, reword))
            except _RowError as error:
                self.refused.append(RefusedRow(str(file), error.row, str(error)))

    def add(self, episode: Episode, task: str, part: str, number: int, renaming: _Renaming) -> None:
        """Adds an episode and its renamed copies.

        Raises:
            _RowError: It does not fit; copies that do are kept.
        """
        for copy in range(1 + renaming.copies):
            rng = random.Random(derive_seed(self.seed, "babi", task, number, copy))
            name = f"babi-{task}-{part}-{number}" + (f"-renamed{copy}" if copy else "")
            played = _rename(episode, rng, renaming, int(task) not in PLACES_MATTER) if copy else episode
            built = _build(played, int(task), name, self.max_turns, self.statements_per_turn, rng, self.sentences, self.thoughts)
            if self.limit is not None and (reason := self.limit.complaint(built)):
                raise _RowError(episode.row, reason)
            self.conversations.append(built)
            if not copy:
                self.counts["statements"] += sum(line.answer is None for line in episode.lines)
                self.counts["questions"] += sum(line.answer is not None for line in episode.lines)
                self.counts["asked"] += sum(bool(interaction.asks) for interaction in built.follow_ups)


def _without_repeats(conversations: Sequence[Conversation]) -> list[Conversation]:
    """Leaves renamed copies out that say what an original or an earlier copy says: few names give few copies."""
    originals = {each.id for each in conversations if each.id == each.extra["episode"]}
    seen = {said(each) for each in conversations if each.id in originals}
    kept = []
    for conversation in conversations:
        words = said(conversation)
        if conversation.id in originals or words not in seen:
            kept.append(conversation)
        seen.add(words)
    return kept


def _task_files(path: Path) -> list[Path]:
    """The file, or the task files of a folder, all of one part: what is to be tested on must not slip into what is trained on."""
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("qa*_*.txt"))
    parts = {part: file.name for file in reversed(files) if (part := file.stem.rpartition("_")[2]) in PARTS}
    if len(parts) > 1:
        raise DataError(
            f"{path} holds files of several parts of the data ({', '.join(sorted(parts.values()))}): import one file after the other, "
            "or a folder with the files of one part."
        )
    return files


class _RowError(Exception):
    """An episode does not fit because of one row."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row


def _episodes(file: Path) -> Iterator[Episode]:
    """Yields the episodes of a file; the line numbers start again at 1 with each."""
    episode: Episode | None = None
    for row, text in enumerate(read_text(file).split("\n"), start=1):
        if not text.strip():
            continue
        line, problem = _line(text)
        if episode is None or (line is not None and line.number == 1):
            if episode is not None:
                yield episode
            episode = Episode(row)
        if line is not None and line.number != len(episode.lines) + 1:
            problem = problem or f"line number {line.number} came where {len(episode.lines) + 1} was expected"
        if problem:
            episode.problem = episode.problem or (row, problem)
        elif line is not None:
            episode.lines.append(line)
    if episode is not None:
        yield episode


def _line(text: str) -> tuple[Line | None, str | None]:
    parts = text.rstrip("\r").split("\t")
    match = _LINE.fullmatch(parts[0].strip())
    if match is None:
        return None, "expected a line number and text"
    number, said = int(match[1]), match[2].strip()
    if len(parts) == 1:
        return Line(number, said), None
    supports = parts[2].split() if len(parts) == 3 else []
    if not supports or not all(part.isdigit() and 0 < int(part) < number for part in supports) or not parts[1].strip():
        return Line(number, said), "expected a question, its answer and the numbers of earlier supporting lines, parted by tabs"
    return Line(number, said, parts[1].strip().replace(",", ", "), tuple(map(int, supports))), None


def _rename(episode: Episode, rng: random.Random, renaming: _Renaming, places: bool) -> Episode:
    texts = [part for line in episode.lines for part in (line.text, line.answer or "")]
    changed = renamed(texts, rng, renaming.own, places)
    if renaming.reword:
        changed = [reworded(text, rng) for text in changed]
    parts = iter(changed)
    return replace(episode, lines=[replace(line, text=next(parts), answer=next(parts) or None) for line in episode.lines])


def _build(
    episode: Episode,
    task: int,
    name: str,
    max_turns: int | None,
    together: int,
    rng: random.Random,
    sentences: bool,
    thoughts: bool,
) -> Conversation:
    if episode.problem:
        raise _RowError(*episode.problem)
    if task == LISTS:
        lists = [
            line if line.answer is None else replace(line, answer=", ".join(sorted(line.answer.split(", ")))) for line in episode.lines
        ]
        episode = replace(episode, lines=lists)
    blocks = _blocks(episode.lines, together)
    if not blocks or blocks[0].asks or not any(block.asks for block in blocks):
        raise _RowError(episode.row, "an episode needs a statement first, and a question later")
    (_exact_facts if task in EXACT_TASKS else _answers_as_facts)(blocks, episode, task)
    if max_turns is not None:
        blocks = _shortened(blocks, max_turns, together, rng, movable=task in EXACT_TASKS)
    while blocks and not blocks[-1].asks:
        blocks.pop()
    if not blocks:
        raise _RowError(episode.row, f"no question is left within {max_turns} turns")
    statements = {line.number: line.text for line in episode.lines if line.answer is None}
    interactions = [_interaction(block, task, statements if sentences else {}, statements if thoughts else {}) for block in blocks]
    return Conversation(name, interactions[0], tuple(interactions[1:]), {"task": task, "episode": name.partition("-renamed")[0]})


def _blocks(lines: Sequence[Line], together: int) -> list[Block]:
    blocks: list[Block] = []
    for line in lines:
        if line.answer is None and blocks and not blocks[-1].asks and len(blocks[-1].lines) < together:
            blocks[-1].lines.append(line)
        else:
            blocks.append(Block([line]))
    return blocks


def _exact_facts(blocks: Sequence[Block], episode: Episode, task: int) -> None:
    """Reads every statement, and checks that what was read gives every answer."""
    world = Carrying(EXACT_TASKS[task])
    for block in blocks:
        for line in block.lines:
            row = episode.row + line.number - 1
            if line.answer is None:
                changes = world.read(line.text)
                if changes is None:
                    raise _RowError(row, f"the statement {line.text!r} is not one of task {task}")
                block.facts.update(changes)
                continue
            block.key = question_key(line.text, EXACT_TASKS[task])
            known = world.value(block.key)
            if known != line.answer:
                raise _RowError(row, f"the answer {line.answer!r} does not follow from the statements, which give {known!r}")


def _answers_as_facts(blocks: Sequence[Block], episode: Episode, task: int) -> None:
    """Makes each answer a fact that the last supporting line tells."""
    told_in = {line.number: block for block in blocks for line in block.lines}
    for block in blocks:
        line = block.lines[0]
        if line.answer is None:
            continue
        source = told_in[max(line.supports)]
        if source.asks:
            raise _RowError(episode.row + line.number - 1, f"the supporting line {max(line.supports)} is a question")
        block.key = question_key(line.text, None)
        source.facts[block.key] = line.answer


def _shortened(blocks: list[Block], max_turns: int, together: int, rng: random.Random, movable: bool) -> list[Block]:
    """Tells statements one question earlier where that question does not depend on them, then cuts the end off."""
    while movable and len(blocks) - 1 > max_turns:
        places = [
            index
            for index in range(1, len(blocks) - 1)
            if blocks[index].asks
            and not blocks[index - 1].asks
            and not blocks[index + 1].asks
            and blocks[index].key not in blocks[index + 1].facts
            and len(blocks[index - 1].lines) + len(blocks[index + 1].lines) <= together
        ]
        if not places:
            break
        index = rng.choice(places)
        before, question, after = blocks[index - 1 : index + 2]
        blocks[index - 1 : index + 2] = [Block(before.lines + after.lines, {**before.facts, **after.facts}), question]
    return blocks[: max_turns + 1]


def _interaction(block: Block, task: int, said: Mapping[int, str], thought: Mapping[int, str]) -> Interaction:
    """One interaction; statements by line number that support an answer are the answer (the last of them) or thought before it."""
    if block.key is None:
        facts = tuple(block.facts.items())
        extra = {"think": NOTHING_ASKED} if thought else {}
        return Interaction(" ".join(line.text for line in block.lines), TOLD, facts, (), kind="tell", extra=extra)
    answer = block.lines[0].answer or ""
    parts = answer.split(", ")
    orders = [", ".join(order) for order in permutations(parts)][1:] if task == LISTS else []
    sentence = said.get(max(block.lines[0].supports, default=0), "")
    if contains(sentence, answer):
        answer = sentence
    think = " ".join(thought[number] for number in block.lines[0].supports if number in thought)
    aliases = {block.key: tuple(orders)} if orders else {}
    return Interaction(block.lines[0].text, answer, (), (block.key,), aliases, kind="ask", extra={"think": think} if think else {})
