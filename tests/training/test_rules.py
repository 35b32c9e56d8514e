"""Rules of a curriculum that no evaluation could ever apply are refused before anything runs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from rxrl.curricula import Curriculum
from rxrl.data.sources import RowsSource
from rxrl.data.world import GeneratedSource
from rxrl.errors import ConfigError
from rxrl.training.config import MRLConfig
from rxrl.training.rules import RULE_METRICS, check_rules, stage_algorithm
from rxrl.training.step_back import held_out_metrics
from rxrl.types import Conversation, Interaction

RULE = {"metric": "retention", "threshold": 0.9}
ASKING = GeneratedSource(level=1, seed=0, split="validation")


def idle(asks: tuple[str, ...] | None) -> RowsSource:
    turns = tuple(Interaction("Nice weather.", reply, asks=asks) for reply in ("Indeed.", "Lovely.", "Sunny.", "Warm."))
    return RowsSource([Conversation(f"c{i}", Interaction("Hello.", "Hello."), turns) for i in range(3)], seed=0)


@pytest.mark.parametrize("rule", ["advance", "regress"])
@pytest.mark.parametrize("asks", [(), None])
def test_a_rule_needs_turns_that_ask(rule: str, asks: tuple[str, ...] | None) -> None:
    curriculum = Curriculum.custom([2, {"steps": 4, rule: RULE}], iterations=1)
    check_rules(curriculum, ASKING, 5)
    with pytest.raises(ConfigError, match=r"Stage 'steps-4' .* by 'retention', but none of its 3 held-out conversations asks"):
        check_rules(curriculum, idle(asks), 3)
    check_rules(Curriculum.custom([2, 4], iterations=1), idle(asks), 3)


def test_one_asking_turn_in_any_conversation_is_enough() -> None:
    told = Conversation(
        "told", Interaction("Mia has a cat.", "Okay.", facts=(("mia.pet", "cat"),)), (Interaction("Hm.", "Yes.", asks=()),) * 3
    )
    asking = replace(told, id="asking", follow_ups=(*told.follow_ups, Interaction("What has Mia?", "A cat.", asks=("mia.pet",))))
    curriculum = Curriculum.custom([{"steps": 4, "advance": RULE}], iterations=1)
    quiet = replace(asking, id="quiet", follow_ups=(*told.follow_ups, told.follow_ups[0]))
    check_rules(curriculum, RowsSource([quiet, asking], seed=0), 2)
    with pytest.raises(ConfigError, match="asks for anything"):
        check_rules(curriculum, RowsSource([quiet], seed=0), 2)


def test_unknown_metrics_are_refused() -> None:
    curriculum = Curriculum.custom([{"steps": 2, "advance": {"metric": "retentoin", "threshold": 0.5}}], iterations=1)
    with pytest.raises(ConfigError, match=r"Stage 'steps-2': Unknown metric 'retentoin'.*Did you mean 'retention'"):
        check_rules(curriculum, ASKING, 5)


def test_the_known_metrics_are_those_that_evaluations_give() -> None:
    played = SimpleNamespace(records=[SimpleNamespace(retention=0.5, reward=3.0)])
    assert set(held_out_metrics(played)) == set(RULE_METRICS)
    # Nothing scored is no reward, not one of 0, for which a rule would go back.
    assert held_out_metrics(SimpleNamespace(records=[SimpleNamespace(retention=0.5, reward=None)])) == {"retention": 0.5}


def test_a_stage_changes_one_experimental_option_and_keeps_the_others():
    config = MRLConfig(algorithm={"kl": 0.3, "experimental": {"memory_form": "raw", "burn_in": 1}})
    stage = Curriculum.custom([{"steps": 4, "algorithm": {"experimental": {"burn_in": 2}}}]).stages[0]
    found = stage_algorithm(stage, config)
    assert (found.kl, found.experimental.memory_form, found.experimental.burn_in) == (0.3, "raw", 2)
    wrong = Curriculum.custom([{"steps": 4, "algorithm": {"experimental": {"burn": 2}}}]).stages[0]
    with pytest.raises(ConfigError, match="burn_in"):
        stage_algorithm(wrong, config)
