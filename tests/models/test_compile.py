"""What is hot compiles into one graph (the eager backend needs no compiler), and bfloat16 stays near float32."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rxrl.models import ReactiveTransformer
from tests.models.small import config, interactions, memory_of, model_of, padded, writing

BF16_TOLERANCE = 0.05
"""Root mean square of the difference in logits between bfloat16 and float32, as a share of that of the logits."""


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(function):
    return torch.compile(function, fullgraph=True, backend="eager")


def model(**changes: object) -> ReactiveTransformer:
    return model_of(config(**changes), dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("reads_memory", [False, True])
def test_encoder_and_memory_update_compile(reads_memory: bool):
    made = model(reads_memory=reads_memory)
    batch = padded(interactions([6, 3]), 1)
    stm = memory_of(made, 2)
    read = stm if reads_memory else None
    torch.testing.assert_close(compiled(made.encode)(batch.ids, batch.mask, read), made.encode(batch.ids, batch.mask, read))
    torch.testing.assert_close(compiled(made.write_memory)(stm, batch.ids, batch.mask), made.write_memory(stm, batch.ids, batch.mask))


def test_gradients_pass_a_compiled_write():
    made = model()
    batch, stm = padded(interactions([6, 3]), 1), memory_of(made, 2)
    trained = [*made.encoder.parameters(), *made.memory_attention.parameters()]
    found, expected = (
        torch.autograd.grad(write(stm, batch.ids, batch.mask).square().mean(), trained)
        for write in (compiled(made.write_memory), made.write_memory)
    )
    assert all(each.any() for each in expected)
    torch.testing.assert_close(found, expected)


def test_the_memory_update_of_the_largest_variant_compiles():
    attention = config().memory_attention.attention
    made = model(memory_attention=writing("grouped-self-interlayer", attention, attention))
    batch, stm = interactions([6, 3]), memory_of(made, 2)
    torch.testing.assert_close(compiled(made.write_memory)(stm, batch.ids, batch.mask), made.write_memory(stm, batch.ids, batch.mask))


@pytest.mark.parametrize("experts", [1, 4])
def test_decode_steps_compile(experts: int):
    parts = config().decoder
    made = model(decoder=parts.model_copy(update={"experts": experts, "active_experts": min(2, experts)}))
    ids = interactions([6, 6, 6]).ids
    stm = memory_of(made, 3)

    def steps(step) -> torch.Tensor:
        embedded, memory = made.embedding(ids), made.decoder.project_memory(stm)
        caches = made.decoder.new_cache(3, 6, embedded)
        made.decoder.step(embedded[:, :3], torch.arange(3), memory, caches, None)
        return torch.cat([step(embedded[:, at : at + 1], torch.full((3, 1), at), memory, caches, None) for at in range(3, 6)], dim=1)

    with torch.no_grad():
        expected = made.decode_hidden(ids, torch.ones_like(ids, dtype=torch.bool), stm)[:, 3:]
        torch.testing.assert_close(steps(compiled(made.decoder.step)), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_bfloat16_keeps_the_logits_of_nano_near_float32():
    wide = ReactiveTransformer.from_preset("nano")
    draws = torch.Generator().manual_seed(0)
    for layer in wide.decoder.layers:
        weight = layer.memory_cross_attention.out_proj.weight
        weight.copy_(0.1 * torch.randn(weight.shape, generator=draws))
    wide.embedding.weight.copy_(torch.randn(wide.embedding.weight.shape, generator=draws))
    batch = padded(interactions([24, 17]), 2)
    results = []
    for each in (wide, ReactiveTransformer.from_config(wide.config).bfloat16()):
        each.load_state_dict(wide.state_dict())
        stm = each.init_memory(2, torch.Generator().manual_seed(1))
        for _ in range(3):
            stm = each.write_memory(stm, batch.ids, batch.mask)
        results.append((stm.float(), each.decode(batch.ids, batch.mask, stm)[batch.mask].float()))
    for one, other in zip(*results, strict=True):
        gap = (one - other).norm() / one.norm()
        assert 0 < gap < BF16_TOLERANCE
