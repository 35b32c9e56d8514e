"""Hand-made answers that every reward can be tried on: right ones, wrong ones, and the known hacks.

`rxrl rewards check`, the table in docs/guides/rewards.md and the tests all look at these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rxrl.rewards.embedding import word_ids
from rxrl.types import SavedInteraction, Turn

Verdict = Literal["right", "wrong", "hack"]
KINDS: Mapping[str, Verdict] = {
    "right": "right",
    "right but verbose": "right",
    "paraphrase": "right",
    "alias": "right",
    "wrong entity": "wrong",
    "swapped number": "wrong",
    "negated": "wrong",
    "evasive": "wrong",
    "all values listed": "hack",
    "query copied": "hack",
    "word repeated": "hack",
    "empty": "hack",
    "story copied": "hack",
    "markup copied": "hack",
    "very long": "hack",
}
"""Kinds of answers, and whether they are right, wrong, or hacks (what should earn little whatever it holds)."""

PETS = ("bird", "cat", "cow", "dog", "fish", "fox", "goat", "horse")
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
NUMBERS = ("2", "3", "5", "7", "9", "11")
STORY = (
    "Mia lives in a small white house by the sea. She has a cat that sleeps all day. "
    "The ball of Mia is red, and her best friend is Tom. Every evening they eat soup."
)


class Sample(NamedTuple):
    """One answer to one question.

    Attributes:
        question: Name of the question.
        kind: One of `KINDS`.
        turn: The turn that a reward scores.
    """

    question: str
    kind: str
    turn: Turn

    @property
    def verdict(self) -> Verdict:
        """Whether the answer is right, wrong, or a hack."""
        return KINDS[self.kind]


@dataclass(frozen=True, slots=True)
class Question:
    """A question with answers by kind; `fields` are those of the turn that differ from `sample_turn`'s."""

    name: str
    answers: Mapping[str, Sequence[str]]
    fields: Mapping[str, Any]


def saved(query: str, answer: str) -> SavedInteraction:
    """An interaction in memory; words stand for tokens."""
    return SavedInteraction(query, answer, word_ids(query), word_ids(answer))


def sample_turn(answer: str, **changes: Any) -> Turn:
    """A turn that asks for Mia's pet, a cat, unless `changes` says otherwise; words stand for tokens."""
    fields: dict[str, Any] = {
        "conversation_id": "sample",
        "index": 3,
        "steps": 8,
        "strategy": "multi-step",
        "query": "What pet does Mia have?",
        "answer": answer,
        "reference": "Mia has a cat.",
        "saved": (saved("Mia has a cat.", "I see."),),
        "asking": True,
        "expected": {"mia.pet": "cat"},
        "rivals": {"mia.pet": without(PETS, "cat")},
        "distance": 3,
        **changes,
    }
    ids = {f"{name}_ids": word_ids(fields[name]) for name in ("query", "answer", "reference")}
    return Turn(**{"history": fields["saved"], **ids, **fields})


def without(values: Sequence[str], *names: str) -> tuple[str, ...]:
    """`values` without some of them: the rivals of those."""
    return tuple(value for value in values if value not in names)


def samples() -> list[Sample]:
    """All hand-made answers, question by question."""
    return [
        Sample(question.name, kind, sample_turn(answer, **question.fields))
        for question in QUESTIONS
        for kind, answers in question.answers.items()
        for answer in answers
    ]


QUESTIONS: tuple[Question, ...] = (
    Question(
        "one fact",
        {
            "right": ["Mia has a cat.", "cat", "A CAT!"],
            "right but verbose": [
                "If I remember it right, the pet that Mia has is a cat.",
                "Well, as far as I can remember from what you told me earlier, Mia has a cat at home.",
            ],
            "paraphrase": ["It is a cat, not a dog.", "No dog - she has a cat.", "A cat lives with her."],
            "alias": ["Mia has a kitty."],
            "wrong entity": ["Mia has a dog.", "dog", "catfish", "Mia has a pet."],
            "negated": ["not a cat", "Mia doesn't have a cat.", "No cat."],
            "evasive": ["I don't know."],
            "all values listed": [", ".join(PETS), "Maybe a bird, a cat or a cow."],
            "query copied": ["What pet does Mia have?"],
            "word repeated": ["Mia Mia Mia Mia Mia Mia", "cat cat cat cat cat cat", "a cat a cat a cat a cat a cat a cat"],
            "empty": ["", " \n", "?!"],
            "markup copied": ["[Q] What pet does Mia have? [A] cat", "[BOS] cat [EOS]"],
            "very long": ["cat " + " ".join(f"filler{i}" for i in range(60)), "She has a cat. " * 30],
        },
        {"aliases": {"mia.pet": ("kitty",)}},
    ),
    Question(
        "a story was saved",
        {
            "right": ["Mia has a cat."],
            "paraphrase": ["A cat that sleeps all day."],
            "wrong entity": ["Mia has a fish.", "A ball."],
            "story copied": [STORY, STORY.lower(), "Tell me a story about Mia. " + STORY, STORY.partition(" Every")[0]],
        },
        {"saved": (saved("Tell me a story about Mia.", STORY),)},
    ),
    Question(
        "everything was told in short sentences",
        {
            "right": ["Mia has a cat."],
            "right but verbose": ["You told me that Mia has a cat."],
            "wrong entity": ["Mia has a fish."],
            "story copied": [
                "I see. Tom picks nine. Mia has a cat. Ann likes red.",
                "Mia has a cat. Ann likes red. Bob is at the beach. Bob wants a ball.",
            ],
        },
        {
            "saved": (saved("Tom picks nine. Mia has a cat. Ann likes red.", "I see."),),
            "history": (
                saved("Tom picks nine. Mia has a cat. Ann likes red.", "I see."),
                saved("Bob is at the beach. Bob wants a ball.", "Okay."),
            ),
        },
    ),
    Question(
        "a number",
        {
            "right": ["She has 7 apples.", "7"],
            "alias": ["seven apples"],
            "swapped number": ["She has 9 apples.", "17", "77"],
            "evasive": ["some apples"],
            "all values listed": ["2 3 5 7 9 11", "1 2 3 4 5 6 7 8 9 10 11 12"],
        },
        {
            "query": "How many apples does Mia have?",
            "reference": "She has 7 apples.",
            "saved": (saved("Mia has 7 apples.", "I see."),),
            "expected": {"mia.number": "7"},
            "aliases": {"mia.number": ("seven",)},
            "rivals": {"mia.number": without(NUMBERS, "7")},
        },
    ),
    Question(
        "two facts",
        {
            "right": ["Mia has a cat and Tom has a dog.", "cat, dog"],
            "paraphrase": ["A dog (Tom) and a cat (Mia)."],
            "wrong entity": ["Mia has a cow and Tom has a fish."],
            "negated": ["Neither a cat nor a dog."],
            "all values listed": [" ".join(PETS), "bird cat cow dog"],
            "query copied": ["What pets do Mia and Tom have?"],
        },
        {
            "query": "What pets do Mia and Tom have?",
            "reference": "Mia has a cat and Tom has a dog.",
            "saved": (saved("Mia has a cat.", "I see."), saved("Tom has a dog.", "Okay.")),
            "expected": {"mia.pet": "cat", "tom.pet": "dog"},
            "rivals": {"mia.pet": without(PETS, "cat"), "tom.pet": without(PETS, "dog")},
        },
    ),
    Question(
        "a place of six",
        {
            "right": ["kitchen", "The kitchen."],
            "right but verbose": ["John is in the kitchen."],
            "wrong entity": ["hallway", "John is in the garden."],
            "negated": ["John is not in the kitchen."],
            "all values listed": [", ".join(PLACES), "kitchen garden office"],
            "query copied": ["Where is John?"],
            "word repeated": ["kitchen kitchen kitchen kitchen"],
        },
        {
            "query": "Where is John?",
            "reference": "kitchen",
            "saved": (saved("John went to the kitchen.", "Okay."),),
            "expected": {"john.place": "kitchen"},
            "rivals": {"john.place": without(PLACES, "kitchen")},
        },
    ),
    Question(
        "never told",
        {
            "right": ["I do not know."],
            "paraphrase": ["You never told me what pet Mia has.", "I don't know whether she has a dog."],
            "wrong entity": ["Mia has a cat.", "a dog", "I do not know, maybe a dog."],
            "all values listed": [", ".join(PETS)],
            "query copied": ["What pet does Mia have?"],
            "empty": [""],
            "word repeated": ["I do not know. " * 20],
            "very long": ["I do not know that. It could be a cat or a dog. " + " ".join(f"filler{i}" for i in range(60))],
        },
        {
            "reference": "I do not know.",
            "saved": (saved("Tom has a dog.", "Okay."),),
            "expected": {},
            "rivals": {"mia.pet": PETS},
            "unknown": True,
            "distance": None,
        },
    ),
    Question(
        "no asks",
        {
            "right": ["Under the hollow oak."],
            "right but verbose": ["It was under a hollow oak."],
            "paraphrase": ["hollow oak"],
            "wrong entity": ["In the river.", "At home."],
            "evasive": ["It was hidden."],
            "query copied": ["Where did the fox hide the golden key?"],
            "empty": [""],
            "word repeated": ["oak oak oak oak oak", "the the the the the the"],
        },
        {
            "query": "Where did the fox hide the golden key?",
            "reference": "Under the hollow oak.",
            "saved": (saved("A story, please.", "A fox found a golden key. It hid the key under a hollow oak."),),
            "expected": {},
            "rivals": {},
            "asks_known": False,
        },
    ),
)
