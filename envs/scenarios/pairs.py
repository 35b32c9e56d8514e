"""Pairs: the user turns over two cards at a time and says what they show; where each card lies is in memory alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

from rxrl.envs.scenarios.game import Game, Said, check_arguments, listed, words_of
from rxrl.seeding import Draws
from rxrl.types import Interaction

CARDS = ("red", "blue", "green", "white", "black", "pink", "brown", "grey", "gold", "beige")
PICTURES = ("sun", "moon", "star", "tree", "fish")
COUNT = {1: 6, 2: 8, 3: 10}
"""Cards, by level: twice as many as pictures."""
SHOWS = ("{first} shows a {one}, {second} shows a {other}.", "{first} is a {one}, {second} is a {other}.")
PAIR = "That is a pair."
AGAIN = "All are found, the cards are dealt anew."
UNCLEAR = "Name two cards that are left."
ASKS = ("Which two cards?", "Which two do you turn over?", "Name two cards.")
_SHOWN = re.compile(r"^([a-z]+) (?:shows|is) a ([a-z]+), ([a-z]+) (?:shows|is) a ([a-z]+)\.")


class State(NamedTuple):
    """Where a game stands.

    Attributes:
        turn: Turns heard.
        deal: How often the cards were dealt.
        left: Cards that are not found yet.
        shown: What the last two cards showed, as (card, picture).
        found: Whether they were a pair.
        seen: Cards that were turned over in this deal, with their pictures.
    """

    turn: int
    deal: int
    left: tuple[str, ...]
    shown: tuple[tuple[str, str], ...] = ()
    found: bool = False
    seen: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Pairs(Game[State]):
    """Turn over two cards a turn and find those that show the same.

    Attributes:
        pictures: What each card shows in the first deal.
    """

    pictures: tuple[tuple[str, str], ...] = ()

    name: ClassVar[str] = "pairs"
    stated: ClassVar[dict[int, tuple[float, float]]] = {1: (1.6, 5.15), 2: (1.3, 4.7), 3: (1.15, 4.4)}
    gamma: ClassVar[float] = 0.8

    @classmethod
    def make(cls, *, level: int, split: str, seed: int, index: int, steps: int) -> Self:
        """The scenario that these arguments name; which cards are a pair with the first one parts the splits."""
        check_arguments(level, split, steps)
        draws = Draws(seed, cls.name, level, split, index)
        cards = CARDS[: COUNT[level]]
        while True:
            pictures = dealt(cards, draws)
            if part_of(pictures, cards) == split:
                break
        name = f"{cls.name}-{split}-level{level}-{steps}-seed{seed}-{index}"
        return cls(name, steps, level, split, tuple(pictures.items()))

    def opening(self, draws: Draws) -> Interaction:
        """Names the cards."""
        return Interaction(f"Find the pairs. The cards are {listed(CARDS[: COUNT[self.level]])}.", "I will find them.")

    def start(self) -> State:
        """All cards lie face down."""
        return State(0, 0, CARDS[: COUNT[self.level]])

    def hear(self, state: State, answer: str, draws: Draws) -> State:
        """Turns two cards over."""
        named = cards_in(answer, state.left)
        if named is None:
            return state._replace(turn=state.turn + 1, shown=(), found=False)
        lie = self._pictures(state.deal)
        shown = tuple((card, lie[card]) for card in named)
        seen = (*(each for each in state.seen if each[0] not in named), *shown)
        found = shown[0][1] == shown[1][1]
        left = tuple(card for card in state.left if card not in named) if found else state.left
        if left:
            return State(state.turn + 1, state.deal, left, shown, found, seen)
        return State(state.turn + 1, state.deal + 1, CARDS[: COUNT[self.level]], shown, found)

    def ask(self, state: State, draws: Draws) -> Interaction | None:
        """Says what the last two cards showed."""
        return Interaction(f"{self._verdict(state, draws)}{self._phrase(ASKS, draws)}")

    def outcome(self, state: State) -> float:
        """10 for a pair."""
        return 10.0 * state.found

    def secret(self, state: State) -> str:
        """What each card shows that is left."""
        lie = self._pictures(state.deal)
        return ", ".join(f"{card}: {lie[card]}" for card in state.left)

    def random_answer(self, state: State, draws: Draws) -> str:
        """Any two cards that are left."""
        first, second = draws.shuffled(state.left)[:2]
        return f"{first} and {second}."

    def recall(self, state: State, draws: Draws) -> Interaction | None:
        """What a card shows, or where a picture lies, as far as it was turned over."""
        verdict = self._verdict(state, draws)
        if state.seen and draws.chance(0.4):
            card, picture = draws.choice(state.seen)
            others = [other for other, seen in state.seen if seen == picture and other != card]
            return Interaction(f"{verdict}Which card shows the same as {card}?", f"{others[0]}." if others else "none yet.", kind="recall")
        card = draws.choice(CARDS[: COUNT[self.level]])
        seen = dict(state.seen).get(card)
        return Interaction(f"{verdict}What does {card} show?", f"a {seen}." if seen else "not seen yet.", kind="recall")

    @classmethod
    def best(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Takes a pair that it knows, else two cards that it has not seen."""
        seen: dict[str, str] = {}
        left = list(CARDS[: COUNT[level]])
        for asked in [*(asked for asked, _ in said[2:]), query]:
            shown = _SHOWN.match(asked)
            if shown is not None:
                seen |= {shown[1]: shown[2], shown[3]: shown[4]}
                if PAIR in asked:
                    left = [card for card in left if card not in (shown[1], shown[3])]
            if AGAIN in asked:
                seen, left = {}, list(CARDS[: COUNT[level]])
        known = [card for card in left if card in seen]
        for card in known:
            if twin := [other for other in known if other != card and seen[other] == seen[card]]:
                return f"{card} and {twin[0]}."
        fresh = draws.shuffled(card for card in left if card not in seen)
        first, second = [*fresh, *draws.shuffled(known)][:2]
        return f"{first} and {second}."

    @classmethod
    def blind(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Avoids the two cards that the query names."""
        shown = _SHOWN.match(query)
        named = () if shown is None or AGAIN in query else (shown[1], shown[3])
        first, second = draws.shuffled(card for card in CARDS[: COUNT[level]] if card not in named)[:2]
        return f"{first} and {second}."

    def _verdict(self, state: State, draws: Draws) -> str:
        if not state.turn:
            return ""
        if not state.shown:
            return f"{UNCLEAR} "
        (first, one), (second, other) = state.shown
        said = f"{self._phrase(SHOWS, draws).format(first=first, one=one, second=second, other=other)} "
        again = state.found and not state.seen
        return f"{said}{f'{PAIR} ' if state.found else ''}{f'{AGAIN} ' if again else ''}"

    def _phrase(self, phrases: tuple[str, ...], draws: Draws) -> str:
        return phrases[0] if self.level == 1 else draws.choice(phrases)

    def _pictures(self, deal: int) -> dict[str, str]:
        return dict(self.pictures) if not deal else dealt(CARDS[: COUNT[self.level]], Draws(self.id, "deal", deal))


def dealt(cards: tuple[str, ...], draws: Draws) -> dict[str, str]:
    """What each card shows: two of them the same."""
    return dict(zip(cards, draws.shuffled(PICTURES[: len(cards) // 2] * 2), strict=True))


def part_of(pictures: dict[str, str], cards: tuple[str, ...]) -> str:
    """The split of a deal: the distances between the cards of each pair decide it."""
    places: dict[str, list[int]] = {}
    for place, card in enumerate(cards):
        places.setdefault(pictures[card], []).append(place)
    remainder = sum((first + 1) * (second + 2) for first, second in places.values()) % 4
    return {0: "test", 1: "validation"}.get(remainder, "train")


def cards_in(answer: str, left: tuple[str, ...]) -> tuple[str, str] | None:
    """The two cards that an answer names, in its order; None where it names another number of them, or one that is not left."""
    named = [word for word in dict.fromkeys(words_of(answer)) if word in CARDS]
    if len(named) != 2 or not set(named) <= set(left):
        return None
    return named[0], named[1]
