"""The data's own answer, given the memory that the model's answers have written: supervised training without teacher forcing."""

from __future__ import annotations

from torch import Tensor

from rxrl.envs import has_references
from rxrl.training.lessons import Item, Lesson
from rxrl.training.signals.signal import Material, Signal, SignalInputs
from rxrl.types import Scenario, Turn


def prepare(material: Material) -> Lesson:
    """The reference answer of each turn that has one."""

    def items(turn: Turn | None) -> list[Item]:
        return [(turn.query_ids, turn.reference_ids)] if turn is not None and turn.reference_ids else []

    return Lesson.of([[items(turn) for turn in row] for row in material.turns], material.max_length, material.rollout.rewards)


def loss(inputs: SignalInputs) -> Tensor:
    """-log pi(reference given query and memory), summed over tokens."""
    return -inputs.log_probs().sum(-1)


def _lacks(scenario: Scenario) -> str | None:
    return None if has_references(scenario) else "reference answers"


REFERENCE = Signal("reference", loss, prepare, lacks=_lacks, summary="The data's answer, given memory as own answers have written it.")
