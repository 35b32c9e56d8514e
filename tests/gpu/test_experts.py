"""The ways through the experts: grouped, padded and dense agree on a GPU, and with what a CPU computes exactly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from rxrl.models.experts import MixtureOfExperts, RouterStatistics
from tests.gpu.parts import GPU, flat, gap

DIM, HIDDEN, EXPERTS, ACTIVE = 128, 256, 12, 2
"""Those of nano."""
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02}


def layer_of(**options: object) -> MixtureOfExperts:
    torch.manual_seed(3)
    return MixtureOfExperts(DIM, HIDDEN, EXPERTS, ACTIVE, **options)


def routed(tokens: int, skewed: bool, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, weights and chosen experts; skewed: half of the experts get nothing, and one gets most."""
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, DIM, generator=draws)
    scores = torch.randn(tokens, EXPERTS, generator=draws)
    if skewed:
        scores[:, EXPERTS // 2 :] -= 100
        scores[:, 0] += 10
    best, chosen = scores.topk(ACTIVE, dim=-1)
    return x, best.softmax(-1), chosen


def through(layer: MixtureOfExperts, way: str, x: Tensor, weights: Tensor, chosen: Tensor) -> list[Tensor]:
    """Output, then gradients of tokens, weights and experts."""
    x, weights = x.detach().requires_grad_(), weights.detach().requires_grad_()
    out = getattr(layer, way)(x, weights, chosen)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(7)).to(out)
    experts = [p for name, p in layer.named_parameters() if name in ("w1", "b1", "w2", "b2")]
    return [out, *torch.autograd.grad((out * upstream).sum(), [x, weights, *experts])]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("skewed", [False, True], ids=["even", "skewed"])
@pytest.mark.parametrize("global_bias", [False, True])
@pytest.mark.parametrize("tokens", [5, 700])
def test_all_ways_give_what_a_cpu_gives(dtype: torch.dtype, skewed: bool, global_bias: bool, tokens: int):
    layer = layer_of(global_bias=global_bias)
    given = routed(tokens, skewed)
    expected = through(copy.deepcopy(layer).double(), "_dense", given[0].double(), given[1].double(), given[2])
    here = layer.to(GPU, dtype)
    x, weights, chosen = given[0].to(GPU, dtype), given[1].to(GPU, dtype), given[2].to(GPU)
    ways = ["_padded", "_dense", *(["_grouped"] if here._can_group(x) else [])]
    assert "_grouped" in ways or dtype != torch.bfloat16, "bfloat16 is what grouped products are made for"
    for way in ways:
        found = through(here, way, x, weights, chosen)
        for one, other in zip(found, expected, strict=True):
            assert gap(one, other) < TOLERANCE[dtype], way
        for expert in set(range(EXPERTS)) - set(chosen.flatten().tolist()):
            assert all(not gradient[expert].any() for gradient in found[3:]), way


@pytest.mark.parametrize("way", ["float32", "bfloat16", "mixed precision"])
@pytest.mark.parametrize("shape", [(1, 1), (16, 1), (3, 40), (16, 256)], ids=str)
def test_the_way_that_is_taken_is_right_for_every_number_of_tokens(way: str, shape: tuple[int, int]):
    layer = layer_of(shared=1)
    x = torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(1))
    expected = copy.deepcopy(layer).double()(x.double())
    dtype = torch.bfloat16 if way == "bfloat16" else torch.float32
    here, there = layer.to(GPU, dtype), x.to(GPU, dtype)
    statistics = RouterStatistics(torch.ones(shape, dtype=torch.bool, device=GPU))
    with torch.autocast("cuda", torch.bfloat16, enabled=way == "mixed precision"):
        found = here(there, statistics)
        with torch.no_grad():
            without = here(there)
    # In bfloat16 the router sends a token whose choices are close to another expert.
    assert gap(found, expected) < (1e-5 if way == "float32" else 0.2)
    assert gap(without, found) < (1e-6 if way == "float32" else 0.02)
    loads, probabilities, tokens = statistics.sums()
    assert int(tokens) == shape[0] * shape[1]
    assert probabilities.isfinite().all()
    assert flat([loads]).sum() == pytest.approx(ACTIVE * shape[0] * shape[1], rel=0 if dtype == torch.float32 else 0.2)
