"""Training on a GPU: the numbers of a CPU, ratios of 1, runs that go on after a stop, and that it learns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from rxrl.algorithms import BUILT_IN
from rxrl.models import ReactiveTransformer
from rxrl.training.callbacks import Callback
from rxrl.training.replay import policy_log_probs
from rxrl.training.trainer import MRLTrainer
from rxrl.training.update import actor_loss, minibatches
from scripts.learning import LEARNED, TASKS, accuracy, recall_trainer
from tests.gpu.parts import flat, gap
from tests.training import toy
from tests.training.toy import lines, tiny_model

ALL_ON = {"entropy": 0.05, "kl": 0.1, "balance": 0.1, "memory_difference": 0.1, "memory_cosine": 0.1, "consistency": 0.1, "value_clip": 1.0}
STAGE = {"steps": 3, "iterations": 1}


def pico(seed: int = 0, **changes: object) -> ReactiveTransformer:
    """Of its full size, with the vocabulary of the toy world."""
    return tiny_model(seed, **{"dim": 64, "slots": 32, "max_length": 96, **changes})


def trainer_in(folder: Path, *stages: dict[str, Any], model: ReactiveTransformer | None = None, **changes: Any) -> MRLTrainer:
    settings = {"episodes": 8, "evaluation": {"every": 2, "conversations": 4}}
    return toy.trainer_in(folder, stages or [STAGE], model=model or pico(), **settings | changes)


def trained(trainer: MRLTrainer) -> list[dict[str, Any]]:
    """Trains on the GPU; every number is finite, and the first ratio is 1."""
    assert trainer.processes.device.type == "cuda"
    trainer.train()
    assert trainer.model.device.type == trainer.learner.reference.device.type == "cuda"
    found = lines(trainer)
    for line in found:
        assert all(math.isfinite(value) for value in line.values() if isinstance(value, float)), line
        assert line["first_ratio_deviation"] == 0
    return found


def assert_near(found: dict[str, Any], expected: dict[str, Any], rel: float, absolute: float = 1e-4) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == (pytest.approx(value, rel=rel, abs=absolute) if isinstance(value, float) else value), key


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_iteration_of_every_algorithm_gives_the_numbers_of_a_cpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Draws are made on the CPU, so the same answers come out and the same update follows."""
    [found] = trained(trainer_in(tmp_path / "gpu", algorithm={"name": name}))
    assert found["sampler_gap"] < 1e-4
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    there = trainer_in(tmp_path / "cpu", algorithm={"name": name})
    assert there.processes.device.type == "cpu"
    there.train()
    [expected] = lines(there)
    assert_near(found | {"sampler_gap": 0}, expected | {"sampler_gap": 0}, rel=2e-3)


@pytest.mark.parametrize("name", ["ppo", "impo"])
@pytest.mark.parametrize(
    "changes", [{}, {"checkpoint_turns": True}, {"bptt_turns": 1}, {"checkpoint_turns": True, "bptt_turns": 2}], ids=str
)
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_every_term_at_once(name: str, changes: dict[str, Any], precision: str, tmp_path: Path):
    algorithm = {"name": name, "epochs": 2, "minibatches": 3, "temperature": 0.9, **ALL_ON, **changes}
    trainer = trainer_in(tmp_path, algorithm=algorithm, precision=precision)
    [line] = trained(trainer)
    assert line["sampler_gap"] < (1e-4 if precision == "no" else 0.5)
    assert line["epochs"] == 2
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "changes",
    [
        {"critic": "memory"},
        {"critic": "shared"},
        {"micro_batch": 1},
        {"algorithm": {"kl_in": "reward", "experimental": {"advantage_per": "token"}}},
        {"algorithm": {"experimental": {"kl_estimator": "k3", "burn_in": 1, "detach_every": 1}}},
        {"algorithm": {"name": "impo", "experimental": {"consistency_form": "positions", "memory_form": "raw"}}},
        {"algorithm": {"experimental": {"self_imitation": 0.1, "self_imitation_above": 0.0}, "loss_per": "episode"}},
        {"algorithm": {"target_kl": 1e-9, "epochs": 3, "experimental": {"adaptive_kl": 0.01}}},
        {"reward": "classic"},
        {"optimizer": {"name": "adamw", "learning_rate": 1e-3}},
    ],
    ids=str,
)
def test_every_way_to_train_runs(changes: dict[str, Any], tmp_path: Path):
    trained(trainer_in(tmp_path, {"steps": 3, "iterations": 2, "reset_ratio": 0.5}, **changes))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_old_log_probabilities_are_those_of_the_update(precision: str, tmp_path: Path):
    """Of the first pass, whose own they are, exactly; for the others a GPU may take other kernels without gradients than with them."""
    trainer = trainer_in(tmp_path, algorithm={"name": "impo", "minibatches": 3, "temperature": 0.8}, precision=precision)
    stage, algorithm = trainer.scheduler.stage, trainer.begin(trainer.scheduler.stage)
    rollout = trainer.collect(stage, algorithm)
    targets, _ = trainer.learner.estimate(rollout, algorithm)
    for rows in minibatches(rollout.batch, 3, 0):
        part = rollout.rows(rows)
        with trainer.processes.autocast():
            with torch.no_grad():
                independent = policy_log_probs(trainer.model, part, algorithm)
            targets = targets.with_old_log_probs(rows, independent)
            result, log_probs = actor_loss(trainer.model, part, targets.rows(rows), algorithm, trainer.learner.reference.decoder.head)
        assert (log_probs - independent).abs().max() < (1e-5 if precision == "no" else 0.05)
        assert result.metrics["ratio_deviation"] < (1e-5 if precision == "no" else 0.02)
        result, _ = actor_loss(trainer.model, part, targets.rows(rows), algorithm, trainer.learner.reference.decoder.head, True)
        assert result.metrics["ratio_deviation"] == 0
        assert result.metrics["approx_kl"] == 0


def test_recomputing_turns_gives_the_same_gradients(tmp_path: Path):
    trainer = trainer_in(tmp_path, {"steps": 5, "iterations": 1}, algorithm={"name": "impo", **ALL_ON})
    stage, whole = trainer.scheduler.stage, trainer.begin(trainer.scheduler.stage)
    rollout = trainer.collect(stage, whole)
    targets, _ = trainer.learner.estimate(rollout, whole)
    found = []
    for algorithm in (whole, whole.model_copy(update={"checkpoint_turns": True})):
        trainer.model.zero_grad()
        actor_loss(trainer.model, rollout, targets, algorithm, trainer.learner.reference.decoder.head, True)[0].loss.backward()
        found.append(flat([p.grad for p in trainer.model.parameters() if p.grad is not None]))
    assert gap(found[1], found[0]) < 1e-4


class Stop(Exception):
    """Ends a run from outside."""


class StopAt(Callback):
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_iteration(self, progress: Any) -> None:
        if progress.iteration == self.iteration:
            raise Stop


@pytest.fixture(scope="module", params=["no", "bf16"])
def resumed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A run that was never stopped, and one that was stopped and gone on with by a trainer that knows nothing of it."""
    folder = tmp_path_factory.mktemp("resumed")
    stages = [{"steps": 2, "iterations": 3, "reset_ratio": 0.3}, {"steps": 3, "iterations": 3, "earlier_share": 0.5, "reset_ratio": 0.3}]
    options = {"algorithm": {"name": "impo", "minibatches": 2, "epochs": 2}, "checkpoint_every": 2, "precision": request.param}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ACCELERATE_USE_CPU", raising=False)
        AcceleratorState._reset_state(reset_partial_state=True)
        whole = trainer_in(folder / "whole", *stages, **options)
        whole.train()
        cut = trainer_in(folder / "cut", *stages, callbacks=[StopAt(3)], **options)
        with pytest.raises(Stop):
            cut.train()
        again = trainer_in(folder / "cut", *stages, model=pico(seed=5), **options)
        assert again.resume()
        assert again.state.iteration == 2
        again.train()
    return SimpleNamespace(whole=whole, again=again)


def test_a_resumed_run_has_the_metrics_of_one_that_was_never_stopped(resumed: SimpleNamespace):
    assert resumed.again.model.device.type == "cuda"
    found, expected = lines(resumed.again), lines(resumed.whole)
    assert len(found) == len(expected) == 6
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other, rel=1e-4)


def test_a_resumed_run_is_bit_for_bit_the_one_that_was_never_stopped(resumed: SimpleNamespace):
    assert lines(resumed.again) == lines(resumed.whole)
    for one, other in ((resumed.again.model, resumed.whole.model), (resumed.again.learner.critic, resumed.whole.learner.critic)):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_an_evaluation_plays_every_conversation_and_its_controls(tmp_path: Path):
    trainer = trainer_in(tmp_path, precision="bf16")
    found = trainer.evaluate(trainer.scheduler.stage, 7, controls=["empty_memory"])
    assert len({record.turn.conversation_id for record in found.records}) == 7
    assert len(found.control_records["empty_memory"]) == len(found.records)


def test_reward_alone_teaches_to_recall_one_of_two_words(tmp_path: Path):
    trainer = recall_trainer("impo", tmp_path, TASKS["at once"])
    assert trainer.processes.device.type == "cuda"
    assert accuracy(trainer.evaluate(trainer.scheduler.stage).records) < 0.6
    trainer.train()
    after = trainer.evaluate(trainer.scheduler.stage, controls=["empty_memory"])
    assert accuracy(after.records) >= LEARNED
    assert accuracy(after.control_records["empty_memory"]) < 0.7
