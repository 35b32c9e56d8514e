"""Corrections: the user asks for facts, says what is right when an answer is wrong, and asks again; memory must keep the correction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple, Self

from rxrl.envs.scenarios.game import Game, Said, check_arguments, exchanges, named_once
from rxrl.lexicon import PEOPLE, PERSON_BASICS, VALUES, Topic
from rxrl.seeding import Draws
from rxrl.types import Interaction, Score

FACTS = {1: (4, 2), 2: (6, 3), 3: (8, 4)}
"""Facts that are asked for, and how many of them are told at the start, by level."""
RIGHT = ("Right.", "Yes, that is so.", "Correct.")
WRONG = ("No, {tell}", "Not so: {tell}", "Wrong. {tell}")
SHARED = 0.5
"""Share of facts, above level 1, whose attribute another person has too."""


class State(NamedTuple):
    """Where a game stands.

    Attributes:
        turn: Turns heard.
        told: Facts (by their place) that were told, at the start or by a correction.
        asked: The fact that the last query asked for; None at the start.
        right: Whether the last answer was right.
        corrected: Facts that were told by a correction.
    """

    turn: int
    told: frozenset[int]
    asked: int | None = None
    right: bool = False
    corrected: frozenset[int] = frozenset()
    known: bool = False
    again: bool = False


@dataclass(frozen=True)
class Fact:
    """What can be asked for: a person, a topic and its value."""

    person: str
    topic: int
    value: str

    @property
    def about(self) -> Topic:
        """The topic, with its phrasings."""
        return PERSON_BASICS[self.topic]

    @property
    def key(self) -> str:
        """Key of the fact, for example `anna.pet`."""
        return f"{self.person.lower()}.{self.about.attribute}"

    def told(self, phrasing: int = 0) -> str:
        """The sentence that tells it."""
        return self.about.tells[phrasing % len(self.about.tells)].format(e=self.person, v=self.value)


@dataclass(frozen=True)
class Corrections(Game[State]):
    """The user tells some facts, asks for all of them, corrects wrong answers, and asks again later.

    Attributes:
        facts: What is asked for; the first ones are told at the start.
        order: The fact that is asked for at each turn.
    """

    facts: tuple[Fact, ...] = ()
    order: tuple[int, ...] = ()

    name: ClassVar[str] = "corrections"
    stated: ClassVar[dict[int, tuple[float, float]]] = {1: (2.55, 8.35), 2: (2.15, 7.8), 3: (1.9, 7.4)}
    values: ClassVar[dict[str, tuple[str, ...]]] = {topic.attribute: VALUES[topic.attribute] for topic in PERSON_BASICS}
    gamma: ClassVar[float] = 0.0

    @classmethod
    def make(cls, *, level: int, split: str, seed: int, index: int, steps: int) -> Self:
        """The scenario that these arguments name; a person's value of a topic belongs to one split only."""
        check_arguments(level, split, steps)
        draws = Draws(seed, cls.name, level, split, index)
        count, _ = FACTS[level]
        slots = [(person, topic) for person in PEOPLE for topic in range(len(PERSON_BASICS))]
        chosen: list[tuple[str, int]] = []
        for slot in draws.shuffled(slots):
            attributes = [topic for _, topic in chosen]
            if slot[1] not in attributes or (level > 1 and attributes.count(slot[1]) < 2 and draws.chance(SHARED)):
                chosen.append(slot)
            if len(chosen) == count:
                break
        facts = tuple(Fact(person, topic, value_in(split, person, topic, draws)) for person, topic in chosen)
        order = tuple(draws.below(count) for _ in range(steps))
        return cls(f"{cls.name}-{split}-level{level}-{steps}-seed{seed}-{index}", steps, level, split, facts, order)

    def opening(self, draws: Draws) -> Interaction:
        """Tells the first facts."""
        told = self.facts[: FACTS[self.level][1]]
        text = " ".join(fact.told(self._phrasing(draws)) for fact in told)
        return Interaction(text, "I see.", facts=tuple((fact.key, fact.value) for fact in told), asks=())

    def start(self) -> State:
        """What the opening told is known."""
        return State(0, frozenset(range(FACTS[self.level][1])))

    def hear(self, state: State, answer: str, draws: Draws) -> State:
        """Compares the answer with the fact that was asked for; a wrong answer is corrected, which tells the fact."""
        place = self.order[state.turn]
        fact = self.facts[place]
        right = named_once(answer, VALUES[fact.about.attribute]) == fact.value
        known, again = place in state.told, place in state.corrected
        corrected = state.corrected if right else state.corrected | {place}
        return State(state.turn + 1, state.told | {place}, place, right, corrected, known, again)

    def ask(self, state: State, draws: Draws) -> Interaction | None:
        """Corrects a wrong answer, and asks for the next fact."""
        if state.turn >= len(self.order):
            return None
        place = self.order[state.turn]
        fact = self.facts[place]
        told, facts = self._verdict(state, draws)
        known = place in state.told - ({state.asked} if facts else set())
        question = fact.about.asks[self._phrasing(draws) % len(fact.about.asks)].format(e=fact.person)
        asks = (fact.key,) if known else None
        return Interaction(f"{told}{question}", facts=facts, asks=asks, kind="known" if known else "new")

    def outcome(self, state: State) -> Score:
        """10 for the right value; the terms part first tries from those after a correction."""
        worth = 10.0 * state.right
        return Score(worth, {"first_try": None if state.again else worth, "after_correction": worth if state.again else None})

    def secret(self, state: State) -> str:
        """The facts."""
        return " ".join(fact.told() for fact in self.facts)

    def random_answer(self, state: State, draws: Draws) -> str:
        """The right value where it was told, else any."""
        fact = self.facts[self.order[state.turn]]
        value = fact.value if self.order[state.turn] in state.told else draws.choice(VALUES[fact.about.attribute])
        return Fact(fact.person, fact.topic, value).told()

    def recall(self, state: State, draws: Draws) -> Interaction | None:
        """Asks for a fact that was told."""
        place = draws.choice(sorted(state.told))
        fact = self.facts[place]
        told, facts = self._verdict(state, draws)
        return Interaction(f"{told}{fact.about.asks[0].format(e=fact.person)}", fact.told(), facts, (fact.key,), kind="recall")

    @classmethod
    def best(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Says what was told last of the person and topic, else guesses."""
        person, topic = asked_for(query)
        known = told_in(said[0][0], person, topic)
        for asked, answer, after in exchanges(query, said):
            known = told_in(asked, person, topic) or known
            if asked_for(asked) == (person, topic) and after.startswith(RIGHT):
                known = named_once(answer, VALUES[PERSON_BASICS[topic].attribute])
        known = told_in(query, person, topic) or known
        attribute = PERSON_BASICS[topic].attribute
        return Fact(person, topic, known or draws.choice(VALUES[attribute])).told()

    @classmethod
    def blind(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Says what the query itself corrects, else guesses."""
        person, topic = asked_for(query)
        known = told_in(query, person, topic)
        return Fact(person, topic, known or draws.choice(VALUES[PERSON_BASICS[topic].attribute])).told()

    def _verdict(self, state: State, draws: Draws) -> tuple[str, tuple[tuple[str, str], ...]]:
        """How the last answer fared, and what that tells."""
        if state.asked is None:
            return "", ()
        fact, phrasing = self.facts[state.asked], self._phrasing(draws)
        if state.right:
            return f"{RIGHT[phrasing]} ", () if state.known else ((fact.key, fact.value),)
        return f"{WRONG[phrasing].format(tell=fact.told())} ", ((fact.key, fact.value),)

    def _phrasing(self, draws: Draws) -> int:
        return 0 if self.level == 1 else draws.below(3)


def value_in(split: str, person: str, topic: int, draws: Draws) -> str:
    """A value that a person may have in a split: each triple of person, topic and value belongs to one split."""
    values = VALUES[PERSON_BASICS[topic].attribute]
    part = {"test": (0, 1), "validation": (2, 3)}.get(split, tuple(range(4, len(values))))
    return values[(PEOPLE.index(person) + 5 * topic + draws.choice(part)) % len(values)]


@lru_cache(maxsize=2**12)
def asked_for(query: str) -> tuple[str, int]:
    """Person and topic of the question at the end of a query.

    Raises:
        ValueError: The query ends with no question of this scenario.
    """
    for topic, each in enumerate(PERSON_BASICS):
        for phrase in each.asks:
            before, after = phrase.split("{e}")
            for person in PEOPLE:
                if query.endswith(f"{before}{person}{after}"):
                    return person, topic
    raise ValueError(f"{query!r} ends with no question of this scenario")


@lru_cache(maxsize=2**14)
def told_in(query: str, person: str, topic: int) -> str | None:
    """The value that a query tells of a person and topic; None where it tells none."""
    each = PERSON_BASICS[topic]
    for value in VALUES[each.attribute]:
        if any(phrase.format(e=person, v=value) in query for phrase in each.tells):
            return value
    return None
