"""flash-attn itself, against torch's own attention in the same type."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rxrl.models import ReactiveTransformer
from rxrl.models.attention import attend
from tests import skips
from tests.gpu.parts import GPU, PRESETS, awake, batch_of, flat, gap, memory_for, placed
from tests.models.small import prompts

SAME = 0.01
"""Bound of the gap between two ways to compute one attention in bfloat16, whose steps are 0.004 of a value."""
MODEL, GRADIENTS = 0.05, 0.15
"""The same for whole models, in which roundings add up and send some tokens to other experts."""


@pytest.fixture(autouse=True)
def _flash_attn() -> None:
    pytest.importorskip("flash_attn", reason=skips.FLASH)


def heads(groups: int, time: int, seed: int, head_dim: int = 16) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(3, groups, time, head_dim, generator=draws).to(GPU, torch.bfloat16).requires_grad_()


def results(backend: str, query_groups: int, kv_groups: int, keys: int, mask: Tensor | None, causal: bool) -> list[Tensor]:
    """Output and the three gradients."""
    q, k, v = heads(query_groups, 24, 1), heads(kv_groups, keys, 2), heads(kv_groups, keys, 3)
    out = attend(q, k, v, mask, causal, backend)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(4)).to(out)
    return [out, *torch.autograd.grad((out * weights).sum(), [q, k, v])]


@pytest.mark.parametrize("groups", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("kind", ["whole", "causal", "some keys", "no keys in one row", "one query"])
def test_it_gives_what_torch_gives_with_its_gradients(groups: tuple[int, int], kind: str):
    keys = 24 if kind == "causal" else 40
    mask = None
    if kind in ("some keys", "no keys in one row"):
        lengths = torch.tensor([[40], [13], [0 if kind == "no keys in one row" else 1]])
        mask = (torch.arange(keys) < lengths)[:, None, None].to(GPU)
    found, expected = (results(backend, *groups, keys, mask, kind == "causal") for backend in ("flash", "sdpa"))
    for name, one, other in zip(("out", "q", "k", "v"), found, expected, strict=True):
        assert gap(one, other) < SAME, name
    if kind == "no keys in one row":
        for each in (*found, *expected):
            assert each.isfinite().all()
            assert not each[2].any()


def test_keys_of_a_wider_cache_do():
    q, k, v = heads(4, 24, 1), heads(4, 24, 2), heads(4, 24, 3)
    assert torch.equal(attend(q, k.float(), v.float(), causal=True, backend="flash"), attend(q, k, v, causal=True, backend="flash"))


def outputs(model: ReactiveTransformer, backend: str) -> tuple[list[Tensor], Tensor]:
    """Encoded data, memory and logits, with rows of different lengths, and gradients of all weights that these depend on."""
    model.use_attention(backend)
    batch = batch_of((24, 17, 9, 40)).to(GPU)
    stm = memory_for(model, len(batch.ids))
    encoded = model.encode(batch.ids, batch.mask, stm if model.encoder.reads_memory else None)
    for _ in range(2):
        stm = model.write_memory(stm, batch.ids, batch.mask)
    logits = model.decode(batch.ids, batch.mask, stm)[batch.mask]
    trained = [p for name, p in model.named_parameters() if not name.startswith("mlm_head")]
    loss = logits.float().square().mean() + stm.float().square().mean()
    found = torch.autograd.grad(loss, trained, allow_unused=True)
    return [encoded[:, batch.mask], stm, logits], flat([g for g in found if g is not None])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_whole_model_computes_the_same(preset: str):
    model = placed(awake(preset), dtype=torch.bfloat16)
    (expected, expected_gradients), (found, found_gradients) = (outputs(model, backend) for backend in ("sdpa", "flash"))
    for one, other in zip(found, expected, strict=True):
        assert gap(one, other) < MODEL
    assert gap(found_gradients, expected_gradients) < GRADIENTS


def test_encoded_data_with_padding_serves_as_memory():
    model, batch = placed(awake("pico"), dtype=torch.bfloat16), batch_of((9, 5, 7), empty=False).to(GPU)
    logits = []
    for backend in ("sdpa", "flash"):
        model.use_attention(backend)
        encoded = model.encode(batch.ids, batch.mask)
        logits.append(model.decode(batch.ids, batch.mask, encoded, batch.mask)[batch.mask])
    assert gap(logits[1], logits[0]) < MODEL


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("mixed", [False, True])
def test_answers_begin_with_the_same_distribution(preset: str, mixed: bool):
    """With caches and prompts of different lengths; in mixed precision the caches are as wide as the weights."""
    model = placed(awake(preset), dtype=None if mixed else torch.bfloat16)
    batch, stm = prompts([3, 11, 7]), memory_for(model, 3)
    found = []
    for backend in ("sdpa", "flash"):
        model.use_attention(backend)
        with torch.autocast("cuda", torch.bfloat16, enabled=mixed):
            found.append(model.generate(batch, stm, max_new_tokens=12))
    one, other = found
    assert (one.raw_log_probs[:, 0] - other.raw_log_probs[:, 0]).abs().max() < 0.2
    assert other.mask.any()
    assert other.raw_log_probs.isfinite().all()
