"""Corrections: the user asks for facts, says what is right when an answer is wrong, and asks again; memory must keep the correction.

The facts are those of the generated world. Level 1 has people, as its level 1 has, in few phrasings. Level 2 speaks as its level 2: of a
small cast of people, animals and things, whose facts share attributes. Level 3 has more facts, and takes other words for a value, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import ClassVar, NamedTuple, Self

from rxrl.envs.scenarios.game import Game, Said, check_arguments, exchanges, named_once, words_of
from rxrl.lexicon import ALIASES, ALL_TOPICS, ENTITIES, LONG_ASK, LONG_TELL, PERSON_BASICS, VALUES, Topic
from rxrl.seeding import Draws
from rxrl.types import Interaction, Score

FACTS = {1: (4, 2), 2: (6, 3), 3: (8, 4)}
"""Facts that are asked for, and how many of them are told at the start, by level."""
RIGHT = ("Right.", "Yes, that is so.", "Correct.")
WRONG = ("No, {tell}", "Not so: {tell}", "Wrong. {Tell}")
TOLD = "Remember: {question}"
"""How a question of the supervised start begins: those of the game are answered at random there."""
SHARED = 0.5
"""Share of facts, above level 1, whose attribute somebody else has too."""
CAST = ("person", "person", "animal", "thing")
"""Who and what the facts above level 1 are about."""
_BASICS = tuple(("person", topic) for topic in PERSON_BASICS)
TOPICS: tuple[tuple[str, Topic], ...] = (
    *_BASICS,
    *((kind, topic) for kind, topics in ALL_TOPICS.items() for topic in topics if (kind, topic) not in _BASICS),
)
"""What can be told of whom; level 1 has the first ones."""
_VALUES = {alias: value for value, aliases in ALIASES.items() for alias in aliases}
"""The value that another word stands for."""


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
    """What can be asked for: an entity, a topic (its place in `TOPICS`) and the value."""

    entity: str
    topic: int
    value: str

    @property
    def about(self) -> Topic:
        """The topic, with its phrasings."""
        return TOPICS[self.topic][1]

    @property
    def key(self) -> str:
        """Key of the fact, for example `anna.pet`."""
        return f"{self.entity.removeprefix('the ').lower()}.{self.about.attribute}"

    def question(self, phrasing: int = 0) -> str:
        """A question for it."""
        return self.about.asks[phrasing % len(self.about.asks)].format(e=self.entity)

    def told(self, phrasing: int = 0) -> str:
        """The sentence that tells it."""
        return _upper_first(filled(self.about.tells[phrasing % len(self.about.tells)], self.entity, self.value))


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
    values: ClassVar[dict[str, tuple[str, ...]]] = {topic.attribute: VALUES[topic.attribute] for _, topic in TOPICS}
    gamma: ClassVar[float] = 0.0

    @classmethod
    def make(cls, *, level: int, split: str, seed: int, index: int, steps: int) -> Self:
        """The scenario that these arguments name; the value of a topic of somebody belongs to one split only."""
        check_arguments(level, split, steps)
        draws = Draws(seed, cls.name, level, split, index)
        count, _ = FACTS[level]
        facts = drawn_facts(count, level, split, draws)
        order = tuple(draws.below(count) for _ in range(steps))
        return cls(f"{cls.name}-{split}-level{level}-{steps}-seed{seed}-{index}", steps, level, split, facts, order)

    def opening(self, draws: Draws) -> Interaction:
        """Tells the first facts."""
        told = self.facts[: FACTS[self.level][1]]
        pairs = tuple((fact.key, fact.value) for fact in told)
        text = " ".join(fact.told(self._phrasing(draws)) for fact in told)
        # Of the four facts of level 3, in their longest phrasings, a small model can just read the bare sentences.
        query, answer = draws.choice(LONG_TELL) if self.level == 2 else ("{s}", "I see.")
        return Interaction(query.format(s=text), answer, facts=pairs, asks=())

    def start(self) -> State:
        """What the opening told is known."""
        return State(0, frozenset(range(FACTS[self.level][1])))

    def hear(self, state: State, answer: str, draws: Draws) -> State:
        """Compares the answer with the fact that was asked for; a wrong answer is corrected, which tells the fact."""
        place = self.order[state.turn]
        fact = self.facts[place]
        right = value_named(answer, fact.topic, self.level) == fact.value
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
        question = fact.question(self._phrasing(draws))
        if self.level > 1:
            question = _upper_first(draws.choice(LONG_ASK).format(q=_lower_first(question), Q=question))
        asks, others = (fact.key,) if known else None, ALIASES.get(fact.value, ()) if self.level == 3 else ()
        aliases = {fact.key: others} if known and others else {}
        return Interaction(f"{told}{question}", facts=facts, asks=asks, aliases=aliases, kind="known" if known else "new")

    def outcome(self, state: State) -> Score:
        """10 for the right value; the terms part first tries from those after a correction."""
        worth = 10.0 * state.right
        return Score(worth, {"first_try": None if state.again else worth, "after_correction": worth if state.again else None})

    def secret(self, state: State) -> str:
        """The facts."""
        return " ".join(fact.told() for fact in self.facts)

    def random_answer(self, state: State, draws: Draws) -> str:
        """Any value, told or not: that an answer should be what was told is for the outcome to teach."""
        fact = self.facts[self.order[state.turn]]
        return Fact(fact.entity, fact.topic, draws.choice(VALUES[fact.about.attribute])).told()

    def recall(self, state: State, draws: Draws) -> Interaction | None:
        """Asks for a fact that was told, and says that it was."""
        place = draws.choice(sorted(state.told))
        fact = self.facts[place]
        told, facts = self._verdict(state, draws)
        return Interaction(f"{told}{TOLD.format(question=_lower_first(fact.question()))}", fact.told(), facts, (fact.key,), kind="recall")

    @classmethod
    def best(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Says what was told last of the entity and topic, else guesses."""
        entity, topic = asked_for(query)
        known = told_in(said[0][0], entity, topic)
        for asked, answer, after in exchanges(query, said):
            known = told_in(asked, entity, topic) or known
            if asked_for(asked) == (entity, topic) and after.startswith(RIGHT):
                known = value_named(answer, topic, level)
        known = told_in(query, entity, topic) or known
        return Fact(entity, topic, known or draws.choice(VALUES[TOPICS[topic][1].attribute])).told()

    @classmethod
    def blind(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Says what the query itself corrects, else guesses."""
        entity, topic = asked_for(query)
        known = told_in(query, entity, topic)
        return Fact(entity, topic, known or draws.choice(VALUES[TOPICS[topic][1].attribute])).told()

    def _verdict(self, state: State, draws: Draws) -> tuple[str, tuple[tuple[str, str], ...]]:
        """How the last answer fared, and what that tells."""
        if state.asked is None:
            return "", ()
        fact, phrasing = self.facts[state.asked], self._phrasing(draws)
        if state.right:
            return f"{RIGHT[phrasing]} ", () if state.known else ((fact.key, fact.value),)
        tell = filled(fact.about.tells[0], fact.entity, fact.value)
        return f"{WRONG[phrasing].format(tell=tell, Tell=_upper_first(tell))} ", ((fact.key, fact.value),)

    def _phrasing(self, draws: Draws) -> int:
        return 0 if self.level == 1 else draws.below(3)


def drawn_facts(count: int, level: int, split: str, draws: Draws) -> tuple[Fact, ...]:
    """Facts of a level; the attribute of some, above level 1, is that of another, too."""
    chosen: list[tuple[str, int]] = []
    for slot in draws.shuffled(_slots(level, draws)):
        attributes = [TOPICS[topic][1].attribute for _, topic in chosen]
        shared = attributes.count(TOPICS[slot[1]][1].attribute)
        if not shared or (level > 1 and shared < 2 and draws.chance(SHARED)):
            chosen.append(slot)
        if len(chosen) == count:
            break
    return tuple(Fact(entity, topic, value_in(split, entity, topic, draws)) for entity, topic in chosen)


def filled(phrase: str, entity: str, value: str) -> str:
    """A phrasing of the world with its entity and value."""
    return phrase.format(e=entity, v=value, V=value.capitalize())


def value_named(answer: str, topic: int, level: int) -> str | None:
    """The value of a topic that an answer names; level 3 takes other words for it, too."""
    words = words_of(answer)
    return named_once(" ".join(_VALUES.get(word, word) for word in words) if level == 3 else answer, VALUES[TOPICS[topic][1].attribute])


def value_in(split: str, entity: str, topic: int, draws: Draws) -> str:
    """A value that an entity may have in a split: each triple of entity, topic and value belongs to one split."""
    kind, about = TOPICS[topic]
    values = VALUES[about.attribute]
    part = {"test": (0, 1), "validation": (2, 3)}.get(split, tuple(range(4, len(values))))
    return values[(ENTITIES[kind].index(entity) + 5 * topic + draws.choice(part)) % len(values)]


@lru_cache(maxsize=2**12)
def asked_for(query: str) -> tuple[str, int]:
    """Entity and topic of the question at the end of a query.

    Raises:
        ValueError: The query ends with no question of this scenario.
    """
    said = query.lower()
    starts = [0, *(place + 1 for place, letter in enumerate(said) if letter == " ")]
    found = next((_questions()[said[start:]] for start in reversed(starts) if said[start:] in _questions()), None)
    if found is None:
        raise ValueError(f"{query!r} ends with no question of this scenario")
    return found


@cache
def _questions() -> dict[str, tuple[str, int]]:
    """Entity and topic of every question, in small letters."""
    return {
        phrase.format(e=entity).lower(): (entity, place)
        for place, (kind, topic) in enumerate(TOPICS)
        for entity in ENTITIES[kind]
        for phrase in topic.asks
    }


@lru_cache(maxsize=2**14)
def told_in(query: str, entity: str, topic: int) -> str | None:
    """The value that a query tells of an entity and topic; None where it tells none."""
    about, said = TOPICS[topic][1], query.lower()
    for value in VALUES[about.attribute]:
        if value in said and any(filled(phrase, entity, value).lower() in said for phrase in about.tells):
            return value
    return None


def _slots(level: int, draws: Draws) -> list[tuple[str, int]]:
    """What facts may be about: any basic topic of anybody at level 1, all topics of a small cast above."""
    if level == 1:
        return [(person, place) for person in ENTITIES["person"] for place in range(len(_BASICS))]
    cast: list[tuple[str, str]] = []
    for kind in CAST:
        cast.append((kind, draws.choice([entity for entity in ENTITIES[kind] if (kind, entity) not in cast])))
    return [(entity, place) for kind, entity in cast for place, (own, _) in enumerate(TOPICS) if own == kind]


def _upper_first(text: str) -> str:
    return text[0].upper() + text[1:]


def _lower_first(text: str) -> str:
    return text[0].lower() + text[1:]
