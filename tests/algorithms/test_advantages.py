"""Advantages over turns: closed forms, a plain loop, and statistics that padding cannot reach."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rxrl.algorithms import AlgorithmConfig
from rxrl.algorithms.advantages import explained_variance, gae, masked_moments, reward_minus_value, whiten

NUMBERS = st.floats(-5, 5, width=32)


@st.composite
def episodes(draw):
    """Rewards, values, what counts, and bootstrap of some episodes, as lists by row."""
    turns, batch = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    numbers = st.lists(NUMBERS, min_size=turns, max_size=turns)
    rows = [
        (draw(numbers), draw(numbers), draw(st.lists(st.booleans(), min_size=turns, max_size=turns)), draw(NUMBERS)) for _ in range(batch)
    ]
    return turns, rows


def tensors(rows):
    rewards, values, counts, bootstrap = zip(*rows, strict=True)
    columns = [torch.tensor(part, dtype=torch.float64).T for part in (rewards, values)]
    return *columns, torch.tensor(counts).T, torch.tensor(bootstrap, dtype=torch.float64)


def plain(rewards, values, counts, bootstrap, gamma, lam):
    """GAE of one row by its definition: a sum over all later turns that count."""
    kept = [turn for turn, count in enumerate(counts) if count]
    result = {}
    for at, turn in enumerate(kept):
        total = 0.0
        for ahead, later in enumerate(kept[at:]):
            following = values[kept[at + ahead + 1]] if at + ahead + 1 < len(kept) else bootstrap
            total += (gamma * lam) ** ahead * (rewards[later] + gamma * following - values[later])
        result[turn] = total
    return [result.get(turn, 0.0) for turn in range(len(rewards))]


@given(episodes(), st.floats(0, 1), st.floats(0, 1))
def test_gae_equals_its_definition(given_episodes, gamma, lam):
    _, rows = given_episodes
    rewards, values, counts, bootstrap = tensors(rows)
    advantages, returns = gae(rewards, values, counts, bootstrap, gamma=gamma, gae_lambda=lam)
    expected = torch.tensor([plain(*row, gamma, lam) for row in rows], dtype=torch.float64).T
    assert torch.allclose(advantages, expected, atol=1e-9)
    assert torch.allclose(returns, (expected + values).masked_fill(~counts, 0), atol=1e-9)


@pytest.mark.parametrize(("gamma", "bootstrap"), [(1.0, 0.0), (0.9, 0.0), (0.9, 7.0)])
def test_gae_of_constant_rewards_has_a_closed_form(gamma, bootstrap):
    turns, reward, lam = 5, 2.0, 1.0
    rewards, values = torch.full((turns, 1), reward), torch.zeros(turns, 1)
    advantages, _ = gae(rewards, values, torch.ones(turns, 1, dtype=torch.bool), torch.tensor([bootstrap]), gamma=gamma, gae_lambda=lam)
    left = turns - torch.arange(turns)
    geometric = left.float() if gamma == 1 else (1 - gamma**left) / (1 - gamma)
    assert torch.allclose(advantages[:, 0], reward * geometric + gamma**left * bootstrap, atol=1e-5)


def test_gae_without_lookahead_is_the_one_step_error():
    rewards, values = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.5], [4.0], [1.0]])
    advantages, _ = gae(rewards, values, torch.ones(3, 1, dtype=torch.bool), torch.tensor([6.0]), gamma=0.5, gae_lambda=0.0)
    assert advantages[:, 0].tolist() == [1 + 0.5 * 4 - 0.5, 2 + 0.5 * 1 - 4, 3 + 0.5 * 6 - 1]


def test_a_shorter_row_is_bootstrapped_at_its_own_end():
    real = torch.tensor([[True, True], [True, False], [True, False]])
    rewards, values = torch.ones(3, 2), torch.zeros(3, 2)
    values[1:, 1] = 100.0  # what stands in padding must not matter
    advantages, _ = gae(rewards, values, real, torch.tensor([0.0, 3.0]), gamma=1.0, gae_lambda=1.0)
    assert advantages.T.tolist() == [[3.0, 2.0, 1.0], [4.0, 0.0, 0.0]]


def test_reward_minus_value():
    real = torch.tensor([[True, True], [True, False]])
    rewards, values = torch.tensor([[5.0, 1.0], [2.0, 9.0]]), torch.tensor([[4.0, 3.0], [2.5, 1.0]])
    advantages, returns = reward_minus_value(rewards, values, real)
    assert advantages.tolist() == [[1.0, -2.0], [-0.5, 0.0]]
    assert returns.tolist() == [[5.0, 1.0], [2.0, 0.0]]


@given(episodes())
def test_whitening_has_zero_mean_and_unit_variance_over_what_counts(given_episodes):
    _, rows = given_episodes
    values, _, valid, _ = tensors(rows)
    white = whiten(values, valid)
    assert white[~valid].eq(0).all()
    chosen = values[valid]
    if len(chosen) > 1 and chosen.var(unbiased=False) > 1e-3:
        assert abs(float(white[valid].mean())) < 1e-6
        assert abs(float(white[valid].var(unbiased=False)) - 1) < 1e-4
    elif len(chosen) and chosen.max() == chosen.min():
        assert white.abs().max() < 1e-6


@given(episodes(), st.floats(-1e6, 1e6))
def test_what_stands_in_padding_changes_no_statistic(given_episodes, garbage):
    _, rows = given_episodes
    values, returns, valid, _ = tensors(rows)
    disturbed, other = values.masked_fill(~valid, garbage), returns.masked_fill(~valid, -garbage)
    mean, variance = masked_moments(values, valid)
    if valid.any():
        assert torch.allclose(mean, values[valid].mean())
        assert torch.allclose(variance, values[valid].var(unbiased=False))
    for moment, again in zip((mean, variance), masked_moments(disturbed, valid), strict=True):
        assert torch.equal(moment, again)
    assert torch.equal(whiten(values, valid), whiten(disturbed, valid))
    assert torch.equal(explained_variance(values, returns, valid), explained_variance(disturbed, other, valid))


def test_moments_of_the_global_batch_may_be_given():
    values, valid = torch.tensor([[1.0, 3.0]]), torch.tensor([[True, True]])
    assert torch.allclose(whiten(values, valid, torch.tensor(1.0), torch.tensor(4.0)), torch.tensor([[0.0, 1.0]]))


def test_explained_variance_knows_good_useless_and_harmful_values():
    returns, valid = torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.ones(2, 2, dtype=torch.bool)
    assert explained_variance(returns + 5, returns, valid) == 1.0
    assert explained_variance(torch.zeros(2, 2), returns, valid) == 0.0
    assert torch.allclose(explained_variance(-returns, returns, valid), torch.tensor(-3.0))
    assert explained_variance(returns, torch.full((2, 2), 4.0), valid) == 0.0


def test_each_algorithm_has_its_own_advantage_unless_one_is_named():
    assert AlgorithmConfig(name="ppo").advantage_form == "gae"
    assert AlgorithmConfig(name="impo").advantage_form == "reward-value"
    assert AlgorithmConfig(name="impo", advantage="gae").advantage_form == "gae"
