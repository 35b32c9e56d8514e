"""All built-in scenarios, whose users react to what is answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rxrl.envs.scenarios import SCENARIOS, load
from rxrl.evaluation.play import EMPTY_WHOLE, SWAPPED_WHOLE
from rxrl.evaluation.suites.base import Group, Setting, Suite


class Scenarios(Suite):
    """All built-in scenarios, between what can be earned without memory and the best player."""

    name = "scenarios"
    unpublished = "No published score is listed: the scenarios are those of this project."
    measures = "mean outcome of a turn, from 0 to 1"
    count = 50
    controls = (EMPTY_WHOLE, SWAPPED_WHOLE)
    options: ClassVar[Mapping[str, Any]] = {"level": 1, "steps": 12}

    def groups(self, setting: Setting) -> list[Group]:
        """One group for each scenario; those that ask somebody outside are left out."""
        chosen = self.chosen(setting)
        names = [name for name, game in SCENARIOS.built_in.items() if not game.asks_outside]
        sources = {name: load(name, level=chosen["level"], split="test", seed=setting.seed) for name in names}
        count = setting.count or self.count
        return [Group(name, tuple(source.take(steps=chosen["steps"], count=count))) for name, source in sources.items()]
