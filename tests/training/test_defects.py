"""Defects that trainers of this kind have had, and that no other file shows ours not to have."""

from collections import Counter

import pytest
import torch

from rxrl.algorithms import AlgorithmConfig
from rxrl.config import parse_config
from rxrl.errors import ConfigError
from rxrl.policies import ModelPolicy
from rxrl.training import learner as learner_module
from rxrl.training.replay import policy_log_probs
from rxrl.training.targets import advantages_of
from rxrl.types import EOS, TokenBatch
from tests.training import toy
from tests.training.toy import conversations, play, tiny_model


def trainer_in(folder, algorithm, **changes):
    settings = {"episodes": 8, "evaluation": {"every": 1, "conversations": 3}, "algorithm": algorithm} | changes
    return toy.trainer_in(folder, [{"steps": 3, "iterations": 1}], **settings)


STILL = {"name": "sgd", "learning_rate": 1e-30, "weight_decay": 0.0}
"""Steps that change no weight."""


def test_every_epoch_replays_from_the_memory_that_the_rollout_started_from(tmp_path):
    """With weights that stand still every ratio stays 1 and the reference says the same, in all epochs, also from carried memories."""
    options = {"name": "impo", "epochs": 3, "minibatches": 2}
    trainer = trainer_in(tmp_path, options, optimizer=STILL)
    stage = trainer.scheduler.stage.model_copy(update={"reset_ratio": 0.5})
    for _ in range(2):
        algorithm = trainer.begin(stage)
        rollout = trainer.collect(stage, algorithm)
        targets, _ = trainer.learner.estimate(rollout, algorithm)
        metrics = trainer.learner.update(rollout, targets, algorithm)
        trainer.left = trainer.processes.rows(rollout.left, dim=1)
        # Minibatches of later epochs have other rows and other padding, hence other rounding.
        assert metrics["ratio_deviation"] < 1e-5
        assert abs(metrics["kl"]) < 1e-6
        assert metrics["epochs"] == 3
        trainer.state.iteration += 1
    assert (rollout.carried >= 0).any()


def test_tokens_stay_whole_numbers():
    rollout = play(tiny_model(double=True), conversations(3, 2))
    batches = (rollout.writes, rollout.turns, rollout.critic_tokens, rollout.after, rollout.after_query, rollout.unwritten)
    assert {batch.ids.dtype for batch in batches} == {torch.int64}
    assert {rollout.turn.dtype, rollout.steps.dtype, rollout.group.dtype} == {torch.int64}
    assert rollout.stm0.dtype == torch.float64


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_every_epoch_trains_on_every_episode_once(micro_batch, tmp_path, monkeypatch):
    inner, seen = learner_module.actor_loss, []

    def counting(model, rollout, *arguments, **options):
        if torch.is_grad_enabled():
            seen.extend(map(tuple, rollout.turns.ids.transpose(0, 1).flatten(1).tolist()))
        return inner(model, rollout, *arguments, **options)

    monkeypatch.setattr(learner_module, "actor_loss", counting)
    trainer = trainer_in(tmp_path, {"epochs": 2, "minibatches": 3}, episodes=7, micro_batch=micro_batch)
    stage = trainer.scheduler.stage
    algorithm = trainer.begin(stage)
    rollout = trainer.collect(stage, algorithm)
    targets, _ = trainer.learner.estimate(rollout, algorithm)
    trainer.learner.update(rollout, targets, algorithm)
    assert Counter(seen) == Counter(2 * list(map(tuple, rollout.turns.ids.transpose(0, 1).flatten(1).tolist())))


def test_an_update_leaves_the_rollout_as_it_was(tmp_path):
    trainer = trainer_in(tmp_path, {"name": "impo", "epochs": 2, "minibatches": 2})
    stage = trainer.scheduler.stage
    algorithm = trainer.begin(stage)
    rollout = trainer.collect(stage, algorithm)
    fields = ("sampled_log_probs", "rewards", "stm0", "answer", "scored", "real", "left")
    before = {name: getattr(rollout, name).clone() for name in fields}
    tokens = [rollout.turns.ids.clone(), rollout.writes.ids.clone(), rollout.critic_tokens.ids.clone()]
    targets, _ = trainer.learner.estimate(rollout, algorithm)
    advantages = targets.advantages.clone()
    trainer.learner.update(rollout, targets, algorithm)
    assert all(torch.equal(before[name], getattr(rollout, name)) for name in fields)
    assert all(torch.equal(a, b) for a, b in zip(tokens, (rollout.turns.ids, rollout.writes.ids, rollout.critic_tokens.ids), strict=True))
    assert torch.equal(advantages, targets.advantages)


def test_evaluation_starts_from_fresh_memory_whatever_training_carries(tmp_path):
    trainer = trainer_in(tmp_path, {})
    stage = trainer.scheduler.stage.model_copy(update={"reset_ratio": 0.0})
    fresh = trainer.evaluate(stage)
    trainer.left = 9 * torch.ones_like(trainer.model.init_memory(8))
    carrying = trainer.evaluate(stage)
    assert [record.turn.answer for record in fresh.records] == [record.turn.answer for record in carrying.records]


@pytest.mark.parametrize("option", ["top_k", "top_p"])
def test_truncated_sampling_is_no_option_of_training(option):
    with pytest.raises(ConfigError, match=option):
        parse_config({option: 0.5}, AlgorithmConfig)


def test_a_policy_leaves_the_observation_as_it_was():
    model = tiny_model()
    prompts = TokenBatch.pad([[1, 5, 8, 9, 6], [1, 5, 8, 6]])
    before = prompts.ids.clone(), prompts.mask.clone()
    memory = model.init_memory(2, torch.Generator().manual_seed(0))
    kept = memory.clone()
    ModelPolicy(model, 4).act(prompts, memory, [torch.Generator().manual_seed(row) for row in range(2)])
    assert torch.equal(prompts.ids, before[0])
    assert torch.equal(prompts.mask, before[1])
    assert torch.equal(memory, kept)


@pytest.mark.parametrize("form", ["gae", "reward-value", "return"])
def test_the_last_turn_is_whitened_with_the_others(form):
    """Also that of the episodes which end before the longest one."""
    rollout = play(tiny_model(), conversations(6, (4, 2)))
    values = torch.randn(rollout.rewards.shape, generator=torch.Generator().manual_seed(0))
    white, _ = advantages_of(rollout, values, AlgorithmConfig(advantage=form, whiten=True))
    raw, _ = advantages_of(rollout, values, AlgorithmConfig(advantage=form, whiten=False))
    counted = raw[rollout.real]
    expected = (raw - counted.mean()) / counted.std(unbiased=False)
    last = rollout.real.sum(0) - 1
    rows = torch.arange(6)
    assert torch.allclose(white[last, rows], expected[last, rows], atol=1e-4)


def test_log_probabilities_belong_to_the_sampled_tokens_empty_answers_included():
    """An empty answer is its end token, which was sampled like any other."""
    model = tiny_model(double=True)
    with torch.no_grad():
        model.decoder.head.bias[EOS] += 4
    rollout = play(model, conversations(8, 3))
    first = rollout.answer & (rollout.answer.cumsum(-1) == 1)
    empty = (rollout.turns.ids == EOS) & first
    assert empty.any()
    assert rollout.answer.any(-1).equal(rollout.real)
    assert rollout.sampled_log_probs[rollout.answer].lt(0).all()
    assert (policy_log_probs(model, rollout, AlgorithmConfig()) - rollout.sampled_log_probs)[empty].abs().max() < 1e-10


def test_self_imitation_adds_to_fresh_data_and_replaces_none(tmp_path):
    """The same conversations and answers are collected and the policy loss is the same; only a term comes on top."""
    lines = {}
    for coefficient in (0.0, 0.5):
        options = {"experimental": {"self_imitation": coefficient, "self_imitation_above": 0.1}, "kl": 0.0, "entropy": 0.0, "balance": 0.0}
        trainer = trainer_in(tmp_path / str(coefficient), options, optimizer=STILL)
        stage = trainer.scheduler.stage
        algorithm = trainer.begin(stage)
        rollout = trainer.collect(stage, algorithm)
        targets, _ = trainer.learner.estimate(rollout, algorithm)
        lines[coefficient] = trainer.learner.update(rollout, targets, algorithm), rollout
    (off, fresh), (on, same) = lines[0.0], lines[0.5]
    assert torch.equal(fresh.turns.ids, same.turns.ids)
    assert torch.allclose(off["policy_loss"], on["policy_loss"], atol=1e-7)
    assert on["self_imitation"] > 0
    assert float(on["loss"] - off["loss"]) == pytest.approx(0.5 * float(on["self_imitation"]), rel=1e-4)
