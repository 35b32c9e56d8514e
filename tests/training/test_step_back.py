"""Where held-out conversations get worse, a run goes back to its last good weights, and it ends no worse than it began."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rxrl.runs.checkpoints import BEST, STATE_FILE, numbered
from rxrl.runs.optim import OptimizerConfig, make_optimizer
from rxrl.training import trainer as trainer_module
from rxrl.training.callbacks import Callback
from rxrl.training.step_back import Standing
from rxrl.training.trainer import MRLTrainer
from tests.training.toy import lines, same, trainer_in, weights

TWO = [{"steps": 1, "iterations": 4}, {"steps": 2, "iterations": 4, "reset_ratio": 0.5}]
EACH = {"evaluation": {"every": 1, "conversations": 3}, "checkpoint_every": 1}


def standing(*means: float, name: str = "retention", iteration: int = 0) -> Standing:
    return Standing(iteration, name, sum(means) / len(means), {str(number): mean for number, mean in enumerate(means)})


def test_a_fall_counts_where_it_is_large_and_its_interval_excludes_zero() -> None:
    best = standing(*[0.9] * 8)
    assert standing(*[0.8] * 8).fell_from(best, 0.05, seed=0) == ("retention fell from 0.9 to 0.8 (difference -0.1, interval -0.1 to -0.1)")
    assert standing(*[0.87] * 8).fell_from(best, 0.05, seed=0) is None  # small, however sure
    assert standing(*[0.1] * 2, *[0.95] * 6).fell_from(best, 0.05, seed=0) is None  # large, but two conversations made it
    assert standing(*[0.95] * 8).fell_from(best, 0.05, seed=0) is None
    # Rewards are on a scale of 10.
    rewards = standing(*[9.0] * 8, name="held_out_reward")
    assert standing(*[8.7] * 8, name="held_out_reward").fell_from(rewards, 0.05, seed=0) is None
    assert standing(*[8.0] * 8, name="held_out_reward").fell_from(rewards, 0.05, seed=0) is not None
    assert standing(*[8.0] * 8).fell_from(rewards, 0.05, seed=0) is None


class Script:
    """Says how the weights of a trainer do: new ones as the next number has it, known ones as before."""

    def __init__(self, *means: float) -> None:
        self.means, self.seen = iter(means), []
        self.trainer: MRLTrainer | None = None

    def of(self, evaluation: Any, iteration: int) -> Standing:
        assert self.trainer is not None
        now = weights(self.trainer.model)
        for known, mean in self.seen:
            if same(known, now):
                return standing(*[mean] * 4, iteration=iteration)
        self.seen.append((now, next(self.means)))
        return standing(*[self.seen[-1][1]] * 4, iteration=iteration)

    def train(self, trainer: MRLTrainer) -> MRLTrainer:
        self.trainer = trainer
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer_module, "Standing", self)
            trainer.train()
        return trainer


def test_a_run_that_never_falls_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    watched, alone = (trainer_in(tmp_path / name, TWO, step_back=given, **EACH) for name, given in (("a", {}), ("b", None)))
    Script(*(0.1 * step for step in range(9))).train(watched)
    alone.train()
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (tmp_path / "b/metrics.jsonl").read_bytes()
    for part in ("model", "critic"):
        assert same(weights(getattr(watched.learner, part)), weights(getattr(alone.learner, part)))
    assert watched.state == alone.state


class Stop(Exception):
    """Ends a run from outside."""


class StopAt(Callback):
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_iteration(self, progress: Any) -> None:
        if progress.iteration == self.iteration:
            raise Stop


FALLING = (0.5, 0.8, 0.3, 0.78, 0.85, 0.2, 0.9, 0.91, 0.92)
"""Of the start and the weights of each iteration: from 0.8 it falls at iteration 2, from 0.85 at iteration 5."""


@pytest.fixture
def fallen(tmp_path: Path) -> tuple[MRLTrainer, Script]:
    script = Script(*FALLING)
    return script.train(trainer_in(tmp_path / "whole", TWO, **EACH)), script


def test_a_fall_brings_the_best_weights_back_at_half_the_rate(fallen: tuple[MRLTrainer, Script]) -> None:
    trainer, script = fallen
    found = lines(trainer)
    assert [line.get("stepped_back_to") for line in found] == [None, 1, None, None, 4, None, None, None]
    assert [line.get("alarms") for line in found] == [None, ["step_back"], None, None, ["step_back"], None, None, None]
    plain = [line["learning_rate"] for line in found]
    rates = [1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    factors = [trainer.learner.optimizer.param_groups[0]["peak"] * rate for rate in rates]
    assert all(rate <= factor for rate, factor in zip(plain, factors, strict=True))
    assert trainer.guard.steps == 2
    alarms = trainer.state.alarms
    assert [(each["iteration"], each["stage"], each["name"]) for each in alarms] == [
        (2, "steps-1", "step_back"),
        (5, "steps-2", "step_back"),
    ]
    assert "retention fell from 0.8 to 0.3" in alarms[0]["message"]
    assert "went back to the weights of iteration 1, at 0.5 times the learning rate" in alarms[0]["message"]
    assert script.seen[-1][1] == 0.92
    assert same(weights(trainer.model), script.seen[-1][0])


def test_what_follows_a_fall_starts_from_the_good_weights(tmp_path: Path) -> None:
    before: list[dict[str, torch.Tensor]] = []
    script = Script(0.5, 0.8, 0.3, 0.78)

    class Look(Callback):
        def on_rollout(self, rollout: Any) -> None:
            before.append(weights(script.trainer.model))

    script.train(trainer_in(tmp_path, [{"steps": 1, "iterations": 3}], callbacks=[Look()], **EACH))
    assert same(before[2], before[1])  # iteration 2 was in vain
    assert not same(before[1], before[0])


@pytest.mark.parametrize("at", [2, 3, 5, 6])
def test_a_run_that_stops_around_a_fall_goes_on_exactly(at: int, fallen: tuple[MRLTrainer, Script], tmp_path: Path) -> None:
    whole, script = fallen
    with pytest.raises(Stop):
        script.train(trainer_in(tmp_path / "cut", TWO, callbacks=[StopAt(at)], **EACH))
    again = trainer_in(tmp_path / "cut", TWO, **EACH)
    assert again.resume()
    script.train(again)
    assert (tmp_path / "cut/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    assert same(weights(again.model), weights(whole.model))
    assert again.state == whole.state
    assert again.guard.state_dict() == whole.guard.state_dict()


def test_steps_back_are_counted_and_the_alarm_says_when_none_is_left(tmp_path: Path) -> None:
    script = Script(0.9, 0.4, 0.3, 0.2)
    trainer = script.train(trainer_in(tmp_path, [{"steps": 1, "iterations": 3}], step_back={"most": 1}, **EACH))
    assert [line.get("stepped_back_to") for line in lines(trainer)] == [0, None, None]
    assert [("no step back is left" in each["message"]) for each in trainer.state.alarms] == [False, True, True, False]
    # The end counts all the same.
    assert "ended at 0.2, below the 0.9 of the start: took the weights of iteration 0" in trainer.state.alarms[-1]["message"]
    assert same(weights(trainer.model), script.seen[0][0])


@pytest.mark.parametrize(
    ("means", "taken"),
    [
        ((0.60, 0.62, 0.58), 1),  # small falls, that make no step back
        ((0.60, 0.58, 0.57), 0),
        ((0.60, 0.62, 0.61), 2),  # below the best, above the start: the last stay
    ],
)
def test_a_run_ends_no_worse_than_it_began(means: tuple[float, ...], taken: int, tmp_path: Path) -> None:
    script = Script(*means)
    trainer = script.train(trainer_in(tmp_path, [{"steps": 1, "iterations": 2}], **EACH))
    assert same(weights(trainer.model), script.seen[taken][0])
    [kept] = numbered(trainer.run.checkpoints, BEST)
    assert json.loads((kept / STATE_FILE).read_text())["retention"] == max(means)
    again = trainer_in(tmp_path, [{"steps": 1, "iterations": 2}], **EACH)
    assert again.resume()
    assert same(weights(again.model), weights(trainer.model))


def test_a_later_stage_is_compared_with_the_start_there(tmp_path: Path) -> None:
    """The start did well at 2 turns, which nobody had looked at while 1 turn was trained."""
    script = Script(0.5, 0.6, 0.61, 0.62)
    trainer = trainer_in(tmp_path, [{"steps": 1, "iterations": 1}, {"steps": 2, "iterations": 2}], **EACH)
    script.trainer = trainer
    start, at_two_turns = weights(trainer.model), []

    def of(evaluation: Any, iteration: int) -> Standing:
        if same(weights(trainer.model), start) and evaluation.records[0].turn.steps == 2:
            at_two_turns.append(iteration)
            return standing(*[0.7] * 4, iteration=iteration)
        return Script.of(script, evaluation, iteration)

    script.of = of  # type: ignore[method-assign]
    script.train(trainer)
    assert at_two_turns[0] == 0
    assert same(weights(trainer.model), start)
    assert "took the weights of iteration 0, with 0.7" in trainer.state.alarms[-1]["message"]


@pytest.mark.parametrize("name", ["muon", "adamw", "sgd"])
def test_an_optimizer_forgets_the_direction_and_keeps_the_scale(name: str) -> None:
    layer = torch.nn.Linear(3, 3)
    optimizer = make_optimizer({"all": list(layer.named_parameters())}, OptimizerConfig(name=name))
    layer(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    before = {(p, key): value.clone() for p, state in optimizer.state.items() for key, value in state.items()}
    optimizer.forget_direction()
    after = {(p, key): value for p, state in optimizer.state.items() for key, value in state.items()}
    assert before.keys() == after.keys()
    for (p, key), value in after.items():
        assert torch.equal(value, torch.zeros_like(value) if key in {"mean", "momentum"} else before[p, key])
    assert any(key in {"mean", "momentum"} and value.any() for (_, key), value in before.items()) == (name != "sgd")
