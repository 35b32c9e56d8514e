"""Algorithms in the trainer: groups, critics, coefficients that adapt, options that reach the update, an algorithm of one's own."""

from itertools import pairwise

import pytest
import torch

from rxrl import registry
from rxrl.algorithms import BUILT_IN, Algorithm
from rxrl.algorithms.losses import LossResult, policy_gradient_loss
from rxrl.errors import ConfigError
from rxrl.training.callbacks import Callback
from tests.algorithms.test_config import EntryPoint
from tests.training.toy import lines, same, trainer_in, weights

EVERYTHING = {
    "entropy": 0.05,
    "kl": 0.1,
    "balance": 0.1,
    "memory_difference": 0.1,
    "memory_cosine": 0.1,
    "consistency": 0.1,
    "clip_high": 0.3,
    "loss_per": "turn",
    "checkpoint_turns": True,
    "experimental": {
        "self_imitation": 0.1,
        "self_imitation_above": 1.0,
        "dual_clip": 3.0,
        "advantage_per": "token",
        "token_lambda": 0.9,
        "adaptive_kl": 0.1,
        "burn_in": 1,
        "detach_every": 2,
    },
}


def alike(turns):
    """The same for every answer."""
    return [7.0 if turn.asking else None for turn in turns]


def one_stage(folder, algorithm, iterations=1, **changes):
    settings = {"episodes": 8, "evaluation": {"every": iterations, "conversations": 3}}
    return trainer_in(folder, [{"steps": 3, "iterations": iterations}], algorithm=algorithm, **settings | changes)


@pytest.mark.parametrize("kl_in", ["loss", "reward"])
@pytest.mark.parametrize("name", list(BUILT_IN))
def test_every_algorithm_trains_with_every_option_on(name, kl_in, tmp_path):
    epochs = 2 if BUILT_IN[name].reuses_rollouts else 1
    trainer = one_stage(tmp_path, {"name": name, "epochs": epochs, "minibatches": 2, "kl_in": kl_in, **EVERYTHING}, iterations=2)
    before, critic = weights(trainer.model), weights(trainer.learner.critic)
    trainer.train()
    first, second = lines(trainer)
    assert not same(before, weights(trainer.model))
    assert first["first_ratio_deviation"] == second["first_ratio_deviation"] == 0
    assert first["ratio_deviation"] > 0
    assert first["sampler_gap"] < 1e-4
    with_critic = name in {"ppo", "impo", "a2c"}
    assert same(critic, weights(trainer.learner.critic)) != with_critic
    assert {"value_loss", "explained_variance", "value"} & first.keys() == (
        {"value_loss", "explained_variance", "value"} if with_critic else set()
    )
    assert ({"memory_change", "memory_cosine", "consistency"} <= first.keys()) == (name == "impo")
    assert {"policy_loss", "entropy", "kl", "self_imitation", "approx_kl", "kl_coefficient"} <= first.keys()
    assert first["kl_coefficient"] == 0.1
    assert second["kl_coefficient"] != 0.1


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_groups_are_samples_of_one_conversation_from_one_stm0(name, tmp_path):
    trainer = one_stage(tmp_path, {"name": name})
    stage = trainer.scheduler.stage
    rollout = trainer.collect(stage, trainer.begin(stage))
    assert rollout.batch == 8
    assert rollout.group.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    ids = [turn.conversation_id for turn in rollout.scored_turns if turn.index == 1]
    assert ids == [ids[0]] * 4 + [ids[4]] * 4
    assert ids[0] != ids[4]
    assert all(torch.equal(rollout.stm0[:, group * 4], rollout.stm0[:, group * 4 + row]) for group in range(2) for row in range(4))


def test_episodes_that_make_no_whole_groups_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="8 episodes cannot be played as groups of 3"):
        one_stage(tmp_path, {"name": "grpo", "group_size": 3}).train()


@pytest.mark.parametrize("kind", ["text", "dialogue", "memory", "shared"])
def test_every_critic_learns(kind, tmp_path):
    trainer = one_stage(tmp_path, {"advantage": "gae", "minibatches": 2, "kl": 0.0}, iterations=2, critic=kind)
    before = weights(trainer.learner.critic)
    trainer.train()
    after = weights(trainer.learner.critic)
    assert all(not torch.equal(before[name], after[name]) for name in ("out.weight", "value.weight", "shift"))
    assert all({"value_loss", "explained_variance", "critic_grad_norm"} <= line.keys() for line in lines(trainer))


def test_a_shared_trunk_learns_from_the_value_loss(tmp_path):
    """With a policy loss that is 0 the policy's encoder moves all the same, and the memory attention does not."""
    quiet = {"name": "ppo", "entropy": 0.0, "kl": 0.0, "balance": 0.0, "minibatches": 1}
    moved = {}
    for kind in ("text", "shared"):
        trainer = one_stage(tmp_path / kind, quiet, critic=kind, optimizer={"name": "sgd", "learning_rate": 0.1, "weight_decay": 0.0})
        stage = trainer.scheduler.stage
        algorithm = trainer.begin(stage)
        rollout = trainer.collect(stage, algorithm)
        targets, _ = trainer.learner.estimate(rollout, algorithm)
        targets.advantages.zero_()
        before = weights(trainer.model)
        trainer.learner.update(rollout, targets, algorithm)
        after = weights(trainer.model)
        moved[kind] = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"text": set(), "shared": {"embedding", "encoder"}}


def test_an_adapted_coefficient_survives_a_resume(tmp_path):
    options = {"experimental": {"adaptive_kl": 1e-6, "adaptive_rate": 1.0}, "minibatches": 2}
    whole = one_stage(tmp_path / "whole", options, iterations=4, checkpoint_every=2)
    whole.train()
    coefficients = [line["kl_coefficient"] for line in lines(whole)]
    assert all(later == pytest.approx(1.2 * earlier, rel=1e-4) for earlier, later in pairwise(coefficients))
    cut = one_stage(tmp_path / "cut", options, iterations=4, checkpoint_every=2, callbacks=[StopAfter(3)])
    with pytest.raises(Stop):
        cut.train()
    resumed = one_stage(tmp_path / "cut", options, iterations=4, checkpoint_every=2)
    assert resumed.resume()
    assert resumed.state.iteration == 2
    resumed.train()
    assert lines(resumed) == lines(whole)


class Stop(Exception):
    """Ends a run from outside."""


class StopAfter(Callback):
    def __init__(self, iteration):
        self.iteration = iteration

    def on_iteration(self, progress):
        if progress.iteration == self.iteration:
            raise Stop


def test_a_packages_algorithm_trains(tmp_path, monkeypatch):
    """By entry point, with a loss and options of its own."""

    def loss(inputs, config):
        seen.append(config.options["strength"])
        plain = policy_gradient_loss(inputs)
        return LossResult(config.options["strength"] * plain.loss, {**plain.metrics, "mine": plain.loss.detach()})

    seen = []
    mine = Algorithm("mine", loss, advantage="return", reuses_rollouts=False)
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("mine", mine)])
    trainer = one_stage(tmp_path, {"name": "mine", "options": {"strength": 0.5}})
    trainer.train()
    assert seen == [0.5]
    assert "mine" in lines(trainer)[0]


@pytest.mark.parametrize("name", ["grpo", "rloo", "reinforce"])
@pytest.mark.parametrize("skip", [True, False])
def test_where_all_answers_earn_the_same_the_policy_stays_as_it_is(name, skip, tmp_path):
    algorithm = {"name": name, "gamma": 0.0, "minibatches": 2, "skip_without_advantage": skip}
    trainer = one_stage(tmp_path, algorithm, iterations=2, reward=alike)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items()) == skip
    assert (not trainer.learner.optimizer.state) == skip
    assert [line["without_advantage"] for line in lines(trainer)] == [1.0, 1.0]
    assert all(line["grad_norm"] > 0 for line in lines(trainer))
