"""Questions: the user has something in mind, says whether it has a property, and wants it named."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

from rxrl.envs.scenarios.game import Game, Said, check_arguments, exchanges, words_of
from rxrl.scoring import HIGHEST
from rxrl.seeding import Draws
from rxrl.types import Interaction

PROPERTIES = ("big", "wild", "furry", "fast")
NAMES = ("ant", "owl", "fox", "cow", "bee", "rat", "cat", "pig", "hen", "bat", "elk", "dog", "fly", "eel", "ape", "yak")
"""Name number n has the property number p where bit p of n is set."""
COUNT = {1: 3, 2: 4, 3: 4}
"""Properties, by level; there are as many things as combinations of them."""
YES = {
    1: ("Yes, it is {word}.",),
    2: ("Yes, it is {word}.", "It is {word}.", "I would call it {word}."),
    3: ("Yes.", "Yes, it is.", "That is so."),
}
NO = {
    1: ("No, it is not {word}.",),
    2: ("No, it is not {word}.", "It is not {word}.", "I would not call it {word}."),
    3: ("No.", "No, it is not.", "That is not so."),
}
"""What the user says of a property, by level; at level 3 what it was asked for is in memory alone."""
WRONG = ("No.", "No, it is another one.", "That is not it.")
FOUND = ("Right. Now something else.", "That is it. I think of another one.", "You found it. Next one.")
BLIND: dict[tuple[str, bool], tuple[str, ...]] = {
    ("wild", True): ("fox.", "cat."),
    ("wild", False): ("big?",),
    ("big", True): ("rat.",),
    ("big", False): ("furry?",),
    ("furry", True): ("bee.",),
    ("furry", False): ("ant.",),
}
"""What a player without memory does best with what was just said at level 1, found by exact policy search over such players."""
FIRST = "owl"
"""What a player without memory names first."""
UNCLEAR = "Ask for one thing or name one."
ASKS = ("What is it?", "What do you say?", "Ask or name it.")


class State(NamedTuple):
    """Where a game stands.

    Attributes:
        turn: Turns heard.
        thing: Number of the thing that the user has in mind.
        asked: Answers that did not name it, since it was thought of.
        said: `yes` or `no` (of the property that is last in `known`), `wrong`, `found` or `unclear`; nothing at the start.
        known: Properties that were asked for, as (property, whether it has it).
        named: Numbers of the things that it is not, since they were named.
        worth: Of the last answer.
    """

    turn: int
    thing: int
    asked: int = 0
    said: str = ""
    known: tuple[tuple[str, bool], ...] = ()
    named: tuple[int, ...] = ()
    worth: float = 0.0


@dataclass(frozen=True)
class Questions(Game[State]):
    """The user has a thing in mind: ask "big?" or name it; the fewer questions, the more the name is worth.

    Attributes:
        thing: Number of the first thing; the others are drawn as the dialogue goes on.
    """

    thing: int = 0

    name: ClassVar[str] = "questions"
    stated: ClassVar[dict[int, tuple[float, float]]] = {1: (1.1, 1.95), 2: (0.4, 1.25), 3: (0.4, 1.25)}
    gamma: ClassVar[float] = 0.9
    critic: ClassVar[str] = "memory"
    curriculum: ClassVar[str] = "scenario_explore"

    @classmethod
    def make(cls, *, level: int, split: str, seed: int, index: int, steps: int) -> Self:
        """The scenario that these arguments name; the splits differ in what is drawn, there are too few things to part them."""
        check_arguments(level, split, steps)
        thing = Draws(seed, cls.name, level, split, index).below(2 ** COUNT[level])
        return cls(f"{cls.name}-{split}-level{level}-{steps}-seed{seed}-{index}", steps, level, split, thing)

    def opening(self, draws: Draws) -> Interaction:
        """Says what may be asked."""
        properties = " or ".join(PROPERTIES[: COUNT[self.level]])
        return Interaction(f"I think of an animal. Ask whether it is {properties}, then name it.", "Good.")

    def start(self) -> State:
        """Nothing was asked."""
        return State(0, self.thing)

    def hear(self, state: State, answer: str, draws: Draws) -> State:
        """Answers a question, or judges a name."""
        count = COUNT[self.level]
        state = state._replace(turn=state.turn + 1, asked=state.asked + 1, worth=0.0)
        said = [word for word in dict.fromkeys(words_of(answer)) if word in PROPERTIES[:count] or word in NAMES[: 2**count]]
        if len(said) != 1:
            return state._replace(said="unclear")
        [word] = said
        if word in PROPERTIES:
            has = has_property(state.thing, word)
            known = (*(each for each in state.known if each[0] != word), (word, has))
            return state._replace(said="yes" if has else "no", known=known)
        thing = NAMES.index(word)
        if thing != state.thing:
            return state._replace(said="wrong", named=(*(each for each in state.named if each != thing), thing))
        return State(state.turn, draws.below(2**count), 0, "found", worth=max(0.0, HIGHEST - state.asked + 1))

    def ask(self, state: State, draws: Draws) -> Interaction | None:
        """Whether it has the property that was asked for, or that a name is wrong."""
        return Interaction(f"{self._verdict(state, draws)}{self._phrase(ASKS, draws)}")

    def outcome(self, state: State) -> float:
        """10 for the name, less a point for each answer before it; 0 for a question and for another name."""
        return state.worth

    def secret(self, state: State) -> str:
        """What it has in mind."""
        properties = (word if has_property(state.thing, word) else f"not {word}" for word in PROPERTIES[: COUNT[self.level]])
        return f"{NAMES[state.thing]} ({', '.join(properties)})"

    def random_answer(self, state: State, draws: Draws) -> str:
        """A question or a name."""
        count = COUNT[self.level]
        return f"{draws.choice(PROPERTIES[:count])}?" if draws.chance(0.6) else f"{draws.choice(NAMES[: 2**count])}."

    def recall(self, state: State, draws: Draws) -> Interaction | None:
        """What was said of a property, which animal it can be by that, or which it must be."""
        verdict, count = self._verdict(state, draws), COUNT[self.level]
        known = dict(state.known)
        able = possible(count, known, state.named)
        if len(able) == 1 and draws.chance(0.5):
            return Interaction(f"{verdict}Which animal must it be?", f"{NAMES[state.thing]}.", kind="recall")
        if len(able) < 2**count and draws.chance(0.5):
            other = [thing for thing in range(2**count) if thing not in able]
            can = draws.chance(0.5)
            name = NAMES[draws.choice(able if can else other)]
            return Interaction(f"{verdict}Can it be the {name}?", "yes." if can else "no.", kind="recall")
        # Mostly of what was said: "not asked yet" alone would teach nothing to remember.
        word = draws.choice(list(known) if known and draws.chance(0.75) else PROPERTIES[:count])
        answer = "not asked yet." if word not in known else "yes." if known[word] else "no."
        return Interaction(f"{verdict}Is it {word}?", answer, kind="recall")

    @classmethod
    def best(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Asks for one property after the other until four things are left, then names one after the other."""
        count = COUNT[level]
        known: dict[str, bool] = {}
        named: list[int] = []
        for _, answer, after in exchanges(query, said):
            words = words_of(answer)
            if after.startswith(FOUND):
                known, named = {}, []
            elif asked := [word for word in words if word in PROPERTIES]:
                known[asked[0]] = after.startswith(_of(YES[level], asked[0]))
            else:
                named += [NAMES.index(word) for word in words if word in NAMES]
        able = possible(count, known, named)
        left = [word for word in PROPERTIES[:count] if word not in known]
        return f"{left[0]}?" if len(able) > 4 else f"{NAMES[able[0]]}."

    @classmethod
    def blind(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Names the same thing first and any other one later; at level 1 it asks so that what is said rules out some things."""
        if not query.startswith(WRONG):
            found = [key for key in BLIND if level == 1 and query.startswith(_of((YES if key[1] else NO)[level], key[0]))]
            return draws.choice(BLIND[found[0]]) if found else f"{FIRST}."
        if level > 1:
            return f"{draws.choice([name for name in NAMES[: 2 ** COUNT[level]] if name != FIRST])}."
        return "wild?" if draws.chance(0.6) else draws.choice(("cow.", "pig."))

    def _verdict(self, state: State, draws: Draws) -> str:
        if not state.said:
            return ""
        if state.said in {"yes", "no"}:
            phrases = _of((YES if state.said == "yes" else NO)[self.level], state.known[-1][0])
        else:
            phrases = {"wrong": WRONG, "found": FOUND, "unclear": (UNCLEAR,)}[state.said]
        return f"{self._phrase(phrases, draws)} "

    def _phrase(self, phrases: tuple[str, ...], draws: Draws) -> str:
        return phrases[0] if self.level == 1 else draws.choice(phrases)


def possible(count: int, known: Mapping[str, bool], named: Collection[int]) -> list[int]:
    """Numbers of the things, among those of `count` properties, that have what is known and were not named in vain."""
    return [
        thing for thing in range(2**count) if thing not in named and all(has_property(thing, word) == has for word, has in known.items())
    ]


def has_property(thing: int, word: str) -> bool:
    """Whether a thing has a property."""
    return bool(thing >> PROPERTIES.index(word) & 1)


def _of(phrases: tuple[str, ...], word: str) -> tuple[str, ...]:
    return tuple(phrase.format(word=word) for phrase in phrases)
