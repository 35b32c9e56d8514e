"""What is fixed before the first step: advantages, penalties, old log-probabilities, a critic of the right size, metrics."""

from dataclasses import replace

import pytest
import torch

from rxrl.algorithms import AlgorithmConfig
from rxrl.algorithms.advantages import masked_moments
from rxrl.evaluation.metrics import reward_range, rewarded
from rxrl.evaluation.records import TurnRecord
from rxrl.models.trajectory import answer_hidden
from rxrl.training.critics import critic_values, turns_ahead
from rxrl.training.replay import policy_log_probs, reference_pass, scatter, trajectory
from rxrl.training.targets import Targets, advantages_of, old_policy, rollout_metrics, start_critic
from rxrl.training.update import critic_loss
from tests.algorithms.options import configured
from tests.distributions import exact_kl, sampled, tempered
from tests.lockstep import in_lockstep
from tests.training.toy import conversations, earned, play, scenarios, tiny_model, toy_critic, unscored_tells


def test_advantages_are_whitened_over_scored_turns_and_0_elsewhere():
    model = tiny_model()
    rollout = play(model, conversations(6, (5, 2)), reward=unscored_tells)
    assert (rollout.real & ~rollout.scored).any()
    values = 3 * torch.randn(rollout.rewards.shape, generator=torch.Generator().manual_seed(0))
    for form in ("gae", "reward-value"):
        advantages, returns = advantages_of(rollout, values, AlgorithmConfig(advantage=form))
        assert abs(float(advantages[rollout.scored].mean())) < 1e-5
        assert abs(float(advantages[rollout.scored].std(unbiased=False)) - 1) < 1e-3
        assert advantages[~rollout.scored].eq(0).all()
        raw, _ = advantages_of(rollout, values, AlgorithmConfig(advantage=form, whiten=False))
        assert torch.allclose(raw[rollout.scored], (returns - values)[rollout.scored], atol=1e-5)
        far, _ = advantages_of(rollout, values, AlgorithmConfig(advantage=form, whiten_floor=100))
        assert torch.allclose(far, 0.01 * (raw - raw[rollout.scored].mean()).masked_fill(~rollout.scored, 0), atol=1e-5)


def test_unscored_turns_reach_neither_advantages_nor_the_critic():
    model = tiny_model()
    critic, config = toy_critic(model), AlgorithmConfig(advantage="gae")
    rollout = play(model, conversations(6, (5, 2)), reward=unscored_tells)
    out = ~rollout.scored
    values = critic_values(critic, rollout, model).detach()
    changed, rewards = values.masked_fill(out, 55.0), rollout.rewards.masked_fill(out, -7.0)
    one, two = advantages_of(rollout, values, config), advantages_of(replace(rollout, rewards=rewards), changed, config)
    assert torch.allclose(one[0], two[0])
    assert torch.allclose(one[1][rollout.scored], two[1][rollout.scored])
    targets = Targets(*one, values, rollout.sampled_log_probs, None)
    loss = critic_loss(critic, rollout, targets, config, model).loss
    assert torch.allclose(loss, critic_loss(critic, rollout, replace(targets, returns=one[1].masked_fill(out, 99.0)), config, model).loss)


def test_rollout_metrics_keep_asking_turns_apart():
    model = tiny_model()
    rollout = play(model, conversations(6, 5))
    metrics = rollout_metrics(rollout, torch.zeros_like(rollout.rewards), rollout.rewards)
    asking = rollout.scored & rollout.asking
    others = rollout.scored & ~rollout.asking
    assert torch.allclose(metrics["reward"], rollout.rewards[asking].mean())
    assert torch.allclose(metrics["reward_not_asking"], rollout.rewards[others].mean())
    assert metrics["answer_tokens"] == rollout.answer.sum() / rollout.real.sum()


def test_the_reward_is_over_the_turns_that_evaluations_count():
    """Those that ask, and those that a scenario judged; a mix of both kinds, with episodes of several lengths."""
    model = tiny_model()
    rollout = play(model, scenarios(12, (5, 4)), reward=earned)
    records = [TurnRecord.of(turn, retention=1.0 if turn.asking else None, score=earned([turn])[0]) for turn in rollout.scored_turns]
    asking = rollout.scored & rollout.asking
    assert 0 < asking.sum() < len(rewarded(records)) < len(records)
    metrics = rollout_metrics(rollout, torch.zeros_like(rollout.rewards), rollout.rewards)
    assert float(metrics["reward"]) == pytest.approx(reward_range(rewarded(records))["mean"], abs=1e-5)
    assert abs(metrics["reward"] - rollout.rewards[asking].mean()) > 1e-3
    # Without outcomes it is the mean of asking turns, to the bit.
    turns = [replace(turn, outcome=None) for turn in rollout.scored_turns]
    plain = rollout_metrics(replace(rollout, scored_turns=turns), torch.zeros_like(rollout.rewards), rollout.rewards)
    assert plain["reward"] == masked_moments(rollout.rewards, asking)[0]


def test_metrics_of_several_processes_are_those_of_the_whole():
    """Each process has its own rows and the mean over processes; one has no turn that asks."""
    model = tiny_model()
    rollout = play(model, conversations(6, 5), reward=unscored_tells)
    rollout = replace(rollout, asking=rollout.asking & (torch.arange(6) != 0))
    values = torch.randn(rollout.rewards.shape, generator=torch.Generator().manual_seed(0))
    parts = [torch.tensor([0]), torch.tensor([1, 2, 3, 4, 5])]
    with_terms = {name: [term[:, rows] for rows in parts] for name, term in rollout.terms.items()}
    mine = [replace(rollout.rows(rows), terms={name: terms[rank] for name, terms in with_terms.items()}) for rank, rows in enumerate(parts)]
    found = in_lockstep(
        lambda rank, reduce: rollout_metrics(mine[rank], values[:, parts[rank]], mine[rank].rewards, reduce=reduce), range(2)
    )
    whole = rollout_metrics(rollout, values, rollout.rewards)
    for each in found:
        assert each.keys() == whole.keys()
        for name, value in whole.items():
            assert torch.allclose(each[name], value, atol=1e-5), name


@pytest.mark.parametrize("form", ["gae", "reward-value", "return", "group", "leave-one-out"])
def test_whitening_is_over_all_processes(form):
    model = tiny_model()
    rollout = play(model, conversations(3, (5, 2, 3)), group_size=2)
    values = torch.randn(rollout.rewards.shape, generator=torch.Generator().manual_seed(0))
    config = AlgorithmConfig(advantage=form, group_size=2, whiten=True)
    whole, _ = advantages_of(rollout, values, config)
    parts = [torch.tensor([0, 1]), torch.tensor([2, 3, 4, 5])]
    found = in_lockstep(lambda rows, reduce: advantages_of(rollout.rows(rows), values[:, rows], config, reduce=reduce)[0], parts)
    assert torch.allclose(torch.cat(found, dim=1), whole, atol=1e-5)


def test_advantages_per_token_are_those_of_the_turn_where_nothing_happens_within_it():
    model = tiny_model()
    rollout = play(model, conversations(4, (3, 2)), reward=unscored_tells)
    values = 3 * torch.randn(rollout.rewards.shape, generator=torch.Generator().manual_seed(0))
    turn, _ = advantages_of(rollout, values, AlgorithmConfig(whiten=False))
    token, _ = advantages_of(rollout, values, configured(whiten=False, advantage_per="token"))
    assert torch.allclose(token, turn.unsqueeze(-1) * rollout.answer)
    white, _ = advantages_of(rollout, values, configured(advantage_per="token"))
    counted = white[rollout.answer & rollout.scored.unsqueeze(-1)]
    assert abs(float(counted.mean())) < 1e-5
    assert abs(float(counted.std(unbiased=False)) - 1) < 1e-3
    assert white[~(rollout.answer & rollout.scored.unsqueeze(-1))].eq(0).all()


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("estimator", ["exact", "k1", "k2", "k3"])
def test_kl_in_the_reward_is_what_the_sampled_tokens_cost(estimator, again):
    model, reference = tiny_model(double=True), tiny_model(seed=9, double=True)
    rollout = play(model, conversations(4, (3, 1)))
    hidden, _ = reference_pass(reference, rollout)
    options = {"kl_in": "reward", "kl_estimator": estimator, "temperature": 0.9, "whiten": False, "checkpoint_turns": again}
    options |= {"kl": 0.3, "advantage": "reward-value"}
    config = configured(**options)
    parts = [torch.tensor([1, 2]), torch.tensor([0, 3])]
    old, penalties = old_policy(model, rollout, config, parts, hidden, reference.decoder.head)
    assert torch.equal(old[:, parts[0]], policy_log_probs(model, rollout.rows(parts[0]), config))
    said = answer_hidden(model, trajectory(model, rollout), rollout.turns, rollout.answer)
    current, other = (tempered(m.decoder.head(h), 0.9) for m, h in ((model, said), (reference, hidden[rollout.answer])))
    difference = sampled(current, rollout.turns.ids[rollout.answer]) - sampled(other, rollout.turns.ids[rollout.answer])
    expected = {"exact": exact_kl(current, other), "k1": difference, "k2": difference**2 / 2, "k3": (-difference).exp() - 1 + difference}
    assert torch.allclose(penalties, scatter(0.3 * expected[estimator], rollout))
    values = torch.zeros_like(rollout.rewards)
    turn, returns = advantages_of(rollout, values, config, None, penalties)
    assert torch.allclose(turn, (rollout.rewards - penalties.sum(-1)).masked_fill(~rollout.real, 0))
    assert torch.allclose(returns, turn)
    token, _ = advantages_of(rollout, values, configured(**options | {"advantage_per": "token"}), None, penalties)
    # A token pays for itself and for what comes after it in its answer, not for what came before.
    first = rollout.answer & (rollout.answer.cumsum(-1) == 1)
    last = rollout.answer & (rollout.answer.flip(-1).cumsum(-1).flip(-1) == 1)
    assert torch.allclose(token[first], turn[rollout.real])
    assert torch.allclose(token[last], rollout.rewards[rollout.real] - penalties[last])


def test_without_kl_in_the_reward_the_first_pass_is_left_to_the_update():
    model = tiny_model()
    rollout = play(model, conversations(4, 2))
    parts = [torch.tensor([1, 2]), torch.tensor([0]), torch.tensor([3])]
    old, penalties = old_policy(model, rollout, AlgorithmConfig(), parts)
    assert penalties is None
    assert old[:, parts[0]].eq(0).all()
    assert all(torch.equal(old[:, rows], policy_log_probs(model, rollout.rows(rows), AlgorithmConfig())) for rows in parts[1:])


@pytest.mark.parametrize(("form", "gamma"), [("gae", 1.0), ("gae", 0.9), ("reward-value", 0.9)])
def test_a_fresh_critic_starts_with_values_of_the_size_of_its_returns(form, gamma):
    model = tiny_model()
    rollout = play(model, conversations(6, (5, 3)), reward=unscored_tells)
    rollout = replace(rollout, rewards=torch.where(rollout.scored, rollout.rewards + 1, rollout.rewards))
    critic, config = toy_critic(model), AlgorithmConfig(advantage=form, gamma=gamma)
    start_critic(critic, rollout, config)
    rewards = rollout.rewards.double()
    totals = [
        sum(gamma**ahead * r for ahead, r in enumerate(rewards[turn:, row][rollout.scored[turn:, row]].tolist()))
        for turn in range(5)
        for row in range(6)
        if rollout.scored[turn, row]
    ]
    ahead = [
        sum(gamma**n for n in range(int(rollout.steps[turn, row]) - turn))
        for turn in range(5)
        for row in range(6)
        if rollout.scored[turn, row]
    ]
    means = [total / each for total, each in zip(totals, ahead, strict=True)]
    goals = means if form == "gae" else rewards[rollout.scored].tolist()
    assert critic.shift.item() == pytest.approx(sum(goals) / len(goals), rel=1e-5)


@pytest.mark.parametrize(
    ("form", "gamma", "expected"), [("gae", 1.0, [3, 2, 1]), ("gae", 0.5, [1.75, 1.5, 1]), ("reward-value", 0.5, [1, 1, 1])]
)
def test_a_value_sums_up_the_turns_ahead(form, gamma, expected):
    """A critic that says the same of every turn is right where all rewards are the same: nothing is left for an advantage."""
    config = AlgorithmConfig(advantage=form, gamma=gamma, whiten=False)
    rollout = play(tiny_model(), conversations(2, 3))
    ahead = turns_ahead(rollout.turn, rollout.steps, config)
    assert ahead[:, 0].tolist() == expected
    rollout = replace(rollout, rewards=torch.full_like(rollout.rewards, 4.0), scored=torch.ones_like(rollout.scored))
    advantages, returns = advantages_of(rollout, 4 * ahead, config)
    assert torch.allclose(advantages, torch.zeros_like(advantages), atol=1e-5)
    assert torch.allclose(returns, 4 * ahead)


def test_the_value_loss_weighs_early_turns_no_more_than_late_ones():
    """Each return is off by the same amount a turn ahead: every turn costs the same."""
    model = tiny_model()
    config, critic = AlgorithmConfig(advantage="gae", gamma=0.9), toy_critic(model)
    rollout = play(model, conversations(4, 3))
    rollout = replace(rollout, scored=torch.ones_like(rollout.scored))
    values, ahead = critic_values(critic, rollout, model).detach(), turns_ahead(rollout.turn, rollout.steps, config)
    losses = []
    for turn in range(3):
        off = torch.zeros_like(values)
        off[turn] = 2.0
        targets = Targets(off, (values + off) * ahead, values * ahead, rollout.sampled_log_probs, None)
        losses.append(float(critic_loss(critic, rollout, targets, config, model).loss.detach()))
    assert losses == pytest.approx([0.5 * 4 / 3] * 3, rel=1e-5)


def test_burn_in_turns_are_rewarded_and_not_trained_on():
    model = tiny_model()
    rollout = play(model, conversations(5, (4, 2)))
    values = torch.randn(rollout.rewards.shape, generator=torch.Generator().manual_seed(0))
    config, plain = configured(burn_in=1, whiten=False), AlgorithmConfig(whiten=False)
    burnt, all_of_it = advantages_of(rollout, values, config)[0], advantages_of(rollout, values, plain)[0]
    assert burnt[0].eq(0).all()
    assert torch.equal(burnt[1:], all_of_it[1:])
    white = advantages_of(rollout, values, configured(burn_in=1))[0][1:][rollout.scored[1:]]
    assert abs(float(white.mean())) < 1e-5
    critic = toy_critic(model)
    targets = Targets(burnt, rollout.rewards, values, rollout.sampled_log_probs, None)
    changed = replace(targets, returns=torch.cat([torch.full_like(values[:1], 99.0), rollout.rewards[1:]]))
    losses = [critic_loss(critic, rollout, each, config, model).loss for each in (targets, changed)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("form", ["group", "leave-one-out"])
def test_a_group_is_compared_turn_by_turn_with_its_returns_to_go(form):
    model = tiny_model()
    rollout = play(model, conversations(2, (3, 2)), group_size=3)
    assert rollout.group.tolist() == [0, 0, 0, 1, 1, 1]
    config = AlgorithmConfig(advantage=form, group_size=3, gamma=0.5, group_std=False, whiten=False)
    advantages, returns = advantages_of(rollout, torch.zeros_like(rollout.rewards), config)
    rewards = rollout.rewards
    assert torch.allclose(returns[1], rewards[1] + 0.5 * rewards[2])
    others = (returns[:, 3:].sum(1, keepdim=True) - returns[:, 3:]) / 2
    baseline = returns[:, 3:].mean(1, keepdim=True) if form == "group" else others
    assert torch.allclose(advantages[:, 3:], returns[:, 3:] - baseline, atol=1e-5)
    assert advantages[2, 3:].eq(0).all()
    assert advantages[0].abs().max() > 0
