"""The norm of our own equals torch's, in value and gradient."""

import pytest
import torch
from torch.nn import functional

from rxrl.models.layers import NORM_EPS, normed_product, rms_norm


@pytest.mark.parametrize("weight", [(8,), (2, 1, 1, 8)])
def test_equals_torch_s_norm(weight):
    x, scale = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0), requires_grad=True), torch.randn(weight)
    x_too, scale_too = x.detach().clone().requires_grad_(), scale.clone().requires_grad_()
    scale.requires_grad_()
    ours, theirs = rms_norm(x, scale), functional.rms_norm(x_too, (8,), None, NORM_EPS) * scale_too
    torch.testing.assert_close(ours, theirs)
    push = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    ours.backward(push)
    theirs.backward(push)
    torch.testing.assert_close(x.grad, x_too.grad)
    torch.testing.assert_close(scale.grad, scale_too.grad)


@pytest.mark.parametrize("weight", [(5,), (2, 1, 5)])
def test_gradients_are_those_of_finite_differences(weight):
    draws = torch.Generator().manual_seed(2)
    inputs = [torch.randn(shape, generator=draws, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 5), weight)]
    assert torch.autograd.gradcheck(rms_norm, inputs)


@pytest.mark.parametrize("stack", [(), (3,)])
def test_a_product_that_is_normalised_afterwards_is_that_of_the_norm_with_its_gradients(stack):
    draws = torch.Generator().manual_seed(3)
    x, weight, projection = (
        torch.randn(*stack, *shape, generator=draws, dtype=torch.float64, requires_grad=True) for shape in ((4, 5), (5,), (5, 3))
    )
    plain = rms_norm(x, weight.unsqueeze(-2)) @ projection
    torch.testing.assert_close(normed_product(x, weight, projection), plain, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(normed_product, (x, weight, projection))
    narrow = [each.detach().bfloat16() for each in (x, weight, projection)]
    torch.testing.assert_close(normed_product(*narrow).double(), plain, rtol=0.1, atol=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = normed_product(*(each.detach().float() for each in (x, weight, projection)))
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.double(), plain, rtol=0.1, atol=0.1)


def test_zeros_stay_zeros_and_have_finite_gradients():
    x, scale = torch.zeros(2, 4, requires_grad=True), torch.ones(4, requires_grad=True)
    normed = rms_norm(x, scale)
    normed.sum().backward()
    assert not normed.any()
    assert torch.isfinite(x.grad).all()


def test_narrow_types_are_computed_wide():
    x = torch.full((1, 4), 300.0, dtype=torch.float16)
    torch.testing.assert_close(rms_norm(x, torch.ones(4, dtype=torch.float16)), torch.ones(1, 4, dtype=torch.float16))
