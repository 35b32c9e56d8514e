from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxrl.config import dump_config, load_config
from rxrl.curricula import CURRICULA, GROUPS, Curriculum, Stage, load_curriculum
from rxrl.errors import ConfigError
from rxrl.types import STRATEGIES


def steps(curriculum: Curriculum) -> list[int]:
    return [stage.steps for stage in curriculum.stages]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", list(range(1, 17))),
        ("exponential", [1, 2, 4, 8, 16]),
        ("general", [1, 2, 3, 4, 6, 8, 12, 16]),
        ("published", [4, 6, 8, 8, 12, 16]),
    ],
)
def test_builtin_schedules(name: str, expected: list[int]) -> None:
    assert steps(load_curriculum(name)) == expected


@pytest.mark.parametrize("name", CURRICULA.built_in)
def test_every_builtin_is_named_described_and_reaches_its_length(name: str) -> None:
    curriculum = load_curriculum(name)
    assert curriculum.name == name
    assert curriculum.description
    assert steps(curriculum)[-1] == {"short": 8, "scenario": 12, "scenario_short": 12, "scenario_explore": 12, "long": 32}.get(name, 16)


def test_published_run_is_the_published_one() -> None:
    stages = load_curriculum("published").stages
    assert [stage.name for stage in stages] == ["steps-4", "steps-6", "steps-8", "steps-8-lr", "steps-12-lr", "steps-16-lr"]
    assert [stage.teacher_forcing for stage in stages] == [stage.steps <= 8 for stage in stages]
    assert {stage.reset_ratio for stage in stages} == {0.4}


@given(st.integers(1, 32))
def test_linear_and_exponential_end_at_max_steps_and_grow(max_steps: int) -> None:
    linear = Curriculum.linear(max_steps, allow_long=True)
    exponential = Curriculum.exponential(max_steps, allow_long=True)
    assert steps(linear) == list(range(1, max_steps + 1))
    assert steps(exponential)[-1] == max_steps
    assert steps(exponential) == sorted(set(steps(exponential)))
    assert steps(exponential)[:-1] == [2**power for power in range(len(exponential.stages) - 1)]


def test_schedules_can_start_later() -> None:
    assert steps(Curriculum.linear(5, start=3)) == [3, 4, 5]
    with pytest.raises(ConfigError, match=r"start \(16\) must not be above max_steps \(8\)"):
        Curriculum.exponential(8, start=16)
    assert steps(Curriculum.exponential(16, start=3)) == [3, 6, 12, 16]


def test_more_than_16_steps_must_be_allowed() -> None:
    with pytest.raises(ConfigError, match="allow_long"):
        Curriculum.linear(17)
    assert steps(Curriculum.custom([32], allow_long=True)) == [32]
    with pytest.raises(ConfigError, match="32"):
        Curriculum.custom([33], allow_long=True)


def test_custom_applies_settings_where_a_stage_is_silent() -> None:
    mine = Stage(name="mine", steps=8, iterations=7)
    curriculum = Curriculum.custom([2, {"steps": 4, "iterations": 5}, mine], iterations=3, reset_ratio=0.5)
    assert [stage.iterations for stage in curriculum.stages] == [3, 5, 7]
    assert [stage.reset_ratio for stage in curriculum.stages] == [0.5, 0.5, 1.0]
    assert curriculum.stages[2] is mine or curriculum.stages[2] == mine


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'iterations'"):
        Curriculum.linear(3, iteration=3)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("stages:\n  - steps: 2\n  - stepss: 4", 3, "Did you mean 'steps'?"),
        ("stages:\n  - steps: 2\n  - iterations: 4", 3, "'steps' is missing"),
        ("stages:\n  - 2\n  - steps: 0", 3, "greater than or equal to 1, got 0"),
        ("stages:\n  - 2\n  - steps: 17", 3, "allow_long"),
        ("allow_long: true\nstages:\n  - 2\n  - steps: 33", 4, "less than or equal to 32"),
        ("stages: []", 1, "at least 1 item"),
        ("stages:\n  - 2\n  - 2", 3, "two stages are named 'steps-2'"),
        ("stages:\n  - steps: 2\n    strategy: long", 3, "'long-range'"),
        ("stages:\n  - steps: 2\n    strategy: {multi-step: 0}", 3, "at least one weight above 0"),
        ("stages:\n  - steps: 2\n    strategy: {multi-step: -1}", 3, "greater than or equal to 0"),
        ("stages:\n  - strategy: long-range\n    steps: 1", 3, "at least 2 steps"),
        ("stages:\n  - strategy: single-step\n    steps: 2", 3, "single-step episodes have 1 step"),
        ("stages:\n  - steps: 2\n    train: [memory]", 3, "'memory_attention'"),
        ("stages:\n  - steps: 2\n    train: [all, encoder]", 3, "'all' stands alone"),
        ("stages:\n  - steps: 2\n    train: []", 3, "at least 1 item"),
        ("stages:\n  - steps: 2\n    train: [encoder]\n    learning_rates:\n      critic: 1e-3", 5, "'critic' is not trained here"),
        ("stages:\n  - steps: 2\n    reset_ratio: 1.5", 3, "less than or equal to 1"),
        ("stages:\n  - steps: 2\n    iterations: 5\n    min_iterations: 6", 4, "more than iterations (5)"),
        ("stages:\n  - steps: 2\n    advance: {treshold: 1}", 3, "Did you mean 'threshold'?"),
        ("stages:\n  - steps: 2\n    advance: {threshold: 0.5}\n    regress:\n      threshold: 0.6", 5, "above the threshold to advance"),
        ("defaults:\n  iteration: 3\nstages: [1]", 2, "Did you mean 'iterations'?"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, text: str, line: int, reason: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_curriculum(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert reason in str(caught.value)


def test_names_are_guessed_and_paths_are_paths(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'exponential'"):
        load_curriculum("exponental")
    with pytest.raises(ConfigError, match="There is no file"):
        load_curriculum(tmp_path / "absent.yaml")


def test_overrides_reach_single_stages() -> None:
    curriculum = load_curriculum("quickstart", ["stages.0.iterations=7", "defaults.reset_ratio=0.5"])
    assert curriculum.stages[0].iterations == 7
    assert {stage.reset_ratio for stage in curriculum.stages} == {0.5}


@pytest.mark.parametrize("name", CURRICULA.built_in)
def test_dump_is_read_back_equal(tmp_path: Path, name: str) -> None:
    curriculum = load_curriculum(name)
    dump_config(curriculum, tmp_path / "again.yaml")
    assert load_config(tmp_path / "again.yaml", Curriculum) == curriculum


weights = st.dictionaries(st.sampled_from(["multi-step", "long-range"]), st.floats(0, 1e300), min_size=1).filter(
    lambda mix: any(mix.values())
)


@given(weights)
def test_mix_of_strategies_is_normalised(mix: dict[str, float]) -> None:
    strategies = Stage(name="mix", steps=4, strategy=mix).strategies  # type: ignore[arg-type]
    assert math.isclose(sum(strategies.values()), 1.0)
    assert set(strategies) <= {name for name, weight in mix.items() if weight > 0}


@pytest.mark.parametrize("strategy", ["single-step", {"multi-step": 9, "single-step": 1}])
def test_single_step_has_one_step_in_a_mix_too(strategy: Any) -> None:
    with pytest.raises(ValueError, match="single-step episodes have 1 step, got 4"):
        Stage(steps=4, strategy=strategy)
    assert "single-step" in Stage(steps=1, strategy=strategy).strategies


@given(st.integers(1, 8), st.floats(0, 1, exclude_max=True))
def test_mixture_of_stages_sums_to_1_and_knows_no_later_stage(count: int, share: float) -> None:
    curriculum = Curriculum.linear(count, earlier_share=share)
    for index, stage in enumerate(curriculum.stages):
        mixture = curriculum.mixture(index)
        assert math.isclose(sum(part for _, part in mixture), 1.0)
        assert mixture[0][0] == stage
        assert all(other.steps <= stage.steps for other, _ in mixture)
        assert math.isclose(mixture[0][1], 1 - share if index else 1.0)


def test_random_resets_start_when_they_are_told() -> None:
    stage = Stage(name="a", steps=2, reset_ratio=0.4, reset_from_iteration=3)
    assert [stage.reset_ratio_at(iteration) for iteration in range(5)] == [1.0, 1.0, 1.0, 0.4, 0.4]


def test_all_stands_for_every_group() -> None:
    assert Stage(name="a", steps=2).trained_groups == set(GROUPS)
    assert Stage(name="a", steps=2, train=("encoder", "critic")).trained_groups == {"encoder", "critic"}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_of_the_library_is_known(strategy: Any) -> None:
    assert Stage(name="a", steps=1 if strategy == "single-step" else 4, strategy=strategy).strategies == {strategy: 1.0}


def test_a_shortened_curriculum_renames_what_is_named_by_its_turns() -> None:
    made = Curriculum.custom([2, {"steps": 7, "name": "hard"}, 8, 12]).shortened(5)
    assert [(stage.name, stage.steps) for stage in made.stages] == [("steps-2", 2), ("hard", 5), ("steps-5", 5), ("steps-12", 5)]
    assert Curriculum.custom([2, 5]).shortened(5) == Curriculum.custom([2, 5])
