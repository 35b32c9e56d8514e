"""What can be earned: scenarios played by text players, and the score of those with and without memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rxrl.envs.scenarios.game import Game, Player
from rxrl.seeding import Draws
from rxrl.types import Interaction, SavedInteraction, Scenario, Turn


class Bounds(NamedTuple):
    """What a scenario's numbers stand between, as means over the turns of episodes, from 0 to 10.

    Attributes:
        blind: Of the strongest player without memory.
        best: Of the strongest player that sees only what was said.
        blind_by_turn: The same for each turn.
        best_by_turn: The same for each turn.
    """

    blind: float
    best: float
    blind_by_turn: tuple[float, ...]
    best_by_turn: tuple[float, ...]

    def share(self, score: float) -> float | None:
        """Where a score lies: 0 at blind, 1 at best; may lie outside. None where the two are the same, as in very few dialogues."""
        return None if self.best == self.blind else (score - self.blind) / (self.best - self.blind)


def bounds(games: Sequence[Game[Any]]) -> Bounds:
    """Plays scenarios with the best player and the blind one of their class.

    Args:
        games: At least one, all of one class, level and number of steps.
    """
    kind = type(games[0])
    games = [game.rehearsed() for game in games]
    blind, best = (_by_turn([play_text(game, player, memory=memory) for game in games])
                   for player, memory in ((kind.blind, False), (kind.best, True)))  # fmt: skip
    return Bounds(_mean(blind), _mean(best), tuple(blind), tuple(best))


def play_text(game: Game[Any], player: Player, *, memory: bool = True, seed: int = 0) -> list[Turn]:
    """Plays a scenario without an environment: texts in, texts out.

    Args:
        game: What is played.
        player: Who plays.
        memory: Whether the player sees what was said; the query alone otherwise.
        seed: Of the dialogue and of the player's draws.

    Returns:
        The turns, with their outcomes.
    """
    dialogue = game.begin(seed)
    history = [_saved(dialogue.first, dialogue.first.answer)]
    turns: list[Turn] = []
    while len(turns) < game.steps and (asked := dialogue.say(turns)) is not None:
        said = [(each.query, each.answer) for each in history] if memory else []
        answer = player(game.level, asked.query, said, Draws(seed, "player", game.id, len(turns)))
        turn = text_turn(game, len(turns) + 1, asked, answer, tuple(history))
        turns.append(replace(turn, outcome=dialogue.judge(turn)))
        history.append(_saved(asked, answer))
    return turns


def text_turn(game: Scenario, index: int, asked: Interaction, answer: str, history: tuple[SavedInteraction, ...]) -> Turn:
    """A turn of texts alone, for a dialogue to judge.

    Args:
        game: What is played.
        index: Number of the turn, from 1.
        asked: What the user said.
        answer: What was answered.
        history: Interactions before, the first one included.
    """
    return Turn(
        conversation_id=game.id,
        index=index,
        steps=game.steps,
        strategy="multi-step",
        query=asked.query,
        answer=answer,
        reference=asked.answer,
        query_ids=(),
        answer_ids=(),
        reference_ids=(),
        saved=history[-1:],
        asking=False,
        asks_known=asked.asks is not None,
        kind=asked.kind,
        extra={**game.extra, **asked.extra},
        history=history,
    )


def _saved(interaction: Interaction, answer: str) -> SavedInteraction:
    return SavedInteraction(interaction.query, answer, (), ())


def _by_turn(played: Sequence[Sequence[Turn]]) -> list[float]:
    """Mean outcome of each turn, over the dialogues that reach it."""
    longest = max(map(len, played))
    found = []
    for turn in range(longest):
        values = [turns[turn].outcome.value for turns in played if len(turns) > turn and turns[turn].outcome is not None]  # type: ignore[union-attr]
        found.append(_mean([value for value in values if value is not None]))
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
