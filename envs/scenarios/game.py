"""Scenarios as games: a state that hears answers, what the user says in it, and what the last answer was worth."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from rxrl.errors import ConfigError, unknown_name
from rxrl.seeding import Draws
from rxrl.types import Interaction, Score, Turn

SPLITS = ("train", "validation", "test")
LEVELS = (1, 2, 3)
PUBLIC = frozenset({"id", "steps", "level", "split"})
"""Fields of a game that hide nothing."""

S = TypeVar("S")
Said = Sequence[tuple[str, str]]
"""Query and answer of every interaction so far, the first one included."""

_WORD = re.compile(r"[a-z0-9]+")


class Player(Protocol):
    """Answers a query from the rules of a level and from what was said so far; it sees nothing of what is hidden."""

    def __call__(self, level: int, query: str, said: Said, draws: Draws) -> str:
        """The answer to `query`; `said` is empty for a player without memory."""
        ...


@dataclass(frozen=True)
class Game(Generic[S]):
    """A scenario whose user reacts: subclass it, name what is hidden as fields, and write five small methods.

    All methods are pure: they depend on their arguments and on the fields alone. A state is never changed in place.

    Attributes:
        id: Name of this scenario.
        steps: Turns of an episode.
        level: 1, 2 or 3.
        split: `train`, `validation` or `test`.
    """

    id: str
    steps: int
    level: int
    split: str

    name: ClassVar[str] = ""
    stated: ClassVar[Mapping[int, tuple[float, float]]] = {}
    """By level what players without memory do not exceed and the best one reaches, as means over 12 turns."""
    references: ClassVar[bool] = False
    asks_outside: ClassVar[bool] = False
    """Whether somebody outside, whom its options name, gives the words: without options it cannot be loaded."""
    gamma: ClassVar[float] = 0.0
    """Discount that suits the scenario: 0 where each answer is worth what it earns, near 1 where finding out pays later."""
    gae_lambda: ClassVar[float] = 0.95
    """Decay of GAE that goes with it."""
    critic: ClassVar[str] = "text"
    """What the critic reads beside the query, of `mrl.critic`: `memory` where only that tells how much is known already."""
    curriculum: ClassVar[str] = "scenario"
    """Curriculum that suits the scenario."""

    @classmethod
    def configured(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """What `make` takes besides its own arguments, from the options that somebody gave: nothing, in most games.

        Raises:
            ConfigError: An option is unknown, wrong or missing.
        """
        if options:
            raise ConfigError(f"The scenario {cls.name!r} takes no options, got {', '.join(map(repr, options))}: leave them out.")
        return {}

    @classmethod
    @abstractmethod
    def make(cls, *, level: int, split: str, seed: int, index: int, steps: int) -> Self:
        """The scenario that these arguments name: the same arguments always give the same one."""

    @abstractmethod
    def opening(self, draws: Draws) -> Interaction:
        """The interaction that is written into memory before turn 1."""

    @abstractmethod
    def start(self) -> S:
        """State before turn 1."""

    @abstractmethod
    def hear(self, state: S, answer: str, draws: Draws) -> S:
        """State after an answer, whatever it is: one that is no legal move is a mistake of the player."""

    @abstractmethod
    def ask(self, state: S, draws: Draws) -> Interaction | None:
        """What the user says next; None ends the conversation."""

    @abstractmethod
    def outcome(self, state: S) -> Score | float | None:
        """What the answer that led to this state was worth, from 0 to 10."""

    def secret(self, state: S) -> str:
        """What the user knows and the player does not, for a person who plays the user: the fields, unless a game puts it better."""
        return ", ".join(f"{item.name}: {getattr(self, item.name)}" for item in fields(self) if item.name not in PUBLIC)

    # What bounds and the supervised start need

    @abstractmethod
    def random_answer(self, state: S, draws: Draws) -> str:
        """A legal answer that shows no strategy."""

    @abstractmethod
    def recall(self, state: S, draws: Draws) -> Interaction | None:
        """A question about what was said so far, with its right answer; None where there is nothing to ask."""

    @classmethod
    @abstractmethod
    def best(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """The strongest player that sees only what was said."""

    @classmethod
    @abstractmethod
    def blind(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """The strongest player without memory: it looks at the query alone."""

    # A scenario

    @property
    def extra(self) -> Mapping[str, Any]:
        """Columns for reports."""
        return {"scenario": self.name, "level": self.level, "split": self.split}

    def begin(self, seed: int) -> GameDialogue[S]:
        """The game as a dialogue."""
        return GameDialogue(self, seed)

    def rehearsed(self) -> Self:
        """The game as bounds and checks play it, many times over: itself, unless a dialogue asks somebody outside for its words."""
        return self


class GameDialogue(Generic[S]):
    """A game while it is played.

    The states so far are kept beside the answers that led to them, and made anew where the answers are others.

    Args:
        game: What is played.
        seed: Keys the draws, together with the game's id and the turn.
    """

    def __init__(self, game: Game[S], seed: int) -> None:
        self.game, self.seed = game, seed
        self._answers: list[str] = []
        self._states: list[S] = [game.start()]

    @property
    def first(self) -> Interaction:
        """The opening."""
        return self.game.opening(self._draws("open", 0))

    def say(self, heard: Sequence[Turn]) -> Interaction | None:
        """What the user says after these turns."""
        return self.game.ask(self.state([turn.answer for turn in heard]), self._draws("say", len(heard)))

    def judge(self, turn: Turn) -> Score | None:
        """What the answer was worth."""
        answers = [each.answer for each in turn.history[1:]]
        found = self.game.outcome(self.state([*answers, turn.answer]))
        return found if found is None or isinstance(found, Score) else Score(found)

    def state(self, answers: Sequence[str]) -> S:
        """State after these answers."""
        answers = list(answers)
        while self._answers != answers[: len(self._answers)]:
            self._answers.pop()
            self._states.pop()
        for turn in range(len(self._answers), len(answers)):
            self._states.append(self.game.hear(self._states[-1], answers[turn], self._draws("hear", turn)))
            self._answers.append(answers[turn])
        return self._states[-1]

    def _draws(self, purpose: str, turn: int) -> Draws:
        return Draws(self.seed, self.game.id, purpose, turn)


def words_of(answer: str) -> list[str]:
    """Words of an answer in lower case, without signs."""
    return _WORD.findall(answer.lower())


def named_once(answer: str, values: Sequence[str]) -> str | None:
    """The one of `values` that an answer names; None where it names none, or several."""
    found = {word for word in words_of(answer) if word in values}
    return found.pop() if len(found) == 1 else None


def exchanges(query: str, said: Said) -> list[tuple[str, str, str]]:
    """Query, answer and what the user said to it, of each turn so far."""
    after = [*(asked for asked, _ in said[2:]), query]
    return [(asked, answer, reply) for (asked, answer), reply in zip(said[1:], after, strict=len(said) > 1)]


def sentence_start(query: str) -> int:
    """Where the last sentence of a query begins."""
    return max(query.rstrip(".?! ").rfind(sign) for sign in (". ", "? ", "! ")) + 1


def listed(values: Sequence[str], last: str = "and") -> str:
    """Values as a list in words: "a, b and c"."""
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} {last} {values[-1]}"


def check_arguments(level: int, split: str, steps: int) -> None:
    """Refuses a level, split or number of steps that does not exist.

    Raises:
        ConfigError: One of them does not.
    """
    if level not in LEVELS:
        raise ConfigError(f"level must be one of {', '.join(map(str, LEVELS))}, got {level!r}.")
    if split not in SPLITS:
        raise ConfigError(unknown_name("split", split, SPLITS))
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, got {steps!r}.")


def split_values(draws: Draws, split: str, sizes: Sequence[int]) -> list[int]:
    """One index for each size, so that no combination stands in two splits and every single index is as likely as any other.

    The sum of the indices decides: 0 modulo the last size is `test`, 1 is `validation`, the rest is `train`.

    Args:
        draws: Draws the combination.
        split: One of `SPLITS`.
        sizes: Number of values of each place; the last one at least 3.
    """
    *free, last = sizes
    chosen = [draws.below(size) for size in free]
    rest = {"test": 0, "validation": 1}.get(split)
    remainder = 2 + draws.below(last - 2) if rest is None else rest
    return [*chosen, (remainder - sum(chosen)) % last]
