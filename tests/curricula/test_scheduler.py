from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxrl.curricula import Curriculum, StepScheduler
from rxrl.errors import ConfigError


def scheduler(*steps: int, **settings: Any) -> StepScheduler:
    return StepScheduler(Curriculum.custom(list(steps), **settings))


def actions(walker: StepScheduler, *values: float) -> list[str]:
    return [walker.observe({"retention": value}).action for value in values]


def test_without_a_rule_all_iterations_run_and_no_metric_is_needed() -> None:
    walker = scheduler(2, 4, iterations=2)
    assert [walker.observe({}).action for _ in range(4)] == ["hold", "advance", "hold", "finish"]
    assert [(entry.name, entry.steps, entry.strategy, entry.iterations) for entry in walker.history] == [
        ("steps-2", 2, "multi-step", 2),
        ("steps-4", 4, "multi-step", 2),
    ]
    assert walker.stage.steps == 4


def test_patience_counts_observations_in_a_row() -> None:
    walker = scheduler(2, 4, iterations=9, advance={"threshold": 0.5, "patience": 2})
    assert actions(walker, 0.5, 0.4, 0.9, 0.5) == ["hold", "hold", "hold", "advance"]
    assert walker.history[0].iterations == 4
    assert "retention 0.500 reached 0.5" in walker.history[0].ended


def test_a_stage_that_never_gets_there_ends_with_its_iterations() -> None:
    walker = scheduler(2, 4, iterations=3, advance={"threshold": 0.5})
    assert actions(walker, 0.1, 0.1, 0.1) == ["hold", "hold", "advance"]
    assert walker.history[0].ended == "all 3 iterations done, retention 0.100 against 0.5"


def test_rules_wait_for_the_least_number_of_iterations() -> None:
    walker = scheduler(2, 4, iterations=9, min_iterations=3, advance={"threshold": 0.5})
    assert actions(walker, 0.9, 0.9, 0.9) == ["hold", "hold", "advance"]


def test_several_iterations_between_observations() -> None:
    walker = scheduler(2, 4, iterations=10)
    assert walker.observe({}, iterations=4).action == "hold"
    assert walker.remaining == 6
    assert walker.observe({}, iterations=6).action == "advance"
    assert walker.history[0].iterations == 10
    with pytest.raises(ConfigError, match="at least 1 iteration"):
        walker.observe({}, iterations=0)


def test_regress_goes_back_as_often_as_it_may() -> None:
    walker = scheduler(2, 4, iterations=9, advance={"threshold": 0.8}, regress={"threshold": 0.2, "patience": 2, "limit": 1})
    assert actions(walker, 0.1, 0.1, 0.9) == ["hold", "hold", "advance"], "the first stage has none before it"
    assert actions(walker, 0.1, 0.1) == ["hold", "regress"]
    assert walker.stage.steps == 2
    assert actions(walker, 0.9, 0.1, 0.1, 0.1) == ["advance", "hold", "hold", "hold"], "the limit is used up"
    assert [entry.name for entry in walker.history] == ["steps-2", "steps-4", "steps-2"]
    assert walker.metrics()["curriculum/regressions"] == 1


def test_a_missing_or_broken_metric_is_told() -> None:
    walker = scheduler(2, advance={"metric": "retention", "threshold": 0.5})
    with pytest.raises(ConfigError, match=r"Stage 'steps-2': Unknown metric 'retention'.*Did you mean 'retentions'"):
        walker.observe({"retentions": 1.0})
    with pytest.raises(ConfigError, match="finite"):
        walker.observe({"retention": float("nan")})
    assert walker.iteration == 0, "a refused observation leaves no trace"


def test_a_finished_curriculum_observes_no_more() -> None:
    walker = scheduler(2, iterations=1)
    walker.observe({})
    with pytest.raises(ConfigError, match="has finished"):
        walker.observe({})


def test_state_of_another_curriculum_is_refused() -> None:
    state = scheduler(2, 4).state_dict()
    with pytest.raises(ConfigError, match="resume with the curriculum of the run"):
        scheduler(2, 8).load_state_dict(state)
    with pytest.raises(ConfigError, match="lacks bad, good"):
        scheduler(2, 4).load_state_dict({key: value for key, value in state.items() if key not in {"good", "bad"}})


stage_settings = st.fixed_dictionaries(
    {
        "iterations": st.integers(1, 6),
        "advance": st.none() | st.fixed_dictionaries({"threshold": st.just(0.6), "patience": st.integers(1, 3)}),
        "regress": st.none()
        | st.fixed_dictionaries({"threshold": st.just(0.4), "patience": st.integers(1, 3), "limit": st.integers(1, 3)}),
    }
)
curricula = st.lists(stage_settings, min_size=1, max_size=5).map(
    lambda stages: Curriculum.custom([{"steps": index + 1, **settings} for index, settings in enumerate(stages)])
)
measured = st.lists(st.floats(0, 1), min_size=1, max_size=200)


@given(curricula, measured)
def test_every_walk_ends_and_its_history_is_complete(curriculum: Curriculum, values: list[float]) -> None:
    walker = StepScheduler(curriculum)
    bound = sum(stage.iterations for stage in curriculum.stages) * (1 + sum(s.regress.limit for s in curriculum.stages if s.regress))
    observed = 0
    while not walker.finished:
        before = walker.stage_index
        decision = walker.observe({"retention": values[observed % len(values)]})
        observed += 1
        moved = walker.stage_index - before
        assert {"hold": 0, "advance": 1, "regress": -1, "finish": 0}[decision.action] == moved
        assert decision.reason
        assert observed <= bound
    assert sum(entry.iterations for entry in walker.history) == observed
    assert walker.history[-1].name == curriculum.stages[-1].name


@given(curricula, measured, st.integers(0, 30))
def test_resumed_walk_equals_the_uninterrupted_one(curriculum: Curriculum, values: list[float], cut: int) -> None:
    straight, resumed = StepScheduler(curriculum), StepScheduler(curriculum)
    for index, value in enumerate(values):
        if index == cut:
            state = json.loads(json.dumps(resumed.state_dict()))
            resumed = StepScheduler(curriculum)
            resumed.load_state_dict(state)
        if straight.finished:
            break
        assert straight.observe({"retention": value}) == resumed.observe({"retention": value})
        assert straight.metrics() == resumed.metrics()
    assert straight.state_dict() == resumed.state_dict()
    assert straight.history == resumed.history
