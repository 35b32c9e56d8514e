"""Replay: the same numbers as at collection, from the same memory; the reference runs its own."""

from dataclasses import replace

import pytest
import torch

from rxrl.algorithms import AlgorithmConfig
from rxrl.data.tokenizer import Tokenizer
from rxrl.envs import ConversationVectorEnv
from rxrl.envs.scenarios import SCENARIOS, load, texts_of
from rxrl.models.trajectory import memory_trajectory
from rxrl.policies import ModelPolicy, StmBackend
from rxrl.rewards import load_reward
from rxrl.training.replay import policy_log_probs, reference_pass
from rxrl.training.rollout import collect
from rxrl.training.update import minibatches
from tests.training.steps import loss_and_gradients
from tests.training.toy import conversations, play, scenarios, targets_for, tiny_model, toy_critic


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.5])
@pytest.mark.parametrize(("double", "tolerance"), [(False, 1e-4), (True, 1e-10)])
@pytest.mark.parametrize("take", [conversations, scenarios])
def test_cached_and_replayed_log_probabilities_agree(temperature, double, tolerance, take):
    model = tiny_model(double=double)
    rollout = play(model, take(6, (8, 8, 5)), temperature=temperature)
    assert rollout.real.shape[0] == 8
    replayed = policy_log_probs(model, rollout, AlgorithmConfig(temperature=temperature))
    assert (replayed - rollout.sampled_log_probs).abs().max() <= tolerance
    assert replayed[rollout.answer].lt(0).all()
    if temperature != 1:
        raw = policy_log_probs(model, rollout, AlgorithmConfig())
        assert (raw - rollout.sampled_log_probs).abs().max() > 0.01


@pytest.mark.parametrize("bptt", [None, 1, 2])
@pytest.mark.parametrize("name", ["ppo", "impo"])
@pytest.mark.parametrize("take", [conversations, scenarios])
def test_the_ratio_is_exactly_1_before_the_first_step(name, bptt, take):
    """For every minibatch of the first epoch: what the loss sees is bit for bit an independent computation with unchanged weights."""
    model = tiny_model()
    rollout = play(model, take(7, (4, 2)), temperature=0.8)
    for count in (1, 3):
        config = AlgorithmConfig(name=name, temperature=0.8, minibatches=count, bptt_turns=bptt)
        for rows in minibatches(rollout.batch, count, 0):
            part = rollout.rows(rows)
            with torch.no_grad():
                independent = policy_log_probs(model, part, config)
            targets = replace(targets_for(model, part, config, toy_critic(model)), old_log_probs=independent)
            result, _, log_probs = loss_and_gradients(model, part, targets, config, model)
            assert torch.equal(log_probs, independent)
            assert result.metrics["ratio_deviation"] == 0
            assert result.metrics["approx_kl"] == 0
            assert result.metrics["clip_fraction"] == 0


def test_a_fresh_memory_at_the_update_would_show():
    """The ratio is 1 because of the stored stm0, not because memory does not matter."""
    model = tiny_model()
    rollout = play(model, conversations(6, 4))
    fresh = replace(rollout, stm0=model.init_memory(6, torch.Generator().manual_seed(99)))
    gap = (policy_log_probs(model, fresh, AlgorithmConfig()) - rollout.sampled_log_probs)[rollout.answer].abs()
    assert gap.mean() > 0.01


def test_first_pass_supplies_its_own_old_log_probabilities():
    model = tiny_model()
    rollout = play(model, conversations(3, 2))
    config = AlgorithmConfig()
    targets = targets_for(model, rollout, config, toy_critic(model))
    nonsense = replace(targets, old_log_probs=targets.old_log_probs - 3)
    _, honest, _ = loss_and_gradients(model, rollout, targets, config, model)
    result, first, _ = loss_and_gradients(model, rollout, nonsense, config, model, first=True)
    assert result.metrics["ratio_deviation"] == 0
    assert all(torch.equal(first[name], honest[name]) for name in honest)


def test_replay_from_a_carried_memory_reproduces_the_log_probabilities():
    model = tiny_model(double=True)
    before = play(model, conversations(4, 3, start=30))
    rollout = play(model, conversations(4, 4), left=before.left, reset_ratio=0.5, iteration=1)
    assert (rollout.carried >= 0).any()
    assert (policy_log_probs(model, rollout, AlgorithmConfig()) - rollout.sampled_log_probs).abs().max() <= 1e-10


def test_tokens_that_were_sampled_under_teacher_forcing_are_replayed():
    model = tiny_model(double=True)
    rollout = play(model, conversations(4, 5), teacher_forcing=True)
    assert (policy_log_probs(model, rollout, AlgorithmConfig()) - rollout.sampled_log_probs).abs().max() <= 1e-10


def test_the_reference_runs_its_own_memory():
    model, reference = tiny_model(), tiny_model(seed=9)
    rollout = play(model, conversations(3, (4, 2)))
    hidden, left = reference_pass(reference, rollout)
    again, _ = reference_pass(reference, replace(rollout, left=rollout.left + 1))
    assert torch.equal(hidden, again)
    with torch.no_grad():
        stms = memory_trajectory(reference, rollout.stm0, rollout.writes.ids, rollout.writes.mask)
    lengths = rollout.real.sum(0)
    assert all(torch.equal(left[:, row], stms[:, int(lengths[row]) - 1, row]) for row in range(3))
    config = AlgorithmConfig(kl=0.1)
    same = targets_for(model, rollout, config, toy_critic(model), model)
    other = targets_for(model, rollout, config, toy_critic(model), reference)
    assert loss_and_gradients(model, rollout, same, config, model)[0].metrics["kl"].abs() < 1e-6
    assert loss_and_gradients(model, rollout, other, config, reference)[0].metrics["kl"] > 1e-3


def test_the_reference_carries_its_own_memory_over():
    model, reference = tiny_model(), tiny_model(seed=9)
    before = play(model, conversations(3, 2, start=20))
    _, left = reference_pass(reference, before)
    rollout = play(model, conversations(4, 3), left=before.left, reset_ratio=0.5, iteration=1)
    carried = rollout.carried >= 0
    own, _ = reference_pass(reference, rollout, left)
    shared, _ = reference_pass(reference, rollout)
    stm0 = torch.where(carried[None, :, None, None], left[:, rollout.carried], rollout.stm0)
    expected, _ = reference_pass(reference, replace(rollout, stm0=stm0))
    assert torch.equal(own, expected)
    assert torch.equal(own[:, ~carried], shared[:, ~carried])
    assert not torch.allclose(own[:, carried], shared[:, carried])
    # With the same weights both carry the same.
    _, mine = reference_pass(model, before)
    assert torch.allclose(reference_pass(model, rollout, mine)[0], reference_pass(model, rollout)[0], atol=1e-4)


@pytest.mark.parametrize("temperature", [0.7, 1.4])
def test_policy_and_reference_are_compared_at_one_temperature(temperature):
    model = tiny_model(double=True)
    rollout = play(model, conversations(3, 3), temperature=temperature)
    config = AlgorithmConfig(kl=0.1, temperature=temperature)
    result, _, _ = loss_and_gradients(model, rollout, targets_for(model, rollout, config, toy_critic(model)), config, model)
    assert result.metrics["kl"].abs() < 1e-10


def test_built_in_scenarios_are_replayed_as_they_were_played():
    """All of them in one batch, with queries of their own lengths."""
    chosen = [load(name).take(steps=3)[0] for name, kind in SCENARIOS.built_in.items() if not kind.asks_outside]
    codec = Tokenizer.train([text for each in chosen for text in texts_of(each)], 400)
    model = tiny_model(double=True, vocab_size=codec.vocab_size, max_length=96)
    env = ConversationVectorEnv(
        chosen, memory=StmBackend(model), reward=load_reward("outcome"), codec=codec, num_envs=len(chosen), max_answer_tokens=4
    )
    rollout = collect(env, ModelPolicy(model, 5), chosen, seed=0, iteration=0)
    assert rollout.real.all()
    config = AlgorithmConfig()
    replayed = policy_log_probs(model, rollout, config)
    assert (replayed - rollout.sampled_log_probs).abs().max() <= 1e-10
    targets = replace(targets_for(model, rollout, config, toy_critic(model)), old_log_probs=replayed)
    assert loss_and_gradients(model, rollout, targets, config, model)[0].metrics["ratio_deviation"] == 0
