"""Tries a scenario before it is trained on: what it promises, and what a user would be fooled by."""

from __future__ import annotations

import pickle
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from rxrl.envs.scenarios.bounds import Bounds, bounds, play_text
from rxrl.envs.scenarios.game import PUBLIC, Game, GameDialogue, Player
from rxrl.envs.scenarios.source import ScenarioSource
from rxrl.errors import reason

SPLIT_SAMPLE, PLAYED = 200, 60
SLOW = 2_000
"""Turns a second below which a scenario slows a training down."""
_WORD = re.compile(r"[a-z0-9]+")


class Check(NamedTuple):
    """One line of the report.

    Attributes:
        name: What was tried.
        status: `ok`, `note` or `failed`.
        detail: What was found.
    """

    name: str
    status: str
    detail: str


class ScenarioReport(NamedTuple):
    """What trying a scenario found.

    Attributes:
        checks: In the order in which they were tried.
        bounds: Of its players; None where they could not be played.
    """

    checks: tuple[Check, ...]
    bounds: Bounds | None

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(check.status != "failed" for check in self.checks)


def check_scenario(game: type[Game[Any]], *, level: int = 1, steps: int = 12, options: Mapping[str, Any] | None = None) -> ScenarioReport:
    """Tries a scenario: determinism, pickling, its players and their bounds, leaks, splits, the supervised start and speed.

    Args:
        game: The class.
        level: 1, 2 or 3.
        steps: Turns of an episode.
        options: Options of the class, where it has some.

    Raises:
        ConfigError: An option is unknown, wrong or missing.
    """
    found: list[Check] = []
    played: Bounds | None = None
    sources = {split: ScenarioSource(game, level=level, split=split, options=options) for split in ("train", "test")}

    def rehearsed(count: int, split: str = "train") -> list[Game[Any]]:
        return [each.rehearsed() for each in sources[split].take(steps=steps, count=count)]

    try:
        [real], games = sources["train"].take(steps=steps), rehearsed(PLAYED)
        found += [_same_again(games), _survives(games), *_players(game, games)]
        found += [_leaks(rehearsed(SPLIT_SAMPLE)), _splits(rehearsed(SPLIT_SAMPLE), rehearsed(SPLIT_SAMPLE, "test"))]
        found += [_supervised(sources["train"], steps), _speed(games)]
        if game.asks_outside:
            found.append(_same_again([real])._replace(name="same words when asked again"))
        played = bounds(games)
        found.append(_bounds(played))
    except Exception as error:
        found.append(Check("plays", "failed", reason(error)))
    return ScenarioReport(tuple(found), played)


def _same_again(games: Sequence[Game[Any]]) -> Check:
    for game in games[:20]:
        first, second = (play_text(game, _random(game), seed=3) for _ in range(2))
        answers = [turn.answer for turn in first]
        heard = [game.begin(3).say(first[:turn]) for turn in range(len(first))]
        if first != second or [turn.query for turn in first] != [None if said is None else said.query for said in heard]:
            return Check("same seed and answers, same dialogue", "failed", f"{game.id} says something else after {answers}.")
    return Check("same seed and answers, same dialogue", "ok", "each twice, and turn by turn")


def _survives(games: Sequence[Game[Any]]) -> Check:
    copy = pickle.loads(pickle.dumps(games[0]))
    same = copy == games[0] and play_text(copy, _random(copy)) == play_text(games[0], _random(games[0]))
    return Check("can be pickled", "ok" if same else "failed", "for other processes" if same else "a copy plays another dialogue.")


def _players(game: type[Game[Any]], games: Sequence[Game[Any]]) -> Iterator[Check]:
    players: tuple[tuple[str, Player, bool], ...] = (("best", game.best, True), ("blind", game.blind, False))
    for name, player, memory in players:
        turns = [turn for each in games for turn in play_text(each, player, memory=memory)]
        wrong = [turn for turn in turns if turn.outcome is not None and not 0 <= (turn.outcome.value or 0.0) <= 10]
        if wrong:
            yield Check(f"{name} player", "failed", f"an outcome of {wrong[0].outcome} lies outside of 0 to 10.")
        elif all(turn.outcome is None for turn in turns):
            yield Check(f"{name} player", "failed", "no answer of it is judged.")
        else:
            yield Check(f"{name} player", "ok", f"{len(turns)} turns")


def _leaks(games: Sequence[Game[Any]]) -> Check:
    """Whether words of what is hidden stand in what is said before anything was answered, and only then."""
    name = "hides what is hidden"
    seen: list[tuple[set[str], set[str]]] = []
    for each in games:
        dialogue = each.begin(0)
        asked = dialogue.say(())
        spoken = _words(f"{dialogue.first.query} {dialogue.first.answer} {'' if asked is None else asked.query}")
        told = {word for interaction in (dialogue.first, asked) if interaction is not None for fact in interaction.facts for part in fact
                for word in _words(part)}  # fmt: skip
        hidden = {word for item in fields(each) if item.name not in PUBLIC for word in _words(repr(getattr(each, item.name)))}
        seen.append((hidden - told, spoken - told))
    for word in sorted(set().union(*(hidden for hidden, _ in seen))):
        inside = [word in spoken for hidden, spoken in seen if word in hidden]
        outside = [word in spoken for hidden, spoken in seen if word not in hidden]
        if min(len(inside), len(outside)) >= 10 and sum(inside) / len(inside) - sum(outside) / len(outside) > 0.5:
            return Check(name, "failed", f"{word!r} is said at the beginning where it is hidden, and not elsewhere.")
    return Check(name, "ok", f"{len(games)} openings")


def _splits(train: Sequence[Game[Any]], test: Sequence[Game[Any]]) -> Check:
    def hidden(games: Sequence[Game[Any]]) -> set[str]:
        return {repr([getattr(each, item.name) for item in fields(each) if item.name not in PUBLIC]) for each in games}

    shared = hidden(train) & hidden(test)
    if shared:
        return Check("test is unseen", "note", f"{len(shared)} of the test scenarios hide what a scenario of train hides.")
    return Check("test is unseen", "ok", f"{len(test)} scenarios of each split")


def _supervised(source: ScenarioSource, steps: int) -> Check:
    conversations = source.supervised(steps=steps, count=20)
    turns = [each for conversation in conversations for each in conversation.follow_ups]
    if any(not each.answer.strip() for each in turns):
        return Check("supervised start", "failed", "a turn has no answer.")
    recalls = sum(each.kind == "recall" for each in turns)
    status = "ok" if recalls else "note"
    return Check("supervised start", status, f"{len(turns)} turns, {recalls} ask for what was said")


def _speed(games: Sequence[Game[Any]]) -> Check:
    started, turns = time.perf_counter(), 0
    for game in games[:20]:
        turns += len(play_text(game, _random(game)))
    rate = turns / max(time.perf_counter() - started, 1e-9)
    return Check("speed", "ok" if rate >= SLOW else "note", f"{rate:,.0f} turns a second")


def _bounds(played: Bounds) -> Check:
    detail = f"without memory {played.blind:.2f}, best {played.best:.2f}"
    if played.best <= played.blind:
        return Check("memory is worth something", "failed", f"{detail}: a player without memory does as well.")
    return Check("memory is worth something", "ok", detail)


def _random(game: Game[Any]) -> Callable[..., str]:
    dialogue = GameDialogue(game, 3)

    def player(level: int, query: str, said: Sequence[tuple[str, str]], draws: Any) -> str:
        return game.random_answer(dialogue.state([answer for _, answer in said[1:]]), draws)

    return player


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
