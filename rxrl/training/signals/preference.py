"""Preferences between two answers to one query (DMPO), given the memory that the turn reads: the one before the answer is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rxrl.config import BaseConfig
from rxrl.facts import attribute_of, value_words
from rxrl.seeding import Draws
from rxrl.training.lessons import Item, Lesson
from rxrl.training.signals.questions import with_value
from rxrl.training.signals.signal import Material, Signal, SignalInputs, mean_log_probs
from rxrl.types import Turn

Pairs = Literal["rows", "rivals", "group"]
COLUMNS = ("accepted", "rejected", "neutral")
"""Extra columns of an interaction that name answers."""


class PreferenceOptions(BaseConfig):
    """Options of `preference`."""

    pairs: tuple[Pairs, ...] = Field(
        ("rows", "rivals"),
        min_length=1,
        description="Where pairs come from, the first that has one for a turn: the columns accepted and rejected; the reference against "
        "the same sentence with a rival's value; the best against the worst sample of a group.",
    )
    beta: float = Field(0.1, gt=0, description="How sharply a difference to the frozen start counts.")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="Share of the pairs taken to be the wrong way round.")
    anchor: float = Field(0.1, ge=0, description="How much the answer in the column neutral is held at its likelihood under the start.")
    margin: float = Field(1.0, ge=0, description="pairs group: least difference of the rewards of best and worst.")


def prepare(material: Material) -> Lesson:
    """For each turn with a pair the accepted and the rejected answer, and the neutral one where there is one."""
    options: PreferenceOptions = material.options
    contrasts = _contrasts(material, options.margin) if "group" in options.pairs else {}

    def items(number: int, row: int, turn: Turn | None) -> list[Item]:
        if turn is None:
            return []
        draws = Draws(material.seed, "rival", material.rollout.iteration, *keys[row], number)
        made = {
            "rows": lambda: _of_columns(material, turn),
            "rivals": lambda: _of_rivals(material, turn, material.rollout.told[number][row], draws),
            "group": lambda: contrasts.get((number, row), []),
        }
        return next((found for source in options.pairs if (found := made[source]())), [])

    keys = material.row_keys()
    pairs = [[items(number, row, turn) for row, turn in enumerate(turns)] for number, turns in enumerate(material.turns)]
    lesson = Lesson.of(pairs, material.max_length, material.rollout.rewards)
    return replace(lesson, weights=(lesson.weights > 0).to(lesson.weights.dtype))


def _of_columns(material: Material, turn: Turn) -> list[Item]:
    texts = [turn.extra.get(name) for name in COLUMNS]
    accepted = texts[0] or turn.reference
    if not isinstance(texts[1], str) or not accepted:
        return []
    answers = (material.codec.encode(text) for text in (accepted, texts[1], texts[2]) if isinstance(text, str))
    return [(turn.prompt, turn.reply(ids, turn.reference_thought_ids)) for ids in answers]


def _of_rivals(material: Material, turn: Turn, told: Mapping[str, str], draws: Draws) -> list[Item]:
    """The reference against the same sentence with another value: one that was told of somebody else, where there is one."""
    if len(turn.expected) != 1 or not turn.reference:
        return []
    [(key, value)] = turn.expected.items()
    own = [each for other, each in told.items() if other != key and attribute_of(other) == attribute_of(key)]
    rivals = [each for each in own if value_words(each) != value_words(value)] or list(turn.rivals.get(key, ()))
    wrong = with_value(turn.reference, value, draws.choice(sorted(rivals))) if rivals else None
    if wrong is None:
        return []
    # The same thought before both: what is told apart is the answer.
    return [(turn.prompt, turn.reply(ids, turn.reference_thought_ids)) for ids in (turn.reference_ids, material.codec.encode(wrong))]


def _contrasts(material: Material, margin: float) -> dict[tuple[int, int], list[Item]]:
    """For the row with the best answer of a group at a turn: that answer and the worst one to the same query."""
    rollout = material.rollout
    found: dict[tuple[int, int], list[Item]] = {}
    rewards, scored, groups = rollout.rewards.tolist(), rollout.scored.tolist(), rollout.group.tolist()
    for number, turns in enumerate(material.turns):
        rows = [row for row, turn in enumerate(turns) if turn is not None and scored[number][row]]
        for _, members in groupby(rows, key=groups.__getitem__):
            alike = _same_query(list(members), turns)
            best, worst = (choose(alike, key=rewards[number].__getitem__) for choose in (max, min))
            if rewards[number][best] - rewards[number][worst] >= max(margin, 1e-6):
                pair = [turn for row in (best, worst) if (turn := turns[row]) is not None]
                found[number, best] = [(pair[0].prompt, turn.reply(turn.answer_ids, turn.thought_ids)) for turn in pair]
    return found


def _same_query(rows: list[int], turns: Iterable[Turn | None]) -> list[int]:
    """Rows that were asked the same as the first of them: users who react ask each sample something else."""
    asked = [None if turn is None else turn.prompt for turn in turns]
    return [row for row in rows if asked[row] == asked[rows[0]]]


def loss(inputs: SignalInputs) -> Tensor:
    """DMPO's loss of each pair, on mean log-probabilities a token, against those of the frozen start."""
    options: PreferenceOptions = inputs.options
    lesson = inputs.lesson
    assert lesson.values is not None, "the frozen start has scored the answers"
    gains = mean_log_probs(inputs.model, inputs.memory, lesson) - lesson.values
    return dmpo(gains, lesson.answer.any(-1), options.beta, options.label_smoothing, options.anchor)


def dmpo(gains: Tensor, there: Tensor, beta: float, label_smoothing: float = 0.0, anchor: float = 0.0) -> Tensor:
    """Loss of pairs.

    Args:
        gains: Mean log-probability of accepted, rejected and (where there are three) neutral answer, less that under the frozen start,
            `[..., items]`.
        there: bool, the same shape; items that are there.
        beta: How sharply a difference counts.
        label_smoothing: Share of the pairs taken to be the wrong way round.
        anchor: Weight of the distance of the neutral answer's gain from 0.

    Returns:
        `[...]`; of no meaning where there is no pair.

    Source: Rafailov et al. 2023 (DPO), with mean log-probabilities and memory as in Direct Memory Preference Optimization; label smoothing
    of Mitchell 2023.
    """
    if gains.shape[-1] < 2:
        return gains.sum(-1)
    margin = beta * (gains[..., 0] - gains[..., 1])
    found = -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    return found if gains.shape[-1] < len(COLUMNS) else found + anchor * gains[..., 2].abs() * there[..., 2]


PREFERENCE = Signal(
    "preference", loss, prepare, PreferenceOptions, compares=True, summary="The better of two answers (DMPO): from rows, rivals or groups."
)
