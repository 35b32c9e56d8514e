"""Guess: the user thinks of a number and says only whether it is higher or lower; the bounds are in memory alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

from rxrl.envs.scenarios.game import Game, Said, check_arguments, exchanges, words_of
from rxrl.seeding import Draws
from rxrl.types import Interaction

LARGEST = {1: 16, 2: 32, 3: 64}
"""Largest number, by level; the smallest is 1."""
HIGHER = ("It is higher.", "My number is higher.", "Higher than that.")
LOWER = ("It is lower.", "My number is lower.", "Lower than that.")
FOUND = ("That is it. I think of another number.", "Right. Here is another one.", "You found it. I have a new number.")
UNCLEAR = "That is no number from 1 to {largest}."
ASKS = ("Which number?", "Which number is it?", "What is your guess?")
CLOSE = 4.0
"""Most that a guess earns which is not right: one that halves what is left."""


class State(NamedTuple):
    """Where a game stands: what is left of the numbers, and how the last guess fared.

    Attributes:
        turn: Turns heard.
        number: The number that the user thinks of.
        low: Smallest number that is possible by what was said.
        high: Largest one.
        fared: `higher`, `lower`, `found`, `unclear`, or nothing at the start.
        worth: Of the last guess.
    """

    turn: int
    number: int
    low: int
    high: int
    fared: str = ""
    worth: float = 0.0


@dataclass(frozen=True)
class Guess(Game[State]):
    """The user thinks of a number, says higher or lower, and thinks of another one when it is found.

    Attributes:
        number: The first number; the others are drawn as the dialogue goes on.
    """

    number: int = 1

    name: ClassVar[str] = "guess"
    stated: ClassVar[dict[int, tuple[float, float]]] = {1: (2.2, 5.5), 2: (1.6, 5.1), 3: (1.35, 4.9)}
    gamma: ClassVar[float] = 0.9

    @classmethod
    def make(cls, *, level: int, split: str, seed: int, index: int, steps: int) -> Self:
        """The scenario that these arguments name; the splits differ in what is drawn, there are too few numbers to part them."""
        check_arguments(level, split, steps)
        number = 1 + Draws(seed, cls.name, level, split, index).below(LARGEST[level])
        return cls(f"{cls.name}-{split}-level{level}-{steps}-seed{seed}-{index}", steps, level, split, number)

    def opening(self, draws: Draws) -> Interaction:
        """Says what is to be guessed."""
        return Interaction(f"I think of a number from 1 to {LARGEST[self.level]}.", "I will guess it.")

    def start(self) -> State:
        """Every number is possible."""
        return State(0, self.number, 1, LARGEST[self.level])

    def hear(self, state: State, answer: str, draws: Draws) -> State:
        """Narrows the bounds."""
        turn, guess = state.turn + 1, number_in(answer, LARGEST[self.level])
        if guess is None:
            return state._replace(turn=turn, fared="unclear", worth=0.0)
        if guess == state.number:
            return State(turn, 1 + draws.below(LARGEST[self.level]), 1, LARGEST[self.level], "found", 10.0)
        worth = halving(state.low, state.high, guess) * CLOSE
        if guess < state.number:
            return state._replace(turn=turn, low=max(state.low, guess + 1), fared="higher", worth=worth)
        return state._replace(turn=turn, high=min(state.high, guess - 1), fared="lower", worth=worth)

    def ask(self, state: State, draws: Draws) -> Interaction | None:
        """Says how the last guess fared."""
        return Interaction(f"{self._verdict(state, draws)}{self._phrase(ASKS, draws)}")

    def outcome(self, state: State) -> float:
        """10 for a hit, at most 4 for a guess that halves what is left, 0 for one that was ruled out."""
        return state.worth

    def secret(self, state: State) -> str:
        """The number that it thinks of."""
        return f"the number is {state.number}"

    def random_answer(self, state: State, draws: Draws) -> str:
        """Any number."""
        return f"{1 + draws.below(LARGEST[self.level])}."

    def recall(self, state: State, draws: Draws) -> Interaction | None:
        """The bounds, as far as they were said."""
        low = draws.chance(0.5)
        wording = "smallest" if low else "largest"
        answer = state.low if low else state.high
        return Interaction(f"{self._verdict(state, draws)}What is the {wording} number that it can be?", f"{answer}.", kind="recall")

    @classmethod
    def best(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Halves what is left."""
        low, high = 1, LARGEST[level]
        for _, answer, after in exchanges(query, said):
            guess = number_in(answer, LARGEST[level])
            if after.startswith(FOUND):
                low, high = 1, LARGEST[level]
            elif guess is not None and after.startswith(HIGHER):
                low = max(low, guess + 1)
            elif guess is not None and after.startswith(LOWER):
                high = min(high, guess - 1)
        return f"{(low + high) // 2}."

    @classmethod
    def blind(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Guesses high where the query says higher, low where it says lower, in the middle where a number is new."""
        largest = LARGEST[level]
        quarter = largest // 4
        if query.startswith(HIGHER):
            return f"{largest // 2 + 1 + draws.below(2 * quarter)}."
        if query.startswith(LOWER):
            return f"{1 + draws.below(2 * quarter - 1)}."
        return f"{largest // 2}."

    def _verdict(self, state: State, draws: Draws) -> str:
        phrases = {"higher": HIGHER, "lower": LOWER, "found": FOUND}.get(state.fared)
        if phrases is None:
            return f"{UNCLEAR.format(largest=LARGEST[self.level])} " if state.fared else ""
        return f"{self._phrase(phrases, draws)} "

    def _phrase(self, phrases: tuple[str, ...], draws: Draws) -> str:
        return phrases[0] if self.level == 1 else draws.choice(phrases)


def number_in(answer: str, largest: int) -> int | None:
    """The one number from 1 to `largest` that an answer names; None where there is none, or several."""
    found = {int(word) for word in words_of(answer) if word.isdecimal() and len(word) <= 3}
    number = found.pop() if len(found) == 1 else 0
    return number if 1 <= number <= largest else None


def halving(low: int, high: int, guess: int) -> float:
    """How evenly a guess parts what is left, from 0 (ruled out, or the end of a longer range) to 1 (in the middle)."""
    if not low <= guess <= high:
        return 0.0
    ideal = (high - low) // 2
    return 1.0 if ideal == 0 else min(guess - low, high - guess) / ideal
