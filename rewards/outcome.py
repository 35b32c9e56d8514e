"""The reward of scenarios: what the world itself says about an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rxrl.rewards.options import Options
from rxrl.types import Score, Turn


class Outcome(Options):
    """What the scenario itself says about the answer; None where it says nothing (conversations with references never do)."""

    name: ClassVar[str] = "outcome"

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn, with the scenario's own terms."""
        return [Score(None) if turn.outcome is None else turn.outcome for turn in turns]
