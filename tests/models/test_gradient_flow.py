"""Gradients through many writes: exact, or bounded so that no write enlarges them."""

from __future__ import annotations

import pytest
import torch

from rxrl.models.trajectory import EXACT, GradientFlow, memory_trajectory, written
from tests.training.toy import tiny_model

BOUNDED = GradientFlow(growth=1.0)


def memory(batch=3, seed=0):
    return torch.randn(2, batch, 4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)


def chained(stm, factor, writes, flow):
    """A loss on the memory after the last of some writes that multiply what they get."""
    for _ in range(writes):
        stm = written(lambda m: factor * m, stm, flow)
    return (stm.detach().cos() * stm).sum()


def norms(gradient):
    return gradient.square().sum((0, 2, 3)).sqrt()


def gradient_of(factor, writes, flow):
    stm = memory()
    return torch.autograd.grad(chained(stm, factor, writes, flow), stm)[0]


def test_exact_gradients_grow_with_every_write_and_bounded_ones_do_not():
    of_the_loss = (memory() * 3.0**5).cos()
    exact, bounded = (gradient_of(3.0, 5, flow) for flow in (EXACT, BOUNDED))
    assert torch.allclose(exact, of_the_loss * 3.0**5)
    assert torch.allclose(bounded, of_the_loss)


def test_another_bound_is_a_factor_for_each_write():
    assert torch.allclose(gradient_of(3.0, 4, GradientFlow(growth=2.0)), gradient_of(3.0, 4, EXACT) * (2 / 3) ** 4)


def test_what_shrinks_is_left_as_it_is():
    assert torch.equal(gradient_of(0.5, 6, BOUNDED), gradient_of(0.5, 6, EXACT))


def test_each_conversation_has_a_bound_of_its_own():
    factors = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)[None, :, None, None]
    exact, bounded = gradient_of(factors, 3, EXACT), gradient_of(factors, 3, BOUNDED)
    assert torch.allclose(exact[:, :2], bounded[:, :2])
    assert torch.allclose(exact[:, 2] / 4.0**3, bounded[:, 2])


def test_a_conversation_without_a_gradient_gets_none():
    stm = memory()
    after = written(lambda m: 5.0 * m, stm, BOUNDED)
    (gradient,) = torch.autograd.grad(after[:, 0].sum(), stm)
    assert torch.equal(norms(gradient) > 0, torch.tensor([True, False, False]))
    assert gradient.isfinite().all()


def test_what_the_later_reads_send_is_counted_too():
    """Two reads of one memory send twice as much back, and the write may hand on that much."""
    stm = memory()
    after = written(lambda m: 5.0 * m, stm, BOUNDED)
    (gradient,) = torch.autograd.grad(after.sum() + after.sum(), stm)
    assert torch.allclose(norms(gradient), torch.full((3,), 2 * 48**0.5, dtype=torch.float64))


def test_the_gradient_of_the_last_write_to_its_own_data_is_exact():
    stm, data = memory(), memory(seed=1)
    for flow in (EXACT, BOUNDED):
        (gradient,) = torch.autograd.grad((written(lambda m: 5.0 * m + 7.0 * data, stm, flow)).sum(), data)
        assert torch.allclose(gradient, torch.full_like(data, 7.0))


def restless():
    """A model whose writes depend strongly on what stood in memory."""
    model = tiny_model(double=True)
    with torch.no_grad():
        model.memory_attention.attention.q_proj.mul_(8.0)
        model.memory_attention.attention.out_proj.mul_(6.0)
    return model


def through(model, turns, flow):
    """Memories, and the gradients of a loss on the last of them to it, to the first and to a parameter of the write."""
    ids = torch.randint(9, model.config.vocab_size, (turns, 3, 6), generator=torch.Generator().manual_seed(0))
    stm0 = model.init_memory(3, torch.Generator().manual_seed(1)).detach().requires_grad_()
    stms = memory_trajectory(model, stm0, ids, torch.ones_like(ids, dtype=torch.bool), flow)
    weights = torch.linspace(-1, 1, stm0.numel(), dtype=stm0.dtype).view_as(stm0)
    loss, parameter = (stms[:, -1] * weights).sum() + 0.0 * stm0.sum(), model.memory_attention.attention.out_proj
    return stms.detach(), norms(weights), *torch.autograd.grad(loss, (stm0, parameter))


def test_through_many_writes_of_a_model_the_gradient_stays_below_that_of_the_loss():
    model = restless()
    exact, received, grown, _ = through(model, 24, EXACT)
    bounded, _, kept, _ = through(model, 24, BOUNDED)
    assert torch.equal(exact, bounded)
    assert (norms(grown) > 10 * received).any()
    assert (norms(kept) <= received * (1 + 1e-9)).all()


def test_a_wide_bound_changes_nothing():
    model = restless()
    assert all(torch.equal(a, b) for a, b in zip(through(model, 5, EXACT), through(model, 5, GradientFlow(growth=1e9)), strict=True))


@pytest.mark.parametrize("turns", [1, 3])
def test_a_window_takes_its_place(turns):
    model = restless()
    one, two = through(model, 6, GradientFlow(turns)), through(model, 6, GradientFlow(turns, 1.0))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
