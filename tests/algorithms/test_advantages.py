"""Advantages over turns: closed forms, a plain loop, and statistics that padding cannot reach."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rxrl.algorithms import AlgorithmConfig
from rxrl.algorithms.advantages import (
    explained_variance,
    gae,
    group_advantages,
    leave_one_out,
    masked_moments,
    returns_to_go,
    reward_minus_value,
    token_advantages,
    whiten,
)
from tests.lockstep import in_lockstep

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


@given(episodes(), st.floats(0, 1))
def test_returns_to_go_step_over_what_does_not_count(given_episodes, gamma):
    _, rows = given_episodes
    rewards, _, counts, _ = tensors(rows)
    expected = [plain(row[0], [0.0] * len(row[0]), row[2], 0.0, gamma, 1.0) for row in rows]
    assert torch.allclose(returns_to_go(rewards, counts, gamma), torch.tensor(expected, dtype=torch.float64).T, atol=1e-9)


@given(episodes(), st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_group_advantages_equal_their_definition(given_episodes, numbers):
    turns, rows = given_episodes
    returns, _, valid, _ = tensors(rows)
    group = torch.tensor(numbers[: len(rows)])
    difference, scale = group_advantages(returns, valid, group)
    without = leave_one_out(returns, valid, group)
    for turn in range(turns):
        for row in range(len(rows)):
            members = [k for k in range(len(rows)) if group[k] == group[row] and valid[turn, k]]
            others = [float(returns[turn, k]) for k in members if k != row]
            own = float(returns[turn, row])
            if not valid[turn, row] or not others:
                assert difference[turn, row] == without[turn, row] == 0
                continue
            everyone = torch.tensor([own, *others], dtype=torch.float64)
            assert float(difference[turn, row]) == pytest.approx(own - float(everyone.mean()), abs=1e-9)
            spread = float(everyone.std(unbiased=False))
            assert float(scale[turn, row]) == (pytest.approx(1 / (spread + 1e-4)) if spread > 1e-4 else 0)
            assert float(without[turn, row]) == pytest.approx(own - sum(others) / len(others), abs=1e-9)


@given(episodes(), st.lists(st.integers(0, 2), min_size=4, max_size=4), st.floats(-5, 5))
def test_groups_do_not_see_each_other(given_episodes, numbers, garbage):
    _, rows = given_episodes
    returns, _, valid, _ = tensors(rows)
    group = torch.tensor(numbers[: len(rows)])
    mine = group == group[0]
    disturbed = torch.where(mine, returns, torch.full_like(returns, garbage))
    assert torch.allclose(group_advantages(returns, valid, group)[0][:, mine], group_advantages(disturbed, valid, group)[0][:, mine])
    assert torch.allclose(leave_one_out(returns, valid, group)[:, mine], leave_one_out(disturbed, valid, group)[:, mine])


def test_a_group_in_which_all_got_the_same_teaches_nothing():
    """In single precision, where the mean of equal numbers need not be that number."""
    returns, valid = torch.full((1, 7), 100 / 3), torch.ones(1, 7, dtype=torch.bool)
    difference, scale = group_advantages(returns, valid, torch.zeros(7, dtype=torch.int64))
    assert (difference * scale).abs().max() < 1e-6


def test_token_advantages_by_hand():
    answer = torch.tensor([[[False, True, True, True, False], [True, True, False, False, False], [False] * 5]])
    costs = torch.zeros(1, 3, 5)
    costs[0, 0, 1:4] = torch.tensor([-1.0, -2.0, -4.0])
    turn = torch.tensor([[8.0, 6.0, 5.0]])
    whole = token_advantages(turn, costs, answer, 1.0)
    assert whole[0].tolist() == [[0, 1, 2, 4, 0], [6, 6, 0, 0, 0], [0] * 5]
    decayed = token_advantages(turn, costs, answer, 0.5)
    assert decayed[0].tolist() == [[0, -1 + 0.5 * 0, -2 + 0.5 * 4, -4 + 8, 0], [3, 6, 0, 0, 0], [0] * 5]


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


@given(episodes(), st.floats(0, 9))
def test_whitening_does_not_blow_up_what_spreads_less_than_its_floor(given_episodes, floor):
    _, rows = given_episodes
    values, _, valid, _ = tensors(rows)
    plain, floored = whiten(values, valid), whiten(values, valid, floor=floor)
    mean, variance = masked_moments(values, valid)
    if variance + 1e-8 >= floor**2:
        assert torch.equal(floored, plain)
    else:
        assert torch.allclose(floored, (values - mean).masked_fill(~valid, 0) / floor, atol=1e-6)
        assert bool((floored.abs() <= plain.abs() + 1e-6).all())


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


@given(episodes(), st.integers(1, 3))
def test_statistics_over_processes_are_those_of_the_whole_batch(given_episodes, cut):
    """Each process hands in the mean over processes; empty shares are allowed."""
    _, rows = given_episodes
    values, returns, valid, _ = tensors(rows)
    shares = [slice(0, cut), slice(cut, None)]
    whole = [whiten(values, valid), masked_moments(values, valid)[1], explained_variance(values, returns, valid)]
    parts = in_lockstep(lambda part, reduce: statistics(values[:, part], returns[:, part], valid[:, part], reduce), shares)
    assert torch.allclose(torch.cat([part[0] for part in parts], dim=1), whole[0], atol=1e-6)
    for part in parts:
        assert torch.allclose(part[1], whole[1])
        assert torch.allclose(part[2], whole[2], atol=1e-5)


def statistics(values, returns, valid, reduce):
    return whiten(values, valid, reduce), masked_moments(values, valid, reduce)[1], explained_variance(values, returns, valid, reduce)


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
