"""Instructions: the user says how to answer from now on, adds rules and takes them back; which are in force is in memory alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

from rxrl.envs.scenarios.game import Game, Said, check_arguments, listed, named_once, words_of
from rxrl.lexicon import VALUES
from rxrl.seeding import Draws
from rxrl.types import Interaction, Score


class Rule(NamedTuple):
    """A way to answer.

    Attributes:
        name: Short name, for terms and recall questions.
        begin: What the user says to set it; several phrasings.
        end: What the user says to take it back.
        kept: Whether the words of an answer follow it.
        apply: An answer that follows it, made of one that does not.
    """

    name: str
    begin: tuple[str, ...]
    end: tuple[str, ...]
    kept: Callable[[list[str]], bool]
    apply: Callable[[str], str]


RULES = (
    Rule(
        "please",
        ("End with please.", "From now on end with please.", "Say please at the end."),
        ("No more please.", "You may leave out please.", "Stop saying please."),
        lambda words: words[-1:] == ["please"],
        lambda text: f"{text} please",
    ),
    Rule(
        "captain",
        ("Call me captain.", "I am the captain now.", "Address me as captain."),
        ("No more captain.", "I am no captain any more.", "Stop calling me captain."),
        lambda words: "captain" in words,
        lambda text: f"{text} captain",
    ),
    Rule(
        "well",
        ("Begin with well.", "From now on begin with well.", "Say well first."),
        ("No more well.", "You may leave out well.", "Stop saying well."),
        lambda words: words[:1] == ["well"],
        lambda text: f"well {text}",
    ),
)
COUNT = {1: 2, 2: 3, 3: 3}
"""Rules, by level."""
KINDS = ("colour", "food", "pet")
ASKS = ("Name a {kind}.", "Tell me a {kind}.", "Which {kind} do you know?")
FORCE = 0.55
"""Probability that a turn sets a rule, or takes one back."""
NONE = "none."


class State(NamedTuple):
    """Where a game stands: turns heard, and for each rule whether the last answer treated it as it stood."""

    turn: int = 0
    kept: tuple[bool, ...] = ()
    named: bool = False


@dataclass(frozen=True)
class Instructions(Game[State]):
    """The user asks for small things, and for answers in a form that changes as the conversation goes on.

    Attributes:
        changes: For each turn the rule (by its place) that changes before it, or -1.
        kinds: For each turn what is asked for.
    """

    changes: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()

    name: ClassVar[str] = "instructions"
    stated: ClassVar[dict[int, tuple[float, float]]] = {1: (6.0, 10.0), 2: (5.65, 10.0), 3: (5.65, 10.0)}

    @classmethod
    def make(cls, *, level: int, split: str, seed: int, index: int, steps: int) -> Self:
        """The scenario that these arguments name; which rules change when parts the splits."""
        check_arguments(level, split, steps)
        draws = Draws(seed, cls.name, level, split, index)
        count = COUNT[level]
        while True:
            changes = tuple(draws.below(count) if draws.chance(FORCE) else -1 for _ in range(steps))
            remainder = sum((turn + 1) * (change + 2) for turn, change in enumerate(changes)) % 4
            if {0: "test", 1: "validation"}.get(remainder, "train") == split or steps < 2:
                break
        kinds = tuple(draws.choice(KINDS) for _ in range(steps))
        return cls(f"{cls.name}-{split}-level{level}-{steps}-seed{seed}-{index}", steps, level, split, changes, kinds)

    def opening(self, draws: Draws) -> Interaction:
        """No rule is in force yet."""
        return Interaction("I will ask you some small things.", "Good.")

    def start(self) -> State:
        """Nothing was asked."""
        return State()

    def hear(self, state: State, answer: str, draws: Draws) -> State:
        """Compares the form of the answer with the rules in force."""
        words = words_of(answer)
        kept = tuple(rule.kept(words) == holds for rule, holds in zip(RULES, self.in_force(state.turn), strict=False))
        return State(state.turn + 1, kept, named_once(answer, VALUES[self.kinds[state.turn]]) is not None)

    def ask(self, state: State, draws: Draws) -> Interaction | None:
        """Changes a rule, where one changes, and asks for something."""
        if state.turn >= len(self.kinds):
            return None
        asked = self._phrase(ASKS, draws).format(kind=self.kinds[state.turn])
        return Interaction(f"{self._change(state.turn, draws)}{asked}", kind="change" if self.changes[state.turn] >= 0 else "as before")

    def outcome(self, state: State) -> Score:
        """The share of the rules that the answer treats as they stand, squared, times 10; 0 where it does not name what is asked for."""
        terms = {rule.name: 10.0 * kept for rule, kept in zip(RULES, state.kept, strict=False)}
        share = sum(state.kept) / len(state.kept)
        return Score(10.0 * share**2 * state.named, {**terms, "named": 10.0 * state.named})

    def secret(self, state: State) -> str:
        """The rules in force, with the one that is set next."""
        holds = [rule.name for rule, holds in zip(RULES, self.in_force(state.turn), strict=False) if holds]
        return f"rules in force: {listed(holds) if holds else 'none'}"

    def random_answer(self, state: State, draws: Draws) -> str:
        """Any of the things, in any form."""
        return formed(draws.choice(VALUES[self.kinds[state.turn]]), tuple(draws.chance(0.5) for _ in range(COUNT[self.level])))

    def recall(self, state: State, draws: Draws) -> Interaction | None:
        """Which rules are in force."""
        if state.turn >= len(self.kinds):
            return None
        names = [rule.name for rule, holds in zip(RULES, self.in_force(state.turn - 1), strict=False) if holds]
        return Interaction("Which rules hold?", f"{' and '.join(names)}." if names else NONE, kind="recall")

    @classmethod
    def best(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Follows the rules in force."""
        holds = [False] * COUNT[level]
        for asked in [*(asked for asked, _ in said[1:]), query]:
            for place, rule in enumerate(RULES[: COUNT[level]]):
                if asked.startswith(rule.begin):
                    holds[place] = True
                elif asked.startswith(rule.end):
                    holds[place] = False
        return formed(draws.choice(VALUES[kind_in(query)]), tuple(holds))

    @classmethod
    def blind(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Follows the rule that the query sets; of the others it knows nothing, and most begin out of force."""
        holds = tuple(query.startswith(rule.begin) for rule in RULES[: COUNT[level]])
        return formed(draws.choice(VALUES[kind_in(query)]), holds)

    def in_force(self, turn: int) -> tuple[bool, ...]:
        """For each rule of the level whether it is in force at a turn (from 0): each change turns it over."""
        return tuple(self.changes[: turn + 1].count(place) % 2 == 1 for place in range(COUNT[self.level]))

    def _change(self, turn: int, draws: Draws) -> str:
        place = self.changes[turn]
        if place < 0:
            return ""
        rule = RULES[place]
        return f"{self._phrase(rule.begin if self.in_force(turn)[place] else rule.end, draws)} "

    def _phrase(self, phrases: tuple[str, ...], draws: Draws) -> str:
        return phrases[0] if self.level == 1 else draws.choice(phrases)


def formed(value: str, holds: tuple[bool, ...]) -> str:
    """An answer that names a value in the form that the rules ask for."""
    text = value
    for rule, held in sorted(zip(RULES, holds, strict=False), key=lambda pair: pair[0].name):
        text = rule.apply(text) if held else text
    return f"{text}."


def kind_in(query: str) -> str:
    """What a query asks for."""
    return next(kind for kind in KINDS if kind in words_of(query))
