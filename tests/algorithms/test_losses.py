"""Losses of policy and value, by hand, by enumeration, and with tokens that cannot occur."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rxrl.algorithms import BUILT_IN, AlgorithmConfig, Totals, sum_results
from rxrl.algorithms.losses import clipped_policy_loss, memory_change, policy_gradient_loss, value_loss
from tests.algorithms.minibatch import VOCAB, inputs, log_probs
from tests.algorithms.options import configured
from tests.distributions import entropy


def test_clipped_loss_by_hand():
    ratios, advantages = torch.tensor([1.0, 1.5, 0.5, 1.5, 0.5]), torch.tensor([2.0, 2.0, 2.0, -2.0, -2.0])
    given_inputs = inputs(5, log_probs=ratios.log(), old_log_probs=torch.zeros(5), advantages=advantages, weights=torch.ones(5))
    result = clipped_policy_loss(given_inputs, 0.2, 0.2)
    gains = [2.0, 2.4, 1.0, -3.0, -1.6]
    assert float(result.loss) == pytest.approx(-sum(gains) / 5)
    assert float(result.metrics["clip_fraction"]) == pytest.approx(4 / 5)
    assert float(result.metrics["ratio"]) == pytest.approx(1.0)
    assert float(result.metrics["ratio_deviation"]) == pytest.approx(0.5)
    assert float(result.metrics["approx_kl"]) == pytest.approx(sum(r - 1 - math.log(r) for r in ratios.tolist()) / 5, abs=1e-6)


def test_clipped_gradient_vanishes_only_where_it_would_push_further_away():
    ratios, advantages = torch.tensor([1.5, 0.5, 1.5, 0.5]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    current = ratios.log().requires_grad_()
    given_inputs = inputs(log_probs=current, old_log_probs=torch.zeros(4), advantages=advantages, weights=torch.ones(4))
    clipped_policy_loss(given_inputs, 0.2, 0.2).loss.backward()
    assert current.grad.tolist() == pytest.approx([0.0, -0.5 / 4, 1.5 / 4, 0.0])


@given(st.floats(-3, 3), st.floats(-5, 5), st.floats(0.05, 0.9), st.floats(0.05, 2), st.sampled_from([None, 1.5, 3.0]))
def test_a_ratio_never_earns_more_than_its_bounds_allow(log_ratio, advantage, low, high, dual):
    """The surrogate is at most the clipped one, its gradient is 0 outside the bounds in the direction of the advantage."""
    current = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    given_inputs = inputs(1, log_probs=current, old_log_probs=torch.zeros_like(one), advantages=advantage * one, weights=one)
    result = clipped_policy_loss(given_inputs, low, high, dual)
    result.loss.backward()
    ratio, gain = math.exp(log_ratio), -float(result.loss.detach())
    if dual is None or advantage >= 0:
        assert gain <= advantage * min(max(ratio, 1 - low), 1 + high) + 1e-9
    else:
        assert gain >= dual * advantage - 1e-9
    still = (advantage > 0 and ratio > 1 + high) or (advantage < 0 and ratio < 1 - low)
    still = still or advantage == 0 or (dual is not None and advantage < 0 and ratio > max(dual, 1 + high))
    inside = 1 - low < ratio < 1 + high and (dual is None or ratio < dual)
    if still:
        assert float(current.grad) == 0
    elif inside:
        assert float(current.grad) == pytest.approx(-ratio * advantage)


def test_bounds_below_and_above_are_their_own():
    ratios = torch.tensor([1.3, 0.75, 1.3, 0.75])
    given_inputs = inputs(log_probs=ratios.log(), old_log_probs=torch.zeros(4), advantages=torch.ones(4), weights=torch.ones(4))
    result = clipped_policy_loss(given_inputs, 0.2, 0.4)
    assert float(result.loss) == pytest.approx(-(1.3 + 0.75) / 2)
    assert float(result.metrics["clip_fraction"]) == pytest.approx(0.5)


def test_policy_gradient_by_hand():
    current = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    advantages, weights = torch.tensor([2.0, -1.0, 3.0]), torch.tensor([1.0, 1.0, 0.0])
    policy_gradient_loss(
        inputs(3, log_probs=current, old_log_probs=current.detach(), advantages=advantages, weights=weights)
    ).loss.backward()
    assert current.grad.tolist() == [-1.0, 0.5, 0.0]


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_losses_of_parts_add_up_to_that_of_the_whole(name):
    """With the totals of the whole, which is what micro-batches, single turns and processes rest on."""
    base, config = inputs(6), configured(name=name, consistency=0.1, entropy=0.1, kl=0.1, memory_difference=0.0, self_imitation=0.5)
    base = replace(base, imitate=torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    weights, with_previous = base.weights.sum(), (base.weights * base.has_previous).sum()
    totals = Totals(weights, with_previous, torch.tensor(2.0), base.imitate.sum(), torch.tensor(2.0))
    parts = []
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        given = ("log_probs", "old_log_probs", "advantages", "weights", "has_previous", "imitate")
        picked = {field: getattr(base, field)[rows] for field in (*given, "entropy", "reference_kl", "previous_kl")}
        parts.append(BUILT_IN[name].loss(replace(base, **picked, totals=totals), config))
    whole, joined = BUILT_IN[name].loss(base, config), sum_results(parts)
    assert torch.allclose(whole.loss, joined.loss)
    assert whole.metrics.keys() == joined.metrics.keys()
    for metric, value in whole.metrics.items():
        assert torch.allclose(value, joined.metrics[metric]), metric
    assert "self_imitation" in whole.metrics


def test_tokens_of_unscored_turns_do_not_count():
    base = inputs()
    # The last token has weight 0.
    changed = {
        name: torch.cat([getattr(base, name)[:-1], base.weights.new_tensor([-9.0])])
        for name in ("log_probs", "entropy", "reference_kl", "previous_kl")
    }
    for name in BUILT_IN:
        config = AlgorithmConfig(name=name)
        assert torch.equal(BUILT_IN[name].loss(base, config).loss, BUILT_IN[name].loss(inputs(**changed), config).loss)


def test_entropy_bonus_pulls_towards_the_uniform_distribution_with_its_full_weight():
    """The bonus is a mean over tokens, counted once: its gradient is that of -coefficient * mean entropy."""
    logits = torch.randn(4, VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    quiet = {"advantages": torch.zeros(4, dtype=torch.float64), "weights": torch.ones(4, dtype=torch.float64), "reference_kl": None}

    def gradient(function):
        leaf = logits.clone().requires_grad_()
        function(leaf.log_softmax(-1)).backward()
        return leaf.grad

    def loss(distribution):
        given_inputs = inputs(entropy=entropy(distribution), log_probs=distribution[:, 1], **quiet)
        return BUILT_IN["ppo"].loss(given_inputs, AlgorithmConfig(entropy=0.3)).loss

    assert torch.allclose(gradient(loss), gradient(lambda d: -0.3 * entropy(d).mean()))


def test_value_loss_takes_the_larger_of_clipped_and_unclipped_errors():
    values, old, returns = torch.tensor([[3.0, 0.0, 9.0]]), torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[4.0, 0.2, 0.0]])
    valid = torch.tensor([[True, True, False]])
    assert value_loss(values, old, returns, valid, None).item() == pytest.approx(0.5 * (1.0 + 0.04) / 2)
    assert value_loss(values, old, returns, valid, 0.5).item() == pytest.approx(0.5 * (3.5**2 + 0.04) / 2)


def test_memory_change_by_hand():
    memory = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    real = torch.tensor([[True, True], [True, True], [True, False]])
    pairs = [(turn, row) for turn in (1, 2) for row in (0, 1) if real[turn, row]]

    def mean(function):
        return sum(function(turn, memory[:, turn - 1, row], memory[:, turn, row]) for turn, row in pairs) / len(pairs)

    def read(m):
        return m / m.pow(2).mean(-1, keepdim=True).sqrt()

    raw, cosine = memory_change(memory, real, "raw")
    normalised, _ = memory_change(memory, real, "normalised")
    # Turn numbers count from 1, so index 1 is turn 2.
    assert torch.allclose(raw, mean(lambda t, a, b: math.sqrt(t + 2) * (b - a).pow(2).mean()))
    assert torch.allclose(normalised, mean(lambda t, a, b: math.sqrt(t + 2) * (read(b) - read(a)).pow(2).mean()))
    assert torch.allclose(cosine, mean(lambda t, a, b: 1 - torch.cosine_similarity(a, b, dim=-1).mean()))
    assert torch.allclose(memory_change(7 * memory, real, "normalised")[0], normalised)
    assert [float(x) for x in memory_change(memory[:, :1], real[:1], "raw")] == [0.0, 0.0]


def test_metrics_carry_no_graph():
    base = inputs(log_probs=log_probs(4, VOCAB)[:, 1].requires_grad_())
    for name in BUILT_IN:
        result = BUILT_IN[name].loss(base, AlgorithmConfig(name=name))
        assert result.loss.requires_grad
        assert not any(value.requires_grad for value in result.metrics.values())
