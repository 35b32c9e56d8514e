"""Preferences: the user wants one value of each kind, asks for them again and again, and says how the last answer fared."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar, NamedTuple, Self

from rxrl.envs.scenarios.game import Game, Said, check_arguments, exchanges, listed, named_once, sentence_start, split_values
from rxrl.seeding import Draws
from rxrl.types import Interaction

KINDS = {
    "pet": ("cat", "dog", "fish", "bird", "frog", "mouse", "horse", "duck"),
    "colour": ("red", "blue", "green", "pink", "black", "white", "brown", "grey"),
    "food": ("rice", "bread", "soup", "cheese", "cake", "corn", "jam", "beans"),
    "toy": ("ball", "kite", "doll", "drum", "train", "robot", "boat", "swing"),
    "drink": ("milk", "water", "tea", "coffee", "juice", "cocoa", "soda", "cider"),
}
SIZES = {1: (3, 4), 2: (3, 8), 3: (4, 8)}
"""Kinds and values of each kind, by level."""
ASKS = ("Which {kind} do I want?", "What {kind} would I like?", "Tell me the {kind} that I want.")
RIGHT = ("{value} is right.", "Yes, {value} it is.", "{value}, just so.")
WRONG = ("{value} is wrong.", "No, not {value}.", "I do not want {value}.")
_RIGHT = re.compile("|".join(phrase.replace("{value}", "[a-z]+") for phrase in RIGHT))
UNCLEAR = "That is no {kind}."
NONE_YET = "none yet."
MOSTLY = 0.75
"""Share of recall questions about something that was said."""


class State(NamedTuple):
    """Where a game stands: the turn, what was answered last to which kind, which kinds were found, and which values were wrong."""

    turn: int = 0
    last: str | None = None
    kind: str = ""
    found: frozenset[str] = frozenset()
    wrong: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Preferences(Game[State]):
    """The user wants a pet, a colour, a food: says which answer was right or wrong, and asks again.

    Attributes:
        wanted: The right value of each kind.
        order: The kind that is asked for at each turn.
    """

    wanted: tuple[tuple[str, str], ...] = ()
    order: tuple[str, ...] = field(default=(), repr=False)

    name: ClassVar[str] = "preferences"
    stated: ClassVar[dict[int, tuple[float, float]]] = {1: (3.65, 6.3), 2: (1.9, 3.4), 3: (1.75, 2.8)}

    @classmethod
    def make(cls, *, level: int, split: str, seed: int, index: int, steps: int) -> Self:
        """The scenario that these arguments name."""
        check_arguments(level, split, steps)
        kinds, values = SIZES[level]
        draws = Draws(seed, cls.name, level, split, index)
        chosen = split_values(draws, split, [values] * kinds)
        wanted = tuple((kind, KINDS[kind][at]) for kind, at in zip(KINDS, chosen, strict=False))
        order = tuple(wanted[draws.below(kinds)][0] for _ in range(steps))
        return cls(f"{cls.name}-{split}-level{level}-{steps}-seed{seed}-{index}", steps, level, split, wanted, order)

    def opening(self, draws: Draws) -> Interaction:
        """Names the kinds and nothing of what is hidden."""
        return Interaction(f"Help me to choose a {listed([kind for kind, _ in self.wanted])}.", "Gladly.")

    def start(self) -> State:
        """Nothing was answered."""
        return State()

    def hear(self, state: State, answer: str, draws: Draws) -> State:
        """Takes note of the value that was named."""
        kind = self.order[state.turn]
        value = named_once(answer, self._values(kind))
        right = value == dict(self.wanted)[kind]
        found = state.found | {kind} if right else state.found
        wrong = state.wrong if right or value is None else state.wrong | {value}
        return State(state.turn + 1, value, kind, found, wrong)

    def ask(self, state: State, draws: Draws) -> Interaction | None:
        """Says how the last answer fared, and asks for the next kind."""
        if state.turn >= len(self.order):
            return None
        kind = self.order[state.turn]
        return Interaction(f"{self._verdict(state, draws)}{self._phrase(ASKS, draws).format(kind=kind)}", kind=kind)

    def outcome(self, state: State) -> float:
        """10 for the right value."""
        return 10.0 * (state.last == dict(self.wanted)[state.kind])

    def secret(self, state: State) -> str:
        """The value that it wants of each kind."""
        return ", ".join(f"{kind}: {value}" for kind, value in self.wanted)

    def random_answer(self, state: State, draws: Draws) -> str:
        """Any value of the kind."""
        return f"{draws.choice(self._values(self.order[state.turn]))}."

    def recall(self, state: State, draws: Draws) -> Interaction | None:
        """Which value of a kind was right, or which were wrong, as far as that was said."""
        about_right = draws.chance(0.5)
        known = self._known(state, about_right)
        told = [kind for kind, values in known.items() if values]
        # Mostly of what was said: "none yet" alone would teach nothing to remember.
        kind = draws.choice(told) if told and draws.chance(MOSTLY) else draws.choice(list(known))
        asked = f"Which {kind} is {'right' if about_right else 'wrong'}?"
        return Interaction(f"{self._verdict(state, draws)}{asked}", f"{listed(known[kind])}." if known[kind] else NONE_YET, kind="recall")

    @classmethod
    def best(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Repeats what was right, else tries what was not tried."""
        kind, values = kind_asked(query), values_at(level)
        tried: dict[str, bool] = {}
        for asked, answer, after in exchanges(query, said):
            if kind_asked(asked) == kind and (value := named_once(answer, values[kind])) is not None:
                tried[value] = was_right(after)
        right = [value for value, fared in tried.items() if fared]
        return f"{right[0] if right else draws.choice([value for value in values[kind] if value not in tried])}."

    @classmethod
    def blind(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Repeats what the query says was right, avoids what it says was wrong."""
        values = values_at(level)[kind_asked(query)]
        named = named_once(query[: sentence_start(query)], values)
        if named is not None and was_right(query):
            return f"{named}."
        return f"{draws.choice([value for value in values if value != named])}."

    def _known(self, state: State, right: bool) -> dict[str, list[str]]:
        """By kind the values that were said to be right, or wrong."""
        if right:
            return {kind: [value] * (kind in state.found) for kind, value in self.wanted}
        return {kind: [value for value in self._values(kind) if value in state.wrong] for kind, _ in self.wanted}

    def _verdict(self, state: State, draws: Draws) -> str:
        if not state.kind:
            return ""
        if state.last is None:
            return f"{UNCLEAR.format(kind=state.kind)} "
        right = state.last == dict(self.wanted)[state.kind]
        return f"{self._phrase(RIGHT if right else WRONG, draws).format(value=state.last)} "

    def _phrase(self, phrases: tuple[str, ...], draws: Draws) -> str:
        return phrases[0] if self.level == 1 else draws.choice(phrases)

    def _values(self, kind: str) -> tuple[str, ...]:
        return values_at(self.level)[kind]


@cache
def values_at(level: int) -> dict[str, tuple[str, ...]]:
    """Values of each kind of a level."""
    kinds, values = SIZES[level]
    return {kind: KINDS[kind][:values] for kind in list(KINDS)[:kinds]}


def kind_asked(query: str) -> str:
    """The kind that the last sentence of a query asks for."""
    found = named_once(query[sentence_start(query) :], tuple(KINDS))
    assert found is not None, "every query of the user names one kind at its end"
    return found


def was_right(query: str) -> bool:
    """Whether a query begins by saying that the last answer was right."""
    return bool(_RIGHT.match(query))
