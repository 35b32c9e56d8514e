"""Passages: plain texts told piece by piece, and asked later how a sentence went on. Any text becomes a test of memory.

Both halves of a question stand in one clause of one piece: some words to recognise the place by, and the words that follow them.
Nobody who has not read the piece can know these, beyond what language itself gives away: the control with an empty memory measures that.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from rxrl.data.corpora import Say, Split, open_corpus
from rxrl.data.importers.common import ImportResult
from rxrl.data.importers.text import DEFAULT_LIMIT, pieces_of
from rxrl.data.rows import LengthLimit
from rxrl.errors import ConfigError, DataError
from rxrl.facts import content_words, holds
from rxrl.seeding import derive_seed
from rxrl.types import Conversation, Interaction

TELL = "Remember this passage: {text}"
TOLD = "Okay."
ASK = 'How does this go on: "{cue}"?'
_CLAUSE_END = re.compile(r"""[^\w\s'\u2019-]+""")
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        piece: Number of the piece, from 0.
        number: Number among the questions about it, from 1.
        cue, answer: What is quoted, and what follows it.
    """

    piece: int
    number: int
    cue: str
    answer: str

    @property
    def key(self) -> str:
        """Of the fact."""
        return f"passage-{self.piece + 1}-{self.number}.continuation"


def import_passages(
    source: str | Path,
    *,
    max_turns: int = 16,
    cue_words: int = 4,
    answer_words: int = 3,
    limit: LengthLimit = DEFAULT_LIMIT,
    seed: int = 0,
    say: Say | None = None,
) -> ImportResult:
    """Turns plain texts into conversations.

    Each piece of a text is told once and asked for once, from right after it to as late as there is room; delays are spread evenly over
    none, 1, 2 to 3, 4 to 7 pieces and so on, so that the beginning of a conversation has questions as well.

    Args:
        source: A text file, rows with `text`, a folder of them or a data set; see `import_text`.
        max_turns: Turns after the first, as in a curriculum.
        cue_words: Words that a question quotes.
        answer_words: Words that follow them: the answer.
        limit: Longest interaction; texts are cut at sentence borders to fit.
        seed: Decides what is asked and when.
        say: Is told in one sentence which split was taken, where there were several.

    Returns:
        Conversations, none of which holds pieces of two documents, and counts of documents, pieces told and questions.

    Raises:
        ConfigError: A number is below 1.
        DataError: There is no text, or no piece of it holds a clause that is long enough.
    """
    for name, value in (("max_turns", max_turns), ("cue_words", cue_words), ("answer_words", answer_words)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, but is {value}.")
    split = open_corpus(source).choose("any", say)
    room = LengthLimit(limit.longest - limit.measure(TELL.format(text="")) - limit.measure(TOLD), limit.measure, limit.unit)
    if room.longest < cue_words + answer_words:
        raise ConfigError(f"Interactions of {limit.longest} {limit.unit} leave no room for a passage: raise the maximum length.")
    rng = random.Random(derive_seed(seed, "passages"))
    counts: Counter[str] = Counter()
    conversations = list(_conversations(split, room, max_turns + 1, (cue_words, answer_words), rng, counts))
    if not counts["pieces"]:
        raise DataError(f"{split.name} holds no text: give a .txt or .jsonl file, or a folder of them.")
    return ImportResult(conversations, dict(counts)).checked(source, keep_valid=True)


def _conversations(
    split: Split, room: LengthLimit, interactions: int, words: tuple[int, int], rng: random.Random, counts: Counter[str]
) -> Iterator[Conversation]:
    tells = interactions // 2
    for number, document in enumerate(split.documents(), start=1):
        pieces = pieces_of(document, room)
        counts["documents"] += 1
        for start in range(0, len(pieces), tells):
            told = pieces[start : start + tells]
            counts["pieces"] += len(told)
            # Of an odd number of interactions the one that is left asks for the first piece a second time.
            again = interactions % 2 if len(told) == tells else 0
            conversation = _conversation(f"passages-{number}-{start // tells + 1}", told, again, words, rng)
            if conversation is None:
                counts["pieces left out: nothing to ask"] += len(told)
                continue
            counts["asked"] += sum(bool(each.asks) for each in conversation.interactions)
            counts["conversations"] += 1
            yield conversation


def _conversation(name: str, told: Sequence[str], again: int, words: tuple[int, int], rng: random.Random) -> Conversation | None:
    """The pieces, each with one question about it where it has one, the first with `again` more; None without any question."""
    everything = " ".join(told).casefold()
    questions: list[list[Question]] = []
    for index, piece in enumerate(told):
        found = _questions(piece, everything, words, rng)
        questions.append([Question(index, number, *each) for number, each in enumerate(islice(found, 1 + again * (index == 0)), start=1)])
    asked_after: list[list[Question]] = [[] for _ in told]
    for each in chain(*questions):
        asked_after[each.piece + _delay(len(told) - 1 - each.piece, rng)].append(each)
    interactions: list[Interaction] = []
    for piece, own, asked in zip(told, questions, asked_after, strict=True):
        facts = tuple((each.key, each.answer) for each in own)
        interactions.append(Interaction(TELL.format(text=piece), TOLD, facts, (), kind="tell"))
        for each in rng.sample(asked, len(asked)):
            interactions.append(Interaction(ASK.format(cue=each.cue), each.answer, (), (each.key,), kind="ask"))
    while interactions and not interactions[-1].asks:
        interactions.pop()
    return Conversation(name, interactions[0], tuple(interactions[1:])) if interactions else None


def _delay(longest: int, rng: random.Random) -> int:
    """A number of pieces, 0 to `longest`: first which octave, then where in it."""
    octave = rng.randint(0, longest.bit_length())
    return 0 if octave == 0 else min(longest, rng.randrange(1 << (octave - 1), 1 << octave))


def _questions(piece: str, everything: str, words: tuple[int, int], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Cues that occur once in `everything`, and the words after each in its clause; no two of them share a word."""
    cue_words, answer_words = words
    clauses = [[*_WORD.finditer(part)] for part in _CLAUSE_END.split(piece)]
    places = [(at, start) for at, clause in enumerate(clauses) for start in range(len(clause) - cue_words - answer_words + 1)]
    taken: set[tuple[int, int]] = set()
    for at, start in rng.sample(places, len(places)):
        own = {(at, word) for word in range(start, start + cue_words + answer_words)}
        found = [match.group() for match in clauses[at][start : start + cue_words + answer_words]]
        cue, answer = " ".join(found[:cue_words]), " ".join(found[cue_words:])
        # Function words alone could be guessed, and an answer that is negated does not hold its own value.
        if not own & taken and content_words(answer) and holds(answer, answer) and everything.count(cue.casefold()) == 1:
            taken |= own
            yield cue, answer
