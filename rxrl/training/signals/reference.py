"""The data's own answer, given the memory that the model's answers have written: supervised training without teacher forcing."""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot, pad

from rxrl.config import BaseConfig
from rxrl.envs import has_references
from rxrl.training.lessons import Item, Lesson
from rxrl.training.rollout import Rollout
from rxrl.training.signals.signal import Material, Signal, SignalInputs, lesson_log_probs
from rxrl.training.token_statistics import LazyLogits, token_log_probs
from rxrl.types import Scenario, TokenBatch, Turn


class ReferenceOptions(BaseConfig):
    """Options of `reference`."""

    gate: float | None = Field(
        None,
        ge=0,
        le=10,
        description="Only on turns that earn less, as a mean over the samples of the conversation; the loss of the algorithm is then "
        "left out there. null: on all turns, beside it.",
    )


def prepare(material: Material) -> Lesson:
    """The reference answer of each turn that has one and may teach it, or of those that fail where there is a gate."""

    def items(turn: Turn | None) -> list[Item]:
        if turn is None or not turn.reference_ids or turn.extra.get("taught") is False:
            return []
        return [(turn.prompt, turn.reply(turn.reference_ids, turn.reference_thought_ids))]

    rollout, gate = material.rollout, material.options.gate
    lesson = Lesson.of([[items(turn) for turn in row] for row in material.turns], material.max_length, rollout.rewards)
    if gate is None:
        return lesson
    return replace(lesson.where(rollout.scored & (group_means(rollout) < gate)), replaces=True)


def group_means(rollout: Rollout) -> Tensor:
    """Mean reward of the samples of a conversation at each turn, `[turns, batch]`; 0 where none is scored."""
    member = one_hot(rollout.group).to(rollout.rewards.dtype)
    count = (rollout.scored.to(member) @ member).clamp(min=1)
    return (rollout.rewards @ member / count) @ member.T


def loss(inputs: SignalInputs) -> Tensor:
    """-log pi(reference given query and memory), summed over tokens.

    A trained model mostly says the reference itself; there the pass over what it said is the one that is needed.
    """
    rollout, head = inputs.rollout, inputs.model.decoder.head
    said = said_themselves(rollout, inputs.lesson)
    others = lesson_log_probs(inputs.model, inputs.memory, inputs.lesson.where(~said)).sum(-1)
    own = rollout.answer & said.unsqueeze(-1)
    if not own.any():
        return -others
    logits = LazyLogits.of(head, inputs.hidden[own[rollout.answer]])
    each = token_log_probs(logits, rollout.turns.ids[own], 1.0, logits.thoughts(rollout.turns.ids, own))
    turn = own.flatten(0, 1).nonzero()[:, 0]
    return -others.flatten().to(each.dtype).index_add(0, turn, each).view_as(others)


def said_themselves(rollout: Rollout, lesson: Lesson) -> Tensor:
    """Turns in which the model said what the first item of the lesson says, token for token, bool `[turns, batch]`."""
    longest = max(rollout.answer.shape[-1], lesson.answer.shape[-1])

    def same(one: Tensor, other: Tensor) -> Tensor:
        padded = (pad(each, (0, longest - each.shape[-1])) for each in (one, other))
        return torch.eq(*padded).all(-1)

    first = TokenBatch(lesson.tokens.ids[:, :, 0], lesson.tokens.mask[:, :, 0])
    tokens = same(rollout.turns.ids, first.ids) & same(rollout.turns.mask, first.mask)
    return tokens & same(rollout.answer, lesson.answer[:, :, 0]) & (lesson.weights > 0)


def _lacks(scenario: Scenario) -> str | None:
    return None if has_references(scenario) else "reference answers"


REFERENCE = Signal("reference", loss, prepare, ReferenceOptions, _lacks, "The data's answer, given memory as own answers have written it.")
