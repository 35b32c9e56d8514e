"""Episodes that nobody plays: the data's own answers, accepted ones where it names some, as a policy would have given them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rxrl.errors import ConfigError
from rxrl.types import Conversation, Scenario


def with_accepted(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Conversations whose references are what the column `accepted` says, where an interaction has one.

    Raises:
        ConfigError: One of them has no references.
    """
    return [_accepted(each) for each in scenarios]


def _accepted(scenario: Scenario) -> Conversation:
    if not isinstance(scenario, Conversation):
        raise ConfigError(
            f"An algorithm that plays no rollouts learns from conversations with answers, and the user of scenario {scenario.id!r} "
            "reacts: choose another algorithm."
        )
    said = [each.extra.get("accepted") for each in scenario.follow_ups]
    if not any(said):
        return scenario
    chosen = (replace(each, answer=text) if isinstance(text, str) else each for each, text in zip(scenario.follow_ups, said, strict=True))
    return replace(scenario, follow_ups=tuple(chosen))
