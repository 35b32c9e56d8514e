"""Memory attention of every variant and gate against a plain implementation of its equations, layer by layer and slot by slot."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from rxrl.models import AttentionConfig, ModelConfig
from rxrl.models.config import GateConfig
from rxrl.models.memory_attention import MemoryAttention, ResidualGate
from tests.models.small import GATES, VARIANTS, config, configs, interactions, memory_of, model_of, writing

FULL, GROUPED = AttentionConfig(query_groups=4, kv_groups=4), AttentionConfig(query_groups=4, kv_groups=2)
CLOSE = {"atol": 1e-9, "rtol": 1e-9}


def named(gate: GateConfig) -> str:
    return f"{gate.type}-{gate.activation}-{'slot' if gate.per_slot else 'layer'}-{gate.slot_status}"


def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1.1920929e-07).sqrt() * weight


def plain_rotation(x: Tensor) -> Tensor:
    """Rotates each pair of each row `[rows, head_dim]` by its position."""
    rows = []
    for position, row in enumerate(x):
        turned = []
        for pair in range(len(row) // 2):
            angle = position * 10_000.0 ** (-2 * pair / len(row))
            a, b = row[2 * pair], row[2 * pair + 1]
            turned += [a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle)]
        rows.append(torch.stack(turned))
    return torch.stack(rows)


def plain_attention(part, layer: int, queries: Tensor, data: Tensor, rotated: bool) -> Tensor:
    """One layer, head by head: `queries` `[slots, dim]`, `data` `[time, dim]`."""
    size = part.head_dim
    kv = part.kv_proj.shape[2] // 2
    q, k, v = queries @ part.q_proj[layer], data @ part.kv_proj[layer][:, :kv], data @ part.kv_proj[layer][:, kv:]
    heads = q.shape[1] // size
    outputs = []
    for head in range(heads):
        group = head // (heads // (kv // size))
        keys, values = k[:, group * size : (group + 1) * size], v[:, group * size : (group + 1) * size]
        keys = plain_rotation(keys) if rotated else keys
        scores = q[:, head * size : (head + 1) * size] @ keys.T / size**0.5
        outputs.append(scores.exp() / scores.exp().sum(1, keepdim=True) @ values)
    return torch.cat(outputs, dim=1) @ part.out_proj[layer] + part.out_bias[layer]


def plain_gate(gate: ResidualGate, layer: int, old: Tensor, new: Tensor) -> Tensor:
    """One layer, slot by slot: `old` and `new` `[slots, dim]`."""
    form = gate.config
    if form.type == "none":
        return old + new
    if form.slot_status == "mean":
        status = [(o + n).sum() / len(o) for o, n in zip(old, new, strict=True)]
    else:
        status = [((o + n) * gate.status_weight[layer]).sum() + gate.status_bias[layer] for o, n in zip(old, new, strict=True)]
    mixed = []
    for slot, (o, n) in enumerate(zip(old, new, strict=True)):
        row = slot if form.per_slot else 0
        if form.type == "static":
            value = gate.weight[layer, row]
        elif form.type == "elementwise":
            value = gate.weight[layer, row] * status[slot]
        else:
            value = sum(gate.weight[layer, row, other] * each for other, each in enumerate(status)) + gate.bias[layer, row]
        if form.activation == "sigmoid":
            g = 1 / (1 + (-value).exp())
            mixed.append(g * n + (1 - g) * o)
        else:
            g = value.tanh()
            mixed.append((1 + g) * n + (1 - g) * o)
    return torch.stack(mixed)


def plain_write(module: MemoryAttention, shape: ModelConfig, stm: Tensor, encoded: Tensor) -> Tensor:
    """One conversation: `stm` `[layers, slots, dim]`, `encoded` `[layers, time, dim]` without padding."""
    part, written = shape.memory_attention, []
    size = shape.layers // (part.layer_groups or 1)
    for layer, memory in enumerate(stm):
        old = memory
        if part.variant == "self":
            own = plain_norm(memory, module.self_memory_norm.weight[layer])
            old = plain_gate(module.self_gate, layer, memory, plain_attention(module.self_attention, layer, own, own, False))
        elif part.variant != "simple":
            own = plain_norm(memory, module.mean_memory_norm.weight[layer])
            start = layer // size * size
            source = plain_norm(sum(stm[start : start + size]) / size, module.mean_stm_norm)
            if part.variant != "interlayer":
                source = plain_gate(module.interlayer_gate, layer, own, source)
            old = plain_gate(module.mean_gate, layer, memory, plain_attention(module.mean_attention, layer, own, source, False))
        queries = plain_norm(old, module.memory_norm.weight[layer])
        data = plain_norm(encoded[layer], module.input_norm.weight[layer])
        written.append(plain_gate(module.gate, layer, old, plain_attention(module.attention, layer, queries, data, True)))
    return torch.stack(written)


def check_against_plain(shape: ModelConfig, lengths: list[int], seed: int = 0) -> None:
    model = model_of(shape, seed=seed)
    stm, batch = memory_of(model, len(lengths), seed), interactions(lengths, seed)
    draws = torch.Generator().manual_seed(seed)
    encoded = torch.randn(shape.layers, *batch.ids.shape, shape.dim, generator=draws, dtype=torch.float64)
    found = model.update_memory(stm, encoded, batch.mask)
    for row, length in enumerate(lengths):
        expected = plain_write(model.memory_attention, shape, stm[:, row], encoded[:, row, :length])
        torch.testing.assert_close(found[:, row], expected, **CLOSE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_equals_the_plain_equations(variant: str):
    check_against_plain(config(layers=4, memory_attention=writing(variant, FULL, GROUPED)), [5, 1, 8])


@pytest.mark.parametrize("gate", GATES, ids=named)
def test_each_gate_equals_the_plain_equations(gate: GateConfig):
    check_against_plain(config(memory_attention=writing("self-interlayer" if gate.per_slot else "self", GROUPED, FULL, gate=gate)), [4, 2])


@given(configs(), st.lists(st.integers(1, 6), min_size=1, max_size=2), st.integers(0, 99))
@settings(max_examples=25)
def test_any_configuration_equals_the_plain_equations(shape: ModelConfig, lengths: list[int], seed: int):
    check_against_plain(shape, lengths, seed)


def test_one_group_of_layers_is_the_mean_of_all_and_a_group_sees_no_other():
    def model(**options: object):
        return model_of(config(layers=4, memory_attention=writing(attention=FULL, first=FULL, **options)))

    whole, one, two = model(variant="self-interlayer"), model(variant="grouped-self-interlayer", groups=1), model(variant=VARIANTS[-1])
    stm, batch = memory_of(whole, 2), interactions([5, 3])
    encoded = whole.encode(batch.ids, batch.mask)
    assert torch.equal(whole.update_memory(stm, encoded, batch.mask), one.update_memory(stm, encoded, batch.mask))
    changed = torch.cat([stm[:3], stm[3:].flip(2)])
    before, after = (two.update_memory(each, encoded, batch.mask) for each in (stm, changed))
    assert torch.equal(before[:2], after[:2])
    assert not torch.allclose(before[2], after[2])
    before, after = (whole.update_memory(each, encoded, batch.mask) for each in (stm, changed))
    assert not torch.allclose(before[0], after[0])


@pytest.mark.parametrize("gate", GATES, ids=named)
def test_gate_gradients_are_exact(gate: GateConfig):
    module = model_of(config(slots=3, memory_attention=writing("simple", FULL, FULL, gate=gate))).memory_attention.gate
    draws = torch.Generator().manual_seed(1)
    old, new = (torch.randn(2, 2, 3, 16, generator=draws, dtype=torch.float64).requires_grad_() for _ in range(2))
    names = [name for name, _ in module.named_parameters()]
    assert torch.autograd.gradcheck(
        lambda *given: functional_call(module, dict(zip(names, given[2:], strict=True)), given[:2]), (old, new, *module.parameters())
    )


class Write(nn.Module):
    """A write as one call, so that its parameters can be given as arguments."""

    def __init__(self, writer: MemoryAttention) -> None:
        super().__init__()
        self.writer = writer

    def forward(self, stm: Tensor, encoded: Tensor, mask: Tensor) -> Tensor:
        return self.writer(stm, self.writer.told(encoded, mask))


@pytest.mark.parametrize("gate", GATES[::4], ids=named)
@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_attention_gradients_are_exact(variant: str, gate: GateConfig):
    half = AttentionConfig(query_groups=2, kv_groups=1)
    module = Write(model_of(config(slots=3, memory_attention=writing(variant, half, half, gate=gate))).memory_attention)
    draws = torch.Generator().manual_seed(1)
    stm, encoded = (torch.randn(2, 2, rows, 16, generator=draws, dtype=torch.float64).requires_grad_() for rows in (3, 4))
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    names = [name for name, _ in module.named_parameters()]

    def write(*given: Tensor) -> Tensor:
        return functional_call(module, dict(zip(names, given[2:], strict=True)), (*given[:2], mask))

    assert torch.autograd.gradcheck(write, (stm, encoded, *module.parameters()), fast_mode=True)


@pytest.mark.parametrize("gate", GATES, ids=named)
def test_openness_is_the_share_of_what_is_new(gate: GateConfig):
    module = model_of(config(memory_attention=writing("simple", FULL, FULL, gate=gate))).memory_attention.gate
    old, new = torch.randn(2, 3, 5, 16).double(), torch.randn(2, 3, 5, 16).double()
    openness = module.openness(old, new)
    assert openness.shape == (2, 3, 5)
    kept = module(old, new)
    total = 1.0 if gate.type != "none" and gate.activation == "sigmoid" else 2.0
    torch.testing.assert_close(kept, total * (openness.unsqueeze(-1) * new + (1 - openness.unsqueeze(-1)) * old))
    if gate.type == "none":
        torch.testing.assert_close(kept, old + new)
    elif gate.type != "static":
        assert openness.std() > 0


@pytest.mark.parametrize("gate", GATES, ids=named)
def test_gates_start_neither_shut_nor_exploding(gate: GateConfig):
    module = MemoryAttention(config(memory_attention=writing("self-interlayer", FULL, FULL, gate=gate))).double()
    old, new = torch.randn(2, 3, 5, 16).double(), torch.randn(2, 3, 5, 16).double()
    for part in (module.gate, module.mean_gate, module.interlayer_gate):
        assert 0.02 < part.openness(old, new).mean() < 0.6
    shares = module.gate.openness(old, new).mean((0, 1))
    if gate.type == "static" and gate.activation == "sigmoid" and gate.per_slot:
        assert (shares.diff() > 0).all(), "slots start from slow to fast"
    narrow = module.gate(old.float(), new.bfloat16()) if gate.type in ("none", "static") else module.gate(old, new.float())
    assert narrow.dtype == (torch.float32 if gate.type in ("none", "static") else torch.float64), "memory keeps its type"
