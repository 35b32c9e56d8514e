"""Questions: the user has something in mind, answers yes or no about its properties, and wants it named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

from rxrl.envs.scenarios.game import Game, Said, check_arguments, exchanges, words_of
from rxrl.seeding import Draws
from rxrl.types import Interaction

PROPERTIES = ("big", "wild", "furry", "fast")
NAMES = ("ant", "owl", "fox", "cow", "bee", "rat", "cat", "pig", "hen", "bat", "elk", "dog", "fly", "eel", "ape", "yak")
"""Name number n has the property number p where bit p of n is set."""
COUNT = {1: 3, 2: 4, 3: 4}
"""Properties, by level; there are as many things as combinations of them."""
YES = ("Yes.", "Yes, it is.", "That is so.")
NO = ("No.", "No, it is not.", "That is not so.")
FOUND = ("Right. Now something else.", "That is it. I think of another one.", "You found it. Next one.")
UNCLEAR = "Ask for one thing or name one."
ASKS = ("What is it?", "What do you say?", "Ask or name it.")


class State(NamedTuple):
    """Where a game stands.

    Attributes:
        turn: Turns heard.
        thing: Number of the thing that the user has in mind.
        asked: Answers that did not name it, since it was thought of.
        said: `yes`, `no`, `found` or `unclear`; nothing at the start.
        known: Properties that were asked for, as (property, whether it has it).
        worth: Of the last answer.
    """

    turn: int
    thing: int
    asked: int = 0
    said: str = ""
    known: tuple[tuple[str, bool], ...] = ()
    worth: float = 0.0


@dataclass(frozen=True)
class Questions(Game[State]):
    """The user has a thing in mind: ask "big?" or name it; the fewer questions, the more the name is worth.

    Attributes:
        thing: Number of the first thing; the others are drawn as the dialogue goes on.
    """

    thing: int = 0

    name: ClassVar[str] = "questions"
    stated: ClassVar[dict[int, tuple[float, float]]] = {1: (0.95, 1.7), 2: (0.5, 0.95), 3: (0.5, 0.95)}
    gamma: ClassVar[float] = 0.9

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
        turn, asked = state.turn + 1, state.asked + 1
        said = [word for word in dict.fromkeys(words_of(answer)) if word in PROPERTIES[:count] or word in NAMES[: 2**count]]
        if len(said) != 1:
            return State(turn, state.thing, asked, "unclear", state.known)
        word = said[0]
        if word in PROPERTIES:
            has = has_property(state.thing, word)
            known = (*(each for each in state.known if each[0] != word), (word, has))
            return State(turn, state.thing, asked, "yes" if has else "no", known)
        if word == NAMES[state.thing]:
            return State(turn, draws.below(2**count), 0, "found", (), max(0.0, 10.0 - state.asked))
        return State(turn, state.thing, asked, "no", state.known)

    def ask(self, state: State, draws: Draws) -> Interaction | None:
        """Yes or no, and nothing of what was asked."""
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
        if len(known) == count and draws.chance(0.5):
            return Interaction(f"{verdict}Which animal must it be?", f"{NAMES[state.thing]}.", kind="recall")
        if known and draws.chance(0.5):
            able = [thing for thing in range(2**count) if all(has_property(thing, word) == has for word, has in known.items())]
            other = [thing for thing in range(2**count) if thing not in able]
            possible = draws.chance(0.5)
            thing = draws.choice(able if possible else other)
            return Interaction(f"{verdict}Can it be the {NAMES[thing]}?", "yes." if possible else "no.", kind="recall")
        # Mostly of what was said: "not asked yet" alone would teach nothing to remember.
        word = draws.choice(list(known) if known and draws.chance(0.75) else PROPERTIES[:count])
        answer = "not asked yet." if word not in known else "yes." if known[word] else "no."
        return Interaction(f"{verdict}Is it {word}?", answer, kind="recall")

    @classmethod
    def best(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Asks for one property after the other, then names what has them."""
        count = COUNT[level]
        known: dict[str, bool] = {}
        for _, answer, after in exchanges(query, said):
            if after.startswith(FOUND):
                known = {}
            elif (words := [word for word in words_of(answer) if word in PROPERTIES]) and after.startswith((*YES, *NO)):
                known[words[0]] = after.startswith(YES)
        left = [word for word in PROPERTIES[:count] if word not in known]
        if left:
            return f"{left[0]}?"
        return f"{NAMES[sum(1 << place for place, word in enumerate(PROPERTIES[:count]) if known[word])]}."

    @classmethod
    def blind(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Names anything: a question costs a point, and its answer is about nothing that it remembers."""
        return f"{draws.choice(NAMES[: 2 ** COUNT[level]])}."

    def _verdict(self, state: State, draws: Draws) -> str:
        phrases = {"yes": YES, "no": NO, "found": FOUND}.get(state.said)
        if phrases is None:
            return f"{UNCLEAR} " if state.said else ""
        return f"{self._phrase(phrases, draws)} "

    def _phrase(self, phrases: tuple[str, ...], draws: Draws) -> str:
        return phrases[0] if self.level == 1 else draws.choice(phrases)


def has_property(thing: int, word: str) -> bool:
    """Whether a thing has a property."""
    return bool(thing >> PROPERTIES.index(word) & 1)
