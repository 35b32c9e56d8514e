"""The update: the same numbers as at collection, gradients through memory, and nothing that depends on how rows are batched."""

from dataclasses import replace

import pytest
import torch

from rxrl.algorithms import AlgorithmConfig
from rxrl.algorithms.losses import exact_kl
from rxrl.models.replay import answer_hidden, memory_trajectory
from rxrl.training import update
from rxrl.training.rollout import Rollout
from rxrl.training.update import (
    Targets,
    actor_loss,
    advantages_of,
    critic_loss,
    critic_values,
    minibatches,
    policy_log_probs,
    reference_pass,
    rollout_metrics,
    targets_of_rows,
    trajectory,
)
from tests.training.toy import conversations, play, targets_for, tiny_model, toy_critic, unscored_tells, widened

ALL_ON = {"entropy": 0.05, "kl": 0.1, "balance": 0.1, "memory_difference": 0.1, "memory_cosine": 0.1, "consistency": 0.1}


def moved(model, by=0.05):
    """A copy with other weights: the actor after some updates."""
    other = tiny_model(double=model.dtype == torch.float64, layers=model.config.layers, dim=model.config.dim)
    generator = torch.Generator().manual_seed(77)
    with torch.no_grad():
        for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs + by * torch.randn(theirs.shape, generator=generator, dtype=theirs.dtype))
    return other


def loss_and_gradients(model, rollout, targets, config, reference, first=False):
    model.zero_grad()
    result, log_probs = actor_loss(model, rollout, targets, config, reference.decoder.head, first)
    result.loss.backward()
    return result, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, log_probs


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.5])
@pytest.mark.parametrize(("double", "tolerance"), [(False, 1e-4), (True, 1e-10)])
def test_cached_and_replayed_log_probabilities_agree(temperature, double, tolerance):
    model = tiny_model(double=double)
    rollout = play(model, conversations(6, (8, 8, 5)), temperature=temperature)
    assert rollout.real.shape[0] == 8
    replayed = policy_log_probs(model, rollout, AlgorithmConfig(temperature=temperature))
    assert (replayed - rollout.sampled_log_probs).abs().max() <= tolerance
    assert replayed[rollout.answer].lt(0).all()
    if temperature != 1:
        raw = policy_log_probs(model, rollout, AlgorithmConfig())
        assert (raw - rollout.sampled_log_probs).abs().max() > 0.01


@pytest.mark.parametrize("bptt", [None, 1, 2])
@pytest.mark.parametrize("name", ["ppo", "impo"])
def test_the_ratio_is_exactly_1_before_the_first_step(name, bptt):
    """For every minibatch of the first epoch: what the loss sees is bit for bit an independent computation with unchanged weights."""
    model = tiny_model()
    rollout = play(model, conversations(7, (4, 2)), temperature=0.8)
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


# Gradients through memory


def gradient_at_writes(model, rollout, bptt):
    """For each write, the size of the gradient that the answers of the last turn alone send to its encoded data."""
    encoded = []
    encode = model.encode

    def recording(*arguments):
        encoded.append(encode(*arguments))
        encoded[-1].retain_grad()
        return encoded[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "encode", recording)
        policy_log_probs(model, rollout, AlgorithmConfig(bptt_turns=bptt))[-1].sum().backward()
    [data] = encoded
    return data.grad.view(data.shape[0], len(rollout.real), -1).abs().amax((0, 2))


def test_gradients_reach_the_write_of_turn_1_from_the_answer_of_turn_8():
    model = tiny_model(double=True)
    rollout = play(model, conversations(3, 8))
    for bptt, first in ((None, 0), (8, 0), (7, 1), (3, 5), (1, 7)):
        gradients = gradient_at_writes(model, rollout, bptt)
        assert gradients[first:].gt(1e-9).all()
        assert gradients[:first].eq(0).all()


def test_the_window_changes_gradients_and_not_values():
    model = tiny_model(double=True)
    rollout = play(model, conversations(3, 5))
    values = [policy_log_probs(model, rollout, AlgorithmConfig(bptt_turns=k)).detach() for k in (None, 1, 3, 5, 9)]
    assert all((value - values[0]).abs().max() < 1e-12 for value in values)


@pytest.mark.parametrize("name", ["ppo", "impo"])
def test_gradients_equal_finite_differences_through_four_turns_of_memory(name, monkeypatch):
    model = tiny_model(double=True, layers=1, dim=8)
    reference = tiny_model(seed=3, double=True, layers=1, dim=8)
    config = AlgorithmConfig(name=name, **ALL_ON, clip=10.0)
    rollout = play(model, conversations(2, 4))
    targets = targets_for(model, rollout, config, toy_critic(model), reference)
    actor = moved(model)
    held = update._previous(actor, trajectory(actor, rollout, None).detach(), rollout, config)

    def loss():
        return actor_loss(actor, rollout, targets, config, reference.decoder.head)[0].loss

    actor.zero_grad()
    loss().backward()
    # The loss holds the policy that reads the memory of the turn before constant; so do the differences.
    monkeypatch.setattr(update, "_previous", lambda *_: held)
    generator = torch.Generator().manual_seed(0)
    for group, named in actor.group_parameters().items():
        trained = [(n, p) for n, p in named if p.grad is not None and p.grad.abs().max() > 0]
        assert trained, group
        for pick in torch.randint(len(trained), (4,), generator=generator).tolist():
            parameter_name, p = trained[pick]
            at = int(p.grad.abs().flatten().multinomial(1, generator=generator))
            expected = float(p.grad.flatten()[at])
            found = slope(loss, p, at)
            assert found == pytest.approx(expected, rel=2e-4, abs=1e-8), (group, parameter_name)


def slope(function, parameter, at, step=1e-5):
    with torch.no_grad():
        entry = parameter.view(-1)
        before = float(entry[at])
        entry[at] = before + step
        above = float(function())
        entry[at] = before - step
        below = float(function())
        entry[at] = before
    return (above - below) / (2 * step)


# Batches


def full_update(model, rollout, targets, config, reference, critic):
    """Loss, gradients of the actor and of the critic."""
    result, gradients, _ = loss_and_gradients(model, rollout, targets, config, reference)
    critic.zero_grad()
    value = critic_loss(critic, rollout, targets, config)
    value.loss.backward()
    gradients |= {f"critic.{name}": p.grad.clone() for name, p in critic.named_parameters() if p.grad is not None}
    return result, value, gradients


def assert_same(one, two):
    for a, b in zip(one[:2], two[:2], strict=True):
        assert torch.allclose(a.loss, b.loss, rtol=1e-10, atol=1e-12)
        assert a.metrics.keys() == b.metrics.keys()
        for name in a.metrics:
            assert torch.allclose(a.metrics[name], b.metrics[name], rtol=1e-9, atol=1e-12), name
    assert one[2].keys() == two[2].keys()
    for name, gradient in one[2].items():
        assert torch.allclose(gradient, two[2][name], rtol=1e-8, atol=1e-12), name


@pytest.mark.parametrize("name", ["ppo", "impo"])
def test_order_and_padding_change_neither_losses_nor_gradients(name):
    model = tiny_model(double=True)
    reference, actor, critic = tiny_model(seed=5, double=True), moved(model), toy_critic(model)
    config = AlgorithmConfig(name=name, advantage="gae", value_clip=0.5, **ALL_ON)
    chosen = conversations(5, (3, 1, 4))
    rollout = play(model, chosen)
    base = full_update(actor, rollout, targets_for(model, rollout, config, critic, reference), config, reference, critic)
    shuffled = play(model, [chosen[index] for index in (3, 0, 4, 2, 1)])
    more_rows = play(model, chosen, rows=8)
    longer = widened(rollout, 5)
    for other in (shuffled, more_rows, longer, with_empty_turns(rollout, 2)):
        assert_same(base, full_update(actor, other, targets_for(model, other, config, critic, reference), config, reference, critic))


def with_empty_turns(rollout: Rollout, turns: int) -> Rollout:
    """The same rollout with turns behind it in which no row is real."""

    def more(values, fill=0):
        return torch.cat([values, values.new_full((turns, *values.shape[1:]), fill)])

    def batch(given):
        return replace(given, ids=more(given.ids), mask=more(given.mask))

    return replace(
        rollout,
        writes=batch(rollout.writes),
        turns=batch(rollout.turns),
        critic=batch(rollout.critic),
        answer=more(rollout.answer),
        sampled_log_probs=more(rollout.sampled_log_probs),
        rewards=more(rollout.rewards, 123.0),
        scored=more(rollout.scored),
        asking=more(rollout.asking),
        real=more(rollout.real),
        turn=more(rollout.turn, 9),
        steps=torch.cat([rollout.steps, rollout.steps[:1].expand(turns, -1)]),
    )


def test_minibatches_of_one_row_sum_to_the_whole_batch():
    """A weighted sum over rows: what each conversation contributes does not depend on its neighbours."""
    model = tiny_model(double=True)
    actor, config = moved(model), AlgorithmConfig(kl=0.1, balance=0.0)
    rollout = play(model, conversations(4, (1, 3)))
    targets = targets_for(model, rollout, config, toy_critic(model))
    _, whole, _ = loss_and_gradients(actor, rollout, targets, config, model)
    tokens = int(rollout.answer.sum())
    total = dict.fromkeys(whole, 0.0)
    for row in range(4):
        index = torch.tensor([row])
        part = rollout.rows(index)
        _, gradients, _ = loss_and_gradients(actor, part, targets_of_rows(targets, index), config, model)
        total = {name: total[name] + gradients[name] * int(part.answer.sum()) / tokens for name in total}
    assert all(torch.allclose(whole[name], total[name], rtol=1e-8, atol=1e-12) for name in whole)


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (1, 4), (5, 4), (7, 3), (8, 8), (6, 9)])
def test_minibatches_use_every_row_once(batch, count):
    parts = list(minibatches(batch, count, 0, "minibatch"))
    assert len(parts) == min(batch, count)
    assert sorted(torch.cat(parts).tolist()) == list(range(batch))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    again, other = list(minibatches(batch, count, 0, "minibatch")), list(minibatches(batch, count, 1, "minibatch"))
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    if batch == 8:
        assert [p.tolist() for p in parts] != [p.tolist() for p in other]


# What is fixed before the first step


def test_advantages_are_whitened_over_scored_turns_and_0_elsewhere():
    model = tiny_model()
    rollout = play(model, conversations(6, (5, 2)), reward=unscored_tells)
    assert (rollout.real & ~rollout.scored).any()
    values = torch.randn(rollout.rewards.shape, generator=torch.Generator().manual_seed(0))
    for form in ("gae", "reward-value"):
        advantages, returns = advantages_of(rollout, values, AlgorithmConfig(advantage=form))
        assert abs(float(advantages[rollout.scored].mean())) < 1e-5
        assert abs(float(advantages[rollout.scored].std(unbiased=False)) - 1) < 1e-3
        assert advantages[~rollout.scored].eq(0).all()
        raw, _ = advantages_of(rollout, values, AlgorithmConfig(advantage=form, whiten=False))
        assert torch.allclose(raw[rollout.scored], (returns - values)[rollout.scored], atol=1e-5)


def test_unscored_turns_reach_neither_advantages_nor_the_critic():
    model = tiny_model()
    critic, config = toy_critic(model), AlgorithmConfig(advantage="gae")
    rollout = play(model, conversations(6, (5, 2)), reward=unscored_tells)
    out = ~rollout.scored
    values = critic_values(critic, rollout).detach()
    changed, rewards = values.masked_fill(out, 55.0), rollout.rewards.masked_fill(out, -7.0)
    one, two = advantages_of(rollout, values, config), advantages_of(replace(rollout, rewards=rewards), changed, config)
    assert torch.allclose(one[0], two[0])
    assert torch.allclose(one[1][rollout.scored], two[1][rollout.scored])
    targets = Targets(*one, values, rollout.sampled_log_probs, None)
    loss = critic_loss(critic, rollout, targets, config).loss
    assert torch.allclose(loss, critic_loss(critic, rollout, replace(targets, returns=one[1].masked_fill(out, 99.0)), config).loss)


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


@pytest.mark.parametrize("name", ["ppo", "impo"])
def test_every_coefficient_is_felt_in_the_update(name):
    model, reference = tiny_model(), tiny_model(seed=9)
    rollout = play(model, conversations(4, 3))
    on = AlgorithmConfig(name=name, **ALL_ON)
    targets = targets_for(model, rollout, on, toy_critic(model), reference)
    base = loss_and_gradients(model, rollout, targets, on, reference)[0]
    names = ALL_ON if name == "impo" else ("entropy", "kl", "balance")
    for coefficient in names:
        off = AlgorithmConfig(name=name, **ALL_ON | {coefficient: 0.0})
        aims = replace(targets, reference_hidden=targets.reference_hidden if off.kl else None)
        result = loss_and_gradients(model, rollout, aims, off, reference)[0]
        assert not torch.allclose(result.loss, base.loss, atol=1e-7), coefficient
    assert {"policy_loss", "entropy", "kl", "balance", "ratio", "clip_fraction", "approx_kl"} <= base.metrics.keys()
    assert ({"memory_change", "memory_cosine", "consistency"} <= base.metrics.keys()) == (name == "impo")
    assert all(value.isfinite() for value in base.metrics.values())


def test_consistency_compares_with_the_memory_of_the_turn_before():
    """Where memory stands still from turn to turn the term is 0; a single turn has none."""
    model = tiny_model(double=True)
    rollout = play(model, conversations(3, 3))
    config = AlgorithmConfig(name="impo", **ALL_ON)
    targets = targets_for(model, rollout, config, toy_critic(model))
    result, _, _ = loss_and_gradients(model, rollout, targets, config, model)
    assert result.metrics["consistency"] > 1e-6
    frozen = tiny_model(double=True)
    with torch.no_grad():
        frozen.memory_attention.gate.weight.zero_()
        frozen.memory_attention.mean_gate.weight.zero_()
        frozen.memory_attention.gate.bias.fill_(-1e3)
        frozen.memory_attention.mean_gate.bias.fill_(-1e3)
    still, _, _ = loss_and_gradients(frozen, rollout, targets, config, model)
    assert still.metrics["consistency"].abs() < 1e-12
    assert still.metrics["memory_change"].abs() < 1e-12
    single = play(model, conversations(3, 1))
    alone, _, _ = loss_and_gradients(model, single, targets_for(model, single, config, toy_critic(model)), config, model)
    assert "consistency" not in alone.metrics
    assert alone.metrics["memory_change"] == 0


def test_consistency_is_a_mean_over_the_tokens_from_the_second_turn_on():
    model = tiny_model(double=True)
    rollout = play(model, conversations(4, (3, 1)), reward=unscored_tells)
    config = AlgorithmConfig(name="impo", **ALL_ON)
    result, _, _ = loss_and_gradients(model, rollout, targets_for(model, rollout, config, toy_critic(model)), config, model)
    stms = trajectory(model, rollout, None)
    before = torch.cat([stms[:, :1], stms[:, :-1]], dim=1)
    now, then = (
        update.distribution(model, answer_hidden(model, memory, rollout.turns.ids, rollout.turns.mask, rollout.answer), 1.0)
        for memory in (stms, before)
    )
    counted = (rollout.answer & (rollout.scored & (rollout.turn > 1)).unsqueeze(-1))[rollout.answer]
    assert 0 < int(counted.sum()) < len(counted)
    assert torch.allclose(result.metrics["consistency"], exact_kl(now, then)[counted].mean())


@pytest.mark.parametrize("temperature", [0.7, 1.4])
def test_policy_and_reference_are_compared_at_one_temperature(temperature):
    model = tiny_model(double=True)
    rollout = play(model, conversations(3, 3), temperature=temperature)
    config = AlgorithmConfig(kl=0.1, temperature=temperature)
    result, _, _ = loss_and_gradients(model, rollout, targets_for(model, rollout, config, toy_critic(model)), config, model)
    assert result.metrics["kl"].abs() < 1e-10


def test_rollout_metrics_keep_asking_turns_apart():
    model = tiny_model()
    rollout = play(model, conversations(6, 5))
    metrics = rollout_metrics(rollout, torch.zeros_like(rollout.rewards), rollout.rewards)
    asking = rollout.scored & rollout.asking
    others = rollout.scored & ~rollout.asking
    assert torch.allclose(metrics["reward"], rollout.rewards[asking].mean())
    assert torch.allclose(metrics["reward_not_asking"], rollout.rewards[others].mean())
    assert metrics["answer_tokens"] == rollout.answer.sum() / rollout.real.sum()
