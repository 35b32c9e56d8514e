from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from rxrl.models.attention import attend
from rxrl.models.config import AttentionConfig
from rxrl.models.experts import MixtureOfExperts, RouterStatistics, load_balance_loss
from rxrl.models.layers import RMSNorm, SelfAttention, SwiGLU, rope_angles, rotate
from rxrl.models.memory_attention import MemoryAttention
from tests.models.small import config


def plain_mixture(layer: MixtureOfExperts, x: torch.Tensor) -> torch.Tensor:
    """Token by token and expert by expert."""
    out = []
    for token in x.flatten(0, 1):
        probabilities = layer.router(token).softmax(-1)
        chosen = probabilities.argsort(descending=True)[: layer.active]
        total = probabilities[chosen].sum()
        mixed = torch.zeros_like(token)
        for expert in chosen.tolist():
            first, second = (0, 0) if layer.b1 is None else (layer.b1[expert], layer.b2[expert])
            value, gate = (token @ layer.w1[expert] + first).chunk(2)
            mixed = mixed + probabilities[expert] / total * ((value * F.silu(gate)) @ layer.w2[expert] + second)
        mixed = mixed if layer.global_bias is None else mixed + layer.global_bias
        out.append(mixed if layer.shared is None else mixed + plain_shared(layer.shared, token))
    return torch.stack(out).view_as(x)


def plain_shared(shared: SwiGLU, token: torch.Tensor) -> torch.Tensor:
    """Two experts, one after the other, out of the one that is twice as wide."""
    width = shared.fc2.in_features // 2
    hidden = shared.fc1(token)
    parts = [slice(0, width), slice(width, 2 * width)]
    values, gates = ([half[part] for part in parts] for half in hidden.chunk(2))
    outputs = [shared.fc2.weight[:, part] @ (v * F.silu(g)) for part, v, g in zip(parts, values, gates, strict=True)]
    return sum(outputs) + shared.fc2.bias


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 6), st.booleans(), st.booleans(), st.booleans(), st.data())
@settings(max_examples=60)
def test_mixture_equals_a_plain_loop_with_its_gradients(batch, time, experts, grouped, shared, global_bias, data):
    """In float32 as grouped products, in float64, which those do not know, padded."""
    dim, hidden, dtype = (8, 4, torch.float32) if grouped else (6, 5, torch.float64)
    layer = MixtureOfExperts(dim, hidden, experts, data.draw(st.integers(1, experts)), 2 * shared, global_bias).to(dtype)
    draws = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draws))
    x = torch.randn(batch, time, dim, generator=draws, dtype=dtype).requires_grad_()
    weights = torch.randn(batch, time, dim, generator=draws, dtype=dtype)
    close = {"atol": 2e-4, "rtol": 2e-4} if grouped else {"atol": 1e-11, "rtol": 1e-11}
    found, expected = layer(x), plain_mixture(layer, x)
    torch.testing.assert_close(found, expected, **close)
    inputs = [x, *layer.parameters()]
    one, other = (torch.autograd.grad((each * weights).sum(), inputs, allow_unused=True, retain_graph=True) for each in (found, expected))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, **close)


def test_all_routes_give_the_same_and_the_choice_is_by_type_and_size():
    layer = MixtureOfExperts(8, 4, 5, 2)
    tokens = torch.randn(40, 8)
    weights, chosen = torch.rand(40, 2), torch.rand(40, 5).topk(2).indices
    found = [route(tokens, weights, chosen) for route in (layer._grouped, layer._padded, layer._dense)]
    torch.testing.assert_close(found[1:], [found[0], found[0]])
    assert layer._can_group(tokens)
    assert MixtureOfExperts(8, 8, 5, 2).bfloat16()._can_group(tokens.bfloat16())
    assert not layer.double()._can_group(tokens.double())
    assert not MixtureOfExperts(8, 6, 5, 2)._can_group(tokens)
    even = MixtureOfExperts(8, 8, 5, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert not MixtureOfExperts(8, 4, 5, 2)._can_group(tokens)
        assert MixtureOfExperts(8, 4, 5, 2)(tokens.unsqueeze(0)).isfinite().all()
        # As a GPU computes in mixed precision: grouped products are none of the operations that autocast knows.
        mixed = even._grouped(tokens, weights, chosen)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), even._dense(tokens, weights, chosen), atol=0.02, rtol=0.02)


def test_a_token_of_a_skewed_batch_gets_the_experts_it_gets_alone():
    layer = MixtureOfExperts(4, 3, 5, 2).double()
    x = torch.randn(1, 1, 4).double()
    crowd = torch.cat([x.expand(1, 50, 4), torch.randn(1, 3, 4).double()], dim=1)
    torch.testing.assert_close(layer(crowd)[:, :1], layer(x))


def test_load_balance_is_1_when_balanced_and_up_to_the_number_of_experts():
    even = torch.full((3, 4), 8.0)
    assert load_balance_loss(even, torch.full((3, 4), 4.0), torch.tensor(16)).item() == pytest.approx(1.0)
    one = torch.tensor([[32.0, 0, 0, 0]])
    assert load_balance_loss(one, one / 2, torch.tensor(16)).item() == pytest.approx(4.0)
    assert load_balance_loss(torch.zeros(1, 4), torch.zeros(1, 4), torch.tensor(0)).item() == 0.0


def test_load_balance_pulls_towards_the_experts_that_are_used_less():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]] * 8, requires_grad=True)
    statistics = RouterStatistics(torch.ones(8, dtype=torch.bool))
    probabilities = logits.softmax(-1)
    statistics.add(probabilities, probabilities.topk(2).indices)
    loads, _, tokens = statistics.sums()
    assert loads.tolist() == [[8, 8, 0, 0]]
    assert tokens == 8
    loss = load_balance_loss(*statistics.sums())
    assert loss > 1
    loss.backward()
    assert (logits.grad[:, :2].sum(1) > 0).all()
    assert (logits.grad[:, 2:] < 0).all()


def test_load_statistics_say_how_experts_are_used():
    statistics = RouterStatistics(torch.tensor([[True, True, False], [True, True, False]]))
    uniform, sure = torch.full((6, 4), 0.25), torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(6, 4)
    statistics.add(uniform, torch.tensor([[0, 1], [2, 3], [0, 0], [0, 1], [2, 3], [0, 0]]))
    statistics.add(sure, torch.tensor([[0, 3]]).expand(6, 2))
    load = statistics.load()
    torch.testing.assert_close(load.fraction, torch.tensor([[0.25] * 4, [0.5, 0, 0, 0.5]]))
    torch.testing.assert_close(load.probability, torch.tensor([[0.25] * 4, [1.0, 0, 0, 0]]))
    torch.testing.assert_close(load.entropy, torch.tensor([4.0, 1.0]).log())


def test_a_router_in_a_narrow_type_is_counted_exactly():
    layer = MixtureOfExperts(8, 8, 5, 2).bfloat16()
    statistics = RouterStatistics(torch.ones(3000, dtype=torch.bool))
    layer(torch.randn(1, 3000, 8, dtype=torch.bfloat16), statistics)
    loads, probabilities, tokens = statistics.sums()
    assert loads.sum() == 2 * tokens == 6000
    assert probabilities.sum().item() == pytest.approx(3000, rel=1e-4)


def test_rotary_embedding_turns_adjacent_pairs_and_scores_depend_on_distance():
    x = torch.randn(1, 9, 2, 6, dtype=torch.float64)
    turned = rotate(x, rope_angles(torch.arange(9), 6, torch.float64))
    angle = 4 * 10_000.0 ** (-2 / 6)
    a, b = x[0, 4, 1, 2:4]
    cos, sin = torch.tensor(angle).cos(), torch.tensor(angle).sin()
    torch.testing.assert_close(turned[0, 4, 1, 2:4], torch.stack([a * cos - b * sin, a * sin + b * cos]), atol=1e-7, rtol=0)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    q, k = x[0, 0, 0], x[0, 1, 0]

    def score(i: int, j: int) -> torch.Tensor:
        at = [rotate(each.view(1, 1, 1, 6), rope_angles(torch.tensor([place]), 6, torch.float64)) for each, place in ((q, i), (k, j))]
        return (at[0] * at[1]).sum()

    torch.testing.assert_close(score(7, 3), score(104, 100))
    assert not torch.allclose(score(7, 3), score(7, 4))


def test_norm_has_unit_scale_however_small_the_input():
    norm = RMSNorm(64)
    for scale in (1e-2, 1.0, 1e3):
        assert norm(scale * torch.randn(5, 64)).square().mean().item() == pytest.approx(1.0, rel=0.01)
    half = torch.randn(3, 64).bfloat16()
    assert norm(half).dtype == torch.bfloat16
    torch.testing.assert_close(norm(half).float(), norm(half.float()), atol=0.02, rtol=0.02)


def test_attention_that_may_read_nothing_gives_zero_with_finite_gradients():
    q, k, v = (torch.randn(2, 2, 3, 4, requires_grad=True) for _ in range(3))
    mask = torch.ones(2, 1, 1, 3, dtype=torch.bool)
    mask[1] = False
    out = attend(q, k, v, mask)
    assert (out[1] == 0).all()
    out.square().sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in (q, k, v))


def test_grouped_attention_shares_keys_between_query_heads():
    layer = SelfAttention(8, 2, AttentionConfig(query_groups=4, kv_groups=2)).double()
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    angles = rope_angles(torch.arange(5), 2, torch.float64)
    q, k, v = layer.project(x, angles)
    assert (q.shape[1], k.shape[1], v.shape[1]) == (4, 2, 2)
    scores = (q @ k.repeat_interleave(2, dim=1).mT * 2**-0.5).softmax(-1)
    expected = layer.out_proj((scores @ v.repeat_interleave(2, dim=1)).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x, angles), expected)


def test_feed_forward_multiplies_the_value_half_by_the_gate_half():
    layer = SwiGLU(3, 2)
    x = torch.randn(4, 3)
    hidden = x @ layer.fc1.weight.T + layer.fc1.bias
    torch.testing.assert_close(layer(x), F.linear(hidden[:, :2] * F.silu(hidden[:, 2:]), layer.fc2.weight, layer.fc2.bias))


def test_a_closed_gate_keeps_memory_and_an_open_one_replaces_it():
    layer = MemoryAttention(config()).double()
    stm, encoded = torch.randn(2, 3, 5, 16, dtype=torch.float64), torch.randn(2, 3, 4, 16, dtype=torch.float64)
    mask = torch.ones(3, 4, dtype=torch.bool)
    with torch.no_grad():
        layer.mean_gate.bias.fill_(-60)
        layer.gate.bias.fill_(-60)
        torch.testing.assert_close(layer(stm, layer.told(encoded, mask)), stm)
        layer.gate.bias.fill_(60)
        other = layer(stm.roll(1, 1), layer.told(encoded, mask))
    openness = layer.gate.openness(stm, stm)
    assert openness.shape == (2, 3, 5)
    assert not torch.allclose(other, stm, atol=0.1)


def test_each_layer_writes_its_own_memory_from_its_own_data():
    layer = MemoryAttention(config()).double()
    stm, encoded = torch.randn(2, 1, 5, 16, dtype=torch.float64), torch.randn(2, 1, 4, 16, dtype=torch.float64)
    mask = torch.ones(1, 4, dtype=torch.bool)
    before = layer(stm, layer.told(encoded, mask))
    changed = encoded.clone()
    changed[1] += 1
    after = layer(stm, layer.told(changed, mask))
    torch.testing.assert_close(after[0], before[0])
    assert not torch.allclose(after[1], before[1])
    changed_memory = stm.clone()
    changed_memory[1] += torch.randn(16, dtype=torch.float64)
    assert not torch.allclose(layer(changed_memory, layer.told(encoded, mask))[0], before[0]), (
        "the mean of all layers' memory reaches each layer"
    )
