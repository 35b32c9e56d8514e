"""The data's own answer, given the memory that the model's answers have written: supervised training without teacher forcing."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from rxrl.config import BaseConfig
from rxrl.envs import has_references
from rxrl.training.lessons import Item, Lesson
from rxrl.training.rollout import Rollout
from rxrl.training.signals.signal import Material, Signal, SignalInputs
from rxrl.types import Scenario, Turn


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
    """The reference answer of each turn that has one, or of those that fail where there is a gate."""

    def items(turn: Turn | None) -> list[Item]:
        if turn is None or not turn.reference_ids:
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
    """-log pi(reference given query and memory), summed over tokens."""
    return -inputs.log_probs().sum(-1)


def _lacks(scenario: Scenario) -> str | None:
    return None if has_references(scenario) else "reference answers"


REFERENCE = Signal("reference", loss, prepare, ReferenceOptions, _lacks, "The data's answer, given memory as own answers have written it.")
