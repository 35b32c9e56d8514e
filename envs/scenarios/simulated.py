"""Simulated: the user is a language model behind a chat endpoint, with a persona, facts of its own and a goal.

The scenario decides what the user tells and asks, and what is right: the outcome depends on the answers alone. The language model puts it
into words. What it says is checked, so that a fact that is to be told is told, and nothing else is given away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, Self

from rxrl.envs.scenarios.game import (
    Game,
    GameDialogue,
    Said,
    check_arguments,
    exchanges,
    named_once,
    sentence_start,
    split_values,
    words_of,
)
from rxrl.envs.scenarios.speaker import Request, Speaker
from rxrl.lexicon import PEOPLE, VALUES
from rxrl.seeding import Draws, derive_seed
from rxrl.types import Interaction, Score, Turn

TELLS = {
    "pet": ("My pet is a {v}.", "I have a {v} as a pet.", "The pet I keep is a {v}."),
    "food": ("My food is {v}.", "The food I like best is {v}.", "As for food, I eat {v}."),
    "drink": ("My drink is {v}.", "The drink I like best is {v}.", "As for a drink, I take {v}."),
    "toy": ("My toy is a {v}.", "The toy I want is a {v}.", "I play with a toy, a {v}."),
    "instrument": ("My instrument is the {v}.", "The instrument I play is the {v}.", "I practise an instrument, the {v}."),
}
"""Plain words for each kind of fact; the first one also tells the language model what to say."""
CHOICES = {kind: VALUES[kind][:8] for kind in TELLS}
KINDS, TOLD, SECRET = {1: 3, 2: 5, 3: 5}, 2, {1: 0, 2: 0, 3: 2}
"""Kinds of facts by level; how many of them are told at the beginning; how many of the last ones are never told, by level."""
NEWS, CHANGES = 0.4, {1: 0.0, 2: 0.25, 3: 0.25}
"""Probability that a turn tells a further fact, and by level that it changes one that was told."""
ASKS = ("What is my {kind}?", "Which {kind} is mine?", "Do you know my {kind}?")
RIGHT, WRONG = ("Right.", "That is right.", "Yes, right."), ("Wrong.", "That is wrong.", "No, wrong.")
CHANGED = "That has changed."
UNSAID = "not said yet."
MANNERS = {
    1: ("plainly",),
    2: ("cheerfully", "politely", "drily", "briskly"),
    3: ("like a sailor", "like a poet", "like a detective", "like a grandparent", "like a sports reporter"),
}
"""How the user speaks, by level."""
HEARD = 3
"""Latest interactions that the language model is shown."""


class Move(NamedTuple):
    """What the user is going to say.

    Attributes:
        right: Whether it calls the last answer right or wrong; None: neither.
        tells: Facts (kind, value) that it tells.
        changed: Kind of the one that was told otherwise before; empty where there is none.
        asks: Kind of the fact that it asks for; empty where it asks for nothing.
    """

    right: bool | None = None
    tells: tuple[tuple[str, str], ...] = ()
    changed: str = ""
    asks: str = ""

    def plain(self, draws: Draws, phrasings: int) -> str:
        """The move in the plain words of the scenario."""
        parts = [] if self.right is None else [(RIGHT if self.right else WRONG)[draws.below(phrasings)]]
        for kind, value in self.tells:
            parts += [CHANGED] if kind == self.changed else []
            parts.append(TELLS[kind][draws.below(phrasings)].format(v=value))
        parts += [ASKS[draws.below(phrasings)].format(kind=self.asks)] if self.asks else []
        return " ".join(parts)

    def wanted(self) -> list[str]:
        """The move as instructions for a language model."""
        parts = [] if self.right is None else [f'Say that the last answer was "{"right" if self.right else "wrong"}".']
        for kind, value in self.tells:
            fact = TELLS[kind][0].format(v=f'"{value}"')
            parts.append(f"Tell that this has changed: {fact}" if kind == self.changed else f"Tell: {fact}")
        parts += [f'Ask what your "{self.asks}" is, without giving the answer, and end with this question.'] if self.asks else []
        return parts

    def amiss(self, text: str) -> str:
        """What words for this move lack or give away; empty where they are as they should be."""
        words = words_of(text)
        named = {word for word in words for values in CHOICES.values() if word in values}
        told = {value for _, value in self.tells}
        if missing := sorted(told - named):
            return f'the word "{missing[0]}" is missing'
        if more := sorted(named - told):
            return f'the word "{more[0]}" must not be said'
        if self.right is not None and (("right" in words) != self.right or ("wrong" in words) == self.right):
            said, unsaid = ("right", "wrong") if self.right else ("wrong", "right")
            return f'it must say "{said}" and not say "{unsaid}"'
        if self.asks and (not text.endswith("?") or named_once(text[sentence_start(text) :], tuple(TELLS)) != self.asks):
            return f'it must end with a question that asks for the "{self.asks}" and for nothing else'
        return ""


class State(NamedTuple):
    """Where a game stands.

    Attributes:
        turn: Turns heard.
        asked: Kind that the last query asked for; empty at the start.
        right: Whether the last answer was right.
        known: Whether what it was asked for had been told.
        heard_of: Kinds whose value was told because of an answer.
    """

    turn: int = 0
    asked: str = ""
    right: bool = False
    known: bool = False
    heard_of: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Simulated(Game[State]):
    """A language model plays the user, who tells of itself, changes its mind, and asks what you know; needs a chat endpoint.

    Attributes:
        facts: The value of each kind at the beginning.
        news: For each turn the fact (kind, value) that its query tells, or None.
        order: The kind that is asked for at each turn.
        persona: Who the user is: a name, and how it speaks.
        speaker: The language model; None speaks in plain words.
    """

    facts: tuple[tuple[str, str], ...] = ()
    news: tuple[tuple[str, str] | None, ...] = field(default=(), repr=False)
    order: tuple[str, ...] = field(default=(), repr=False)
    persona: tuple[str, str] = field(default=("", ""), repr=False)
    speaker: Speaker | None = field(default=None, repr=False)

    name: ClassVar[str] = "simulated"
    asks_outside: ClassVar[bool] = True
    stated: ClassVar[dict[int, tuple[float, float]]] = {1: (1.35, 10.0), 2: (1.45, 10.0), 3: (1.35, 6.6)}
    values: ClassVar[dict[str, tuple[str, ...]]] = CHOICES

    @classmethod
    def configured(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The language model that the options describe.

        Raises:
            ConfigError: No endpoint or model is named, or an option is wrong.
        """
        return {"speaker": Speaker.of(cls.name, options)}

    @classmethod
    def make(cls, *, level: int, split: str, seed: int, index: int, steps: int, speaker: Speaker | None = None) -> Self:
        """The scenario that these arguments name; no combination of facts belongs to two splits."""
        check_arguments(level, split, steps)
        draws = Draws(seed, cls.name, level, split, index)
        kinds = list(TELLS)[: KINDS[level]]
        chosen = split_values(draws, split, [len(CHOICES[kind]) for kind in kinds])
        facts = tuple((kind, CHOICES[kind][at]) for kind, at in zip(kinds, chosen, strict=True))
        persona = (draws.choice(PEOPLE), draws.choice(MANNERS[level]))
        news, order = _course(facts, level, steps, draws)
        identity = f"{cls.name}-{split}-level{level}-{steps}-seed{seed}-{index}"
        return cls(identity, steps, level, split, facts, news, order, persona, speaker)

    def begin(self, seed: int) -> GameDialogue[State]:
        """The game as a dialogue, in the words of the language model where there is one."""
        return GameDialogue(self, seed) if self.speaker is None else SpokenDialogue(self, self.speaker, seed)

    def rehearsed(self) -> Self:
        """The same game in plain words: what is told, asked and right stays the same."""
        return replace(self, speaker=None)

    def opening(self, draws: Draws) -> Interaction:
        """Tells the first facts."""
        move = self.first_move
        return Interaction(move.plain(draws, self._phrasings), "I see.", facts=_pairs(move.tells), asks=())

    def start(self) -> State:
        """Nothing was asked."""
        return State()

    def hear(self, state: State, answer: str, draws: Draws) -> State:
        """Compares the answer with the fact that was asked for."""
        kind = self.order[state.turn]
        right = named_once(answer, CHOICES[kind]) == self.value(kind, state.turn)
        learned = right or kind not in self._secrets
        return State(state.turn + 1, kind, right, kind in self.told(state), state.heard_of | {kind} if learned else state.heard_of)

    def ask(self, state: State, draws: Draws) -> Interaction | None:
        """Reacts to the last answer, tells what is new, and asks for a fact."""
        if state.turn >= len(self.order):
            return None
        move = self.move(state)
        facts = self._facts_of(state, move.tells)
        known = move.asks in self.told(state) - {key.partition(".")[2] for key, _ in facts}
        asks = (_key(move.asks),) if known else None
        return Interaction(move.plain(draws, self._phrasings), facts=facts, asks=asks, kind="known" if known else "new")

    def outcome(self, state: State) -> Score:
        """10 for the right value; the terms part what had been told from what has to be found out."""
        worth = 10.0 * state.right
        return Score(worth, {"told": worth if state.known else None, "found": None if state.known else worth})

    def secret(self, state: State) -> str:
        """Its facts as they are now, those included that it never tells."""
        return ", ".join(f"{kind}: {self.value(kind, state.turn + 1)}" for kind, _ in self.facts)

    def random_answer(self, state: State, draws: Draws) -> str:
        """Any value, told or not: the right one would show the strategy."""
        return f"{draws.choice(CHOICES[self.order[state.turn]])}."

    def recall(self, state: State, draws: Draws) -> Interaction | None:
        """Asks for a fact, told or not."""
        kind = draws.choice(self.facts)[0]
        move = Move(*self._reaction(state))
        answer = f"{self.value(kind, state.turn)}." if kind in self.told(state) else UNSAID
        query = f"{move.plain(draws, self._phrasings)} What did I say my {kind} is?".strip()
        return Interaction(query, answer, self._facts_of(state, move.tells), kind="recall")

    @classmethod
    def best(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Says what was told last, or found right; else tries what was not tried."""
        known: dict[str, str] = {}
        tried: dict[str, set[str]] = {kind: set() for kind in TELLS}
        known.update(_told_in(said[0][0]))
        for asked, answer, after in exchanges(query, said):
            known.update(_told_in(asked))
            kind = kind_asked(asked)
            value = named_once(answer, CHOICES[kind])
            if value is not None and "right" in words_of(after):
                known[kind] = value
            elif value is not None:
                tried[kind].add(value)
        known.update(_told_in(query))
        kind = kind_asked(query)
        return f"{known.get(kind) or draws.choice([value for value in CHOICES[kind] if value not in tried[kind]])}."

    @classmethod
    def blind(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Says what the query itself tells, else guesses."""
        kind = kind_asked(query)
        return f"{_told_in(query).get(kind) or draws.choice(CHOICES[kind])}."

    # What is said

    @property
    def first_move(self) -> Move:
        """What the user says before turn 1."""
        return Move(tells=self.facts[:TOLD])

    def move(self, state: State) -> Move:
        """What the user says next."""
        right, told = self._reaction(state)
        news = self.news[state.turn]
        if news is None:
            return Move(right, told, asks=self.order[state.turn])
        changed = news[0] if news[0] in self.told(state) else ""
        # What has changed since is not said as it was.
        return Move(right, (*(each for each in told if each[0] != news[0]), news), changed, self.order[state.turn])

    def value(self, kind: str, turns: int) -> str:
        """The value of a kind once the queries of so many turns were said."""
        return next((news[1] for news in reversed(self.news[:turns]) if news and news[0] == kind), dict(self.facts)[kind])

    def told(self, state: State) -> frozenset[str]:
        """Kinds whose value was said before the query that follows."""
        return state.heard_of | {kind for kind, _ in self.facts[:TOLD]} | {news[0] for news in self.news[: state.turn] if news}

    def goal(self) -> str:
        """What the user is after, for the language model."""
        secrets = "" if not self._secrets else f" You never tell your {' and your '.join(self._secrets)}: the assistant must find out."
        return f"You want to see whether the assistant remembers what you tell of yourself.{secrets}"

    @property
    def _phrasings(self) -> int:
        return 1 if self.level == 1 else 3

    @property
    def _secrets(self) -> tuple[str, ...]:
        return tuple(kind for kind, _ in self.facts[len(self.facts) - SECRET[self.level] :])

    def _reaction(self, state: State) -> tuple[bool | None, tuple[tuple[str, str], ...]]:
        """What the user says to the last answer: right or wrong, and what is right where it tells that."""
        if not state.asked:
            return None, ()
        corrects = not state.right and state.asked not in self._secrets
        return state.right, ((state.asked, self.value(state.asked, state.turn)),) if corrects else ()

    def _facts_of(self, state: State, told: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Facts that a query tells: those named, and the one that it calls right for the first time."""
        found = state.right and not state.known
        return _pairs(((state.asked, self.value(state.asked, state.turn)), *told) if found else told)


class SpokenDialogue(GameDialogue[State]):
    """A simulated user while it is played, in the words of its language model.

    Args:
        game: What is played.
        speaker: The language model.
        seed: Keys the draws and the requests.
    """

    def __init__(self, game: Simulated, speaker: Speaker, seed: int) -> None:
        super().__init__(game, seed)
        self.simulated, self.speaker = game, speaker

    @property
    def first(self) -> Interaction:
        """The opening."""
        return self._spoken(super().first, self.simulated.first_move, [])

    def say(self, heard: Sequence[Turn]) -> Interaction | None:
        """What the user says after these turns."""
        plain = super().say(heard)
        if plain is None:
            return None
        said = [{"you": turn.query, "assistant": turn.answer} for turn in heard[-HEARD:]]
        return self._spoken(plain, self.simulated.move(self.state([turn.answer for turn in heard])), said, len(heard))

    def _spoken(self, plain: Interaction, move: Move, said: Sequence[Mapping[str, str]], turn: int = -1) -> Interaction:
        name, manner = self.simulated.persona
        seed = derive_seed("user", self.seed, self.simulated.id, turn) % 2**31
        request = Request(f"You are {name}, and you speak {manner}. {self.simulated.goal()}", said, move.wanted(), plain.query, seed)
        return replace(plain, query=self.speaker.words(request, move.amiss))


@lru_cache(maxsize=2**14)
def kind_asked(query: str) -> str:
    """The kind that the last sentence of a query asks for."""
    found = named_once(query[sentence_start(query) :], tuple(TELLS))
    assert found is not None, "every query of the user names one kind in its last sentence"
    return found


def _course(
    facts: Sequence[tuple[str, str]], level: int, steps: int, draws: Draws
) -> tuple[tuple[tuple[str, str] | None, ...], tuple[str, ...]]:
    """For each turn what it tells that is new, and what it asks for: never what it tells itself, nor what was asked last."""
    shown = len(facts) - SECRET[level]
    values, told = dict(facts), [kind for kind, _ in facts[:TOLD]]
    news: list[tuple[str, str] | None] = []
    order: list[str] = []
    for _ in range(steps):
        new = None
        if len(told) < shown and draws.chance(NEWS):
            new = facts[len(told)]
            told.append(new[0])
        elif draws.chance(CHANGES[level]):
            kind = draws.choice(told)
            new = (kind, draws.choice([value for value in CHOICES[kind] if value != values[kind]]))
            values[kind] = new[1]
        asked = [kind for kind in (*told, *(kind for kind, _ in facts[shown:])) if new is None or kind != new[0]]
        order.append(draws.choice([kind for kind in asked if kind not in order[-1:]] or asked))
        news.append(new)
    return tuple(news), tuple(order)


@lru_cache(maxsize=2**14)
def _told_in(query: str) -> Mapping[str, str]:
    """The value of each kind of which a query names exactly one."""
    found = {kind: named_once(query, values) for kind, values in CHOICES.items()}
    return {kind: value for kind, value in found.items() if value is not None}


def _key(kind: str) -> str:
    return f"user.{kind}"


def _pairs(facts: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((_key(kind), value) for kind, value in facts)
