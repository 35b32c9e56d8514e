"""Choices: a bandit in words. The user says what the last choice paid, but not which it was: only memory knows that."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

from rxrl.envs.scenarios.game import Game, Said, check_arguments, exchanges, listed, named_once
from rxrl.seeding import Draws
from rxrl.types import Interaction

OPTIONS = ("red", "blue", "green", "white", "black", "pink", "brown", "grey")
COUNT = {1: 4, 2: 8, 3: 8}
"""Options, by level."""
PAYS = {4: (10, 5, 2, 0), 8: (10, 7, 5, 4, 3, 2, 1, 0)}
"""What the options pay, in some order; which pays what is hidden."""
CHANGE_EVERY = 8
"""Turns after which level 3 deals the pay-offs anew."""
PAID = ("It paid {pay}.", "You got {pay}.", "That gave you {pay}.")
UNCLEAR = "That is none of them."
ASKS = ("Which one?", "Which one do you take?", "Choose one.")
CHANGED = "The pay-offs have changed."
_PAID = re.compile("|".join(phrase.replace("{pay}", "([0-9]+)") for phrase in PAID))


class State(NamedTuple):
    """Where a game stands: what was chosen last and what it paid, and the last pay-off of each option."""

    turn: int = 0
    last: str | None = None
    paid: int = 0
    known: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Choices(Game[State]):
    """The user offers options, pays for the one that is chosen, and offers them again.

    Attributes:
        pays: What each option pays; level 3 deals anew every few turns and says so.
        seed: Keys the later deals.
    """

    pays: tuple[tuple[str, int], ...] = ()

    name: ClassVar[str] = "choices"
    stated: ClassVar[dict[int, tuple[float, float]]] = {1: (6.5, 8.9), 2: (5.65, 7.4), 3: (5.3, 6.4)}
    gamma: ClassVar[float] = 0.8

    @classmethod
    def make(cls, *, level: int, split: str, seed: int, index: int, steps: int) -> Self:
        """The scenario that these arguments name; four options have too few deals to part the splits."""
        check_arguments(level, split, steps)
        options = OPTIONS[: COUNT[level]]
        draws = Draws(seed, cls.name, level, split, index)
        while True:
            order = draws.shuffled(options)
            if len(options) == COUNT[1] or part_of(order) == split:
                break
        pays = tuple(sorted(zip(order, PAYS[len(options)], strict=True)))
        return cls(f"{cls.name}-{split}-level{level}-{steps}-seed{seed}-{index}", steps, level, split, pays)

    def opening(self, draws: Draws) -> Interaction:
        """Offers the options."""
        return Interaction(f"Choose {listed(OPTIONS[: COUNT[self.level]], 'or')} at every turn. One pays best.", "I will choose.")

    def start(self) -> State:
        """Nothing was chosen."""
        return State()

    def hear(self, state: State, answer: str, draws: Draws) -> State:
        """Pays for the option that was chosen."""
        options = OPTIONS[: COUNT[self.level]]
        chosen = named_once(answer, options)
        paid = self._pays(state.turn).get(chosen or "", 0)
        known = () if self._changes(state.turn) else tuple(each for each in state.known if each[0] != chosen)
        return State(state.turn + 1, chosen, paid, known if chosen is None else (*known, (chosen, paid)))

    def ask(self, state: State, draws: Draws) -> Interaction | None:
        """Says what the last choice paid."""
        changed = f"{CHANGED} " if self._changes(state.turn) else ""
        return Interaction(f"{self._verdict(state, draws)}{changed}{self._phrase(ASKS, draws)}")

    def outcome(self, state: State) -> float:
        """What the option paid."""
        return float(state.paid)

    def secret(self, state: State) -> str:
        """What each option pays."""
        return ", ".join(f"{option} pays {pay}" for option, pay in self._pays(state.turn).items())

    def random_answer(self, state: State, draws: Draws) -> str:
        """Any option."""
        return f"{draws.choice(OPTIONS[: COUNT[self.level]])}."

    def recall(self, state: State, draws: Draws) -> Interaction | None:
        """What an option paid, or which has paid best, as far as that was said."""
        if state.known and draws.chance(0.5):
            best = max(state.known, key=lambda each: each[1])[0]
            return Interaction(f"{self._verdict(state, draws)}Which one has paid best?", f"{best}.", kind="recall")
        option = draws.choice(OPTIONS[: COUNT[self.level]])
        pay = dict(state.known).get(option)
        answer = "not tried yet." if pay is None else f"{pay}."
        return Interaction(f"{self._verdict(state, draws)}What did {option} pay?", answer, kind="recall")

    @classmethod
    def best(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Tries what was not tried until nothing better can be left, then repeats the best."""
        options = OPTIONS[: COUNT[level]]
        paid: dict[str, int] = {}
        for _, answer, after in exchanges(query, said):
            pay, option = payment(after), named_once(answer, options)
            if pay is not None and option is not None:
                paid[option] = pay
            if CHANGED in after:
                paid = {}
        left = [pay for pay in PAYS[len(options)] if pay not in paid.values()]
        best = max(paid, key=lambda option: paid[option], default=None)
        # Trying costs the difference now and may win it at every later turn.
        worth_trying = best is None or sum(max(pay, paid[best]) for pay in left) * 4 > paid[best] * len(left) * 4.6
        if worth_trying and left:
            return f"{draws.choice([option for option in options if option not in paid])}."
        return f"{best}."

    @classmethod
    def blind(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Answers what was paid with a fixed option: the assignment that earns most on average over all deals."""
        return f"{OPTIONS[BLIND[COUNT[level]][payment(query)]]}."

    def _verdict(self, state: State, draws: Draws) -> str:
        if not state.turn:
            return ""
        if state.last is None:
            return f"{UNCLEAR} "
        return f"{self._phrase(PAID, draws).format(pay=state.paid)} "

    def _phrase(self, phrases: tuple[str, ...], draws: Draws) -> str:
        return phrases[0] if self.level == 1 else draws.choice(phrases)

    def _changes(self, turn: int) -> bool:
        return self.level == 3 and turn > 0 and turn % CHANGE_EVERY == 0

    def _pays(self, turn: int) -> dict[str, int]:
        deal = turn // CHANGE_EVERY if self.level == 3 else 0
        if not deal:
            return dict(self.pays)
        order = Draws(self.id, "deal", deal).shuffled(option for option, _ in self.pays)
        return dict(zip(order, PAYS[len(order)], strict=True))


BLIND: dict[int, dict[int | None, int]] = {
    4: {None: 0, 10: 0, 5: 1, 2: 2, 0: 3},
    8: {None: 3, 10: 3, 7: 3, 5: 5, 4: 7, 3: 6, 2: 0, 1: 4, 0: 2},
}
"""What a player without memory answers to each pay-off (None: to none), by the number of options; found by trying all, or many."""


def part_of(order: Sequence[str]) -> str:
    """The split of a deal: a tenth of all deals each for test and validation."""
    return {0: "test", 1: "validation"}.get(zlib.crc32(" ".join(order).encode()) % 10, "train")


def payment(query: str) -> int | None:
    """The pay-off that a query speaks of; None where it speaks of none."""
    found = _PAID.match(query)
    return int(next(group for group in found.groups() if group)) if found else None
