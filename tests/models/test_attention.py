"""Attention by flash-attn, of which a plain double stands in on machines without CUDA."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rxrl.errors import ModelError
from rxrl.models import Critic, ReactiveTransformer
from rxrl.models.attention import attend
from tests.models.small import config, interactions, memory_of, model_of, padded, prompts


class FlashDouble(types.ModuleType):
    """What flash-attn computes, row by row and head by head, with its demands on types and shapes; counts its calls."""

    def __init__(self) -> None:
        super().__init__("flash_attn")
        self.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
        self.whole = self.packed = 0

    def flash_attn_func(self, q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
        self.whole += 1
        return torch.stack([self._row(*row, causal) for row in zip(q, k, v, strict=True)])

    def flash_attn_varlen_func(self, q, k, v, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=False):
        self.packed += 1
        assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
        assert int(cu_seqlens_q.diff().max()) == max_seqlen_q
        assert int(cu_seqlens_k.diff().max()) == max_seqlen_k
        assert (int(cu_seqlens_q[-1]), int(cu_seqlens_k[-1])) == (len(q), len(k))
        rows = []
        for row in range(len(cu_seqlens_q) - 1):
            own, read = slice(*cu_seqlens_q[row : row + 2].tolist()), slice(*cu_seqlens_k[row : row + 2].tolist())
            rows.append(self._row(q[own], k[read], v[read], causal))
        return torch.cat(rows)

    @staticmethod
    def _row(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        assert q.dtype == k.dtype == v.dtype
        assert q.dtype in (torch.float16, torch.bfloat16)
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
        assert q.shape[1] % k.shape[1] == 0
        if not len(k):
            return torch.zeros_like(q)
        heads = []
        for head in range(q.shape[1]):
            group = head * k.shape[1] // q.shape[1]
            scores = q[:, head].float() @ k[:, group].float().T / q.shape[2] ** 0.5
            if causal:
                # Aligned at the end, as flash-attn does it.
                later = torch.arange(len(k)) > torch.arange(len(q)).unsqueeze(1) + len(k) - len(q)
                scores = scores.masked_fill(later, float("-inf"))
            heads.append(scores.softmax(-1) @ v[:, group].float())
        return torch.stack(heads, dim=1).to(q.dtype)


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> FlashDouble:
    double = FlashDouble()
    monkeypatch.setitem(sys.modules, "flash_attn", double)
    return double


def half(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).half()


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.sampled_from([(1, 1), (2, 1), (4, 2)]), st.integers(0, 9))
@settings(max_examples=25)
def test_any_mask_of_keys_gives_the_same(batch: int, time: int, keys: int, groups: tuple[int, int], seed: int):
    with pytest.MonkeyPatch.context() as patch:
        double = FlashDouble()
        patch.setitem(sys.modules, "flash_attn", double)
        q, (k, v) = half(batch, groups[0], time, 8, seed=seed), half(2, batch, groups[1], keys, 8, seed=seed + 1)
        mask = torch.rand(batch, 1, 1, keys, generator=torch.Generator().manual_seed(seed)) < 0.6
        torch.testing.assert_close(attend(q, k, v, mask, backend="flash"), attend(q, k, v, mask), atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(attend(q, k, v, backend="flash"), attend(q, k, v), atol=2e-3, rtol=2e-3)
        k, v = half(2, batch, groups[1], time, 8, seed=seed + 2)
        torch.testing.assert_close(attend(q, k, v, causal=True, backend="flash"), attend(q, k, v, causal=True), atol=2e-3, rtol=2e-3)
        # A single position gains nothing from it.
        assert (double.whole, double.packed) == ((2, 1) if time > 1 else (0, 0))


@pytest.mark.parametrize("reads_memory", [False, True])
def test_a_whole_model_computes_the_same(flash: FlashDouble, reads_memory: bool):
    model = model_of(config(reads_memory=reads_memory), dtype=torch.bfloat16)
    batch = padded(interactions([7, 3, 5]), 2)
    start = memory_of(model, 3)

    def outputs(model: ReactiveTransformer = model) -> tuple[Tensor, Tensor, Tensor]:
        memory = start.to(model.dtype)
        stm = model.write_memory(memory, batch.ids, batch.mask)
        logits = model.decode(batch.ids, batch.mask, memory)[batch.mask]
        return stm, logits, model.generate(prompts([3, 1, 2]), memory, max_new_tokens=4).ids

    expected = outputs()
    assert (flash.whole, flash.packed) == (0, 0)
    exact = outputs(model.float())
    model.to(torch.bfloat16)
    model.use_attention("flash")
    found = outputs()
    assert flash.whole
    assert flash.packed
    # How much bfloat16 rounds depends on the weights; flash-attn rounds as much as torch does.
    for one, other, truth in zip(found[:2], expected[:2], exact[:2], strict=True):
        assert (one - truth).norm() < 1.25 * (other - truth).norm()
    assert torch.equal(found[2], expected[2])
    model.use_attention("sdpa")
    calls = flash.whole
    assert torch.equal(outputs()[0], expected[0])
    assert flash.whole == calls


def test_mixed_precision_answers_and_writes_the_same(flash: FlashDouble):
    """Its caches are as wide as the weights, its queries are not."""
    model = model_of(config(), dtype=torch.float32)
    batch, start = interactions([7, 3, 5]), memory_of(model, 3)

    def outputs() -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            stm = model.write_memory(start, batch.ids, batch.mask)
            return stm, model.generate(prompts([3, 1, 2]), start, max_new_tokens=4).ids

    expected = outputs()
    model.use_attention("flash")
    found = outputs()
    assert flash.whole
    assert flash.packed
    assert (found[0] - expected[0]).norm() < 0.02 * expected[0].norm()
    assert torch.equal(found[1], expected[1])


def test_the_backend_comes_from_the_configuration_and_stays_out_of_checkpoints(flash: FlashDouble, tmp_path):
    model = ReactiveTransformer.from_config(config(attention_backend="flash"))
    attentions = [each for each in model.modules() if hasattr(each, "backend")]
    assert len(attentions) == 2 + 4 + 2
    assert {each.backend for each in attentions} == {"flash"}
    assert {each.backend for each in Critic(model.config).modules() if hasattr(each, "backend")} == {"flash"}
    model.save_pretrained(tmp_path)
    assert "flash" not in (tmp_path / "config.json").read_text()
    again = ReactiveTransformer.from_pretrained(tmp_path)
    assert again.config.attention_backend == "auto"
    assert {each.backend for each in again.modules() if hasattr(each, "backend")} == {"auto"}
    again.use_attention("flash")
    assert again.config == model.config


def test_what_flash_attn_cannot_do_is_refused_with_the_reason(flash: FlashDouble):
    q = torch.randn(1, 2, 3, 8)
    with pytest.raises(ModelError, match=r"float16 or bfloat16, got torch.float32: run in mixed precision"):
        attend(q, q, q, backend="flash")
    with pytest.raises(ModelError, match=r"hide a key from all positions of a row only, got a mask of shape \[1, 1, 3, 3\]"):
        attend(q.half(), q.half(), q.half(), torch.ones(1, 1, 3, 3, dtype=torch.bool).tril(), backend="flash")


def test_flash_attn_that_is_not_installed_is_one_clear_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs flash-attn, which is not installed: `pip install 'rxrl\[flash\]'` on a machine with CUDA"):
        ReactiveTransformer.from_config(config(attention_backend="flash"))
    model = ReactiveTransformer.from_config(config())
    with pytest.raises(ModelError, match="or set attention_backend to 'sdpa'"):
        model.use_attention("flash")
    assert model.config.attention_backend == "auto"
    assert {each.backend for each in model.modules() if hasattr(each, "backend")} == {"auto"}
