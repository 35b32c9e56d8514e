"""Memory that stays as it is where nothing is told: writes of questions and small talk are to leave it alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from rxrl.training.lessons import Lesson
from rxrl.training.signals.signal import Material, Signal, SignalInputs
from rxrl.types import Conversation, Scenario


def prepare(material: Material) -> Lesson:
    """Marks the turns right after a write that told nothing, where something told before it is to be kept."""
    rollout = material.rollout
    first: list[Mapping[str, str]] = [{}] * rollout.batch
    # A fact told again as it was is not new either: what is in force says it all.
    flags = [
        [bool(now) and now == before for before, now in zip(earlier, later, strict=True)]
        for earlier, later in zip([first, *rollout.told], rollout.told, strict=False)
    ]
    return Lesson.without_text(torch.tensor(flags, dtype=rollout.rewards.dtype, device=rollout.real.device))


def loss(inputs: SignalInputs) -> Tensor:
    """1 - cosine of what a slot held before the last write and what it holds now, mean over layers and slots."""
    return 1 - cosine_similarity(inputs.before, inputs.memory, dim=-1).mean(dim=(0, 3))


def _lacks(scenario: Scenario) -> str | None:
    told = isinstance(scenario, Conversation) and any(each.facts for each in scenario.interactions)
    return None if told else "facts, which say where nothing is told"


KEEP = Signal("keep", loss, prepare, lacks=_lacks, summary="Memory that a write leaves as it is where nothing is told.")
