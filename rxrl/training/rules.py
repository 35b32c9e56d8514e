"""Whether the rules of a curriculum can ever be looked at: checked before anything runs."""

from __future__ import annotations

from rxrl.curricula import Curriculum
from rxrl.data.sources import ConversationSource
from rxrl.data.stats import asked_under_references
from rxrl.errors import ConfigError, unknown_name
from rxrl.facts import attribute_values

RULE_METRICS = ("retention", "held_out_reward")
"""What `advance` and `regress` can look at; both are means over asking turns."""


def check_rules(curriculum: Curriculum, held_out: ConversationSource, count: int) -> None:
    """Refuses rules on metrics that no evaluation gives: unknown ones, or any where the held-out conversations ask for nothing.

    Args:
        curriculum: The stages.
        held_out: Conversations to evaluate on.
        count: Conversations of one evaluation.

    Raises:
        ConfigError: A rule could not be applied; the message names the stage.
    """
    for stage in curriculum.stages:
        rules = [rule for rule in (stage.advance, stage.regress) if rule is not None]
        for rule in rules:
            if rule.metric not in RULE_METRICS:
                raise ConfigError(f"Stage {stage.name!r}: {unknown_name('metric', rule.metric, RULE_METRICS)}")
        if rules and not _asks(held_out, stage.steps, max(stage.strategies, key=lambda name: stage.strategies[name]), count):
            raise ConfigError(
                f"Stage {stage.name!r} advances or regresses by {rules[0].metric!r}, but none of its {count} held-out conversations asks "
                "for anything that was told: remove the rule, or evaluate on conversations with asking turns."
            )


def _asks(held_out: ConversationSource, steps: int, strategy: str, count: int) -> bool:
    conversations = held_out.take(steps=steps, strategy=strategy, start=0, count=count)
    known = attribute_values(conversations)
    return any(asked.asking for each in conversations for asked in asked_under_references(each, known))
