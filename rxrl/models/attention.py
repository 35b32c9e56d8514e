"""Scaled dot-product attention behind one function: torch's own, kernels for CPUs, or flash-attn, whose packed form leaves padding out."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from rxrl.errors import ModelError
from rxrl.models.config import AttentionBackend
from rxrl.models.kernels import attention as kernels
from rxrl.models.kernels.attention import can_attend


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False, backend: AttentionBackend = "auto") -> Tensor:
    """Scaled dot-product attention, heads merged.

    Args:
        q: `[batch, query_groups, time, head_dim]`.
        k: `[batch, kv_groups, keys, head_dim]`; kv_groups divides query_groups.
        v: As `k`.
        mask: bool, broadcastable to `[batch, 1, time, keys]`, true where a key may be read; a row that reads nothing gives 0.
        causal: Position i reads keys up to i; only without `mask`, and with as many keys as positions.
        backend: What computes it; the result is the same within rounding. `auto`: kernels of rxrl where they are built and fit, else
            `sdpa`. A single position, which gains nothing, is always `sdpa`.

    Returns:
        `[batch, time, query_groups * head_dim]`.

    Raises:
        ModelError: flash-attn cannot compute this here.
    """
    if backend == "flash" and q.shape[-2] > 1:
        return _flash(q, k, v, mask, causal)
    if not torch.compiler.is_compiling():
        if mask is not None and mask.device.type == "cpu" and bool(mask.all()):
            mask = None  # a tenth of the time on CPUs, bit for bit the same
        if backend == "auto" and can_attend(q, k, v, mask, causal):
            return kernels.attend(q, k, v, mask, causal)
    grouped = q.shape[-3] != k.shape[-3]
    if mask is None or mask.device.type == "cpu":
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)
    else:
        # Some kernels of GPUs give a row that reads nothing the mean of what it must not read.
        reads = mask.any(-1, keepdim=True)
        if grouped:
            # No fused kernel of GPUs takes both a mask and groups: without copies of the keys, all scores would lie in memory.
            k, v = (each.repeat_interleave(q.shape[-3] // k.shape[-3], dim=-3) for each in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask | ~reads).masked_fill(~reads, 0)
    return out.transpose(-2, -3).flatten(-2)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """Weights that `attend` gives the keys where nothing is causal, for whoever wants to look at them.

    Args:
        q: `[batch, query_groups, time, head_dim]`.
        k: `[batch, kv_groups, keys, head_dim]`.
        mask: As in `attend`.

    Returns:
        `[batch, time, keys]`, mean over query groups.
    """
    scores = q @ k.repeat_interleave(q.shape[1] // k.shape[1], dim=1).mT * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights: Tensor = scores.softmax(-1).mean(1)
    return weights


def flash_attn() -> ModuleType:
    """The module flash-attn; a `ModelError` where it is not installed."""
    if importlib.util.find_spec("flash_attn") is None:
        raise ModelError(
            "attention_backend 'flash' needs flash-attn, which is not installed: `pip install 'rxrl[flash]'` on a machine with CUDA, "
            "or set attention_backend to 'sdpa'."
        )
    return importlib.import_module("flash_attn")


def _flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise ModelError(
            f"flash-attn computes in float16 or bfloat16, got {q.dtype}: run in mixed precision or convert the model, "
            "or set attention_backend to 'sdpa'."
        )
    # Autocast, which makes types alike for torch's own attention, does not know this one; a cache may be wider than what is new.
    k, v = k.to(q.dtype), v.to(q.dtype)
    if mask is None:
        out = flash_attn().flash_attn_func(*(each.transpose(1, 2) for each in (q, k, v)), causal=causal)
    else:
        out = _packed(q, k, v, mask)
    merged: Tensor = out.flatten(-2)
    return merged


def _packed(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of all rows as one packed sequence, in which the keys that `mask` hides do not exist; `[batch, time, groups, head_dim]`."""
    if mask.shape[-2] != 1 or mask.shape[-3] != 1:
        raise ModelError(
            f"flash-attn can hide a key from all positions of a row only, got a mask of shape {list(mask.shape)}: "
            "set attention_backend to 'sdpa'."
        )
    batch, _, time, _ = q.shape
    readable = mask[:, 0, 0].expand(batch, k.shape[2])
    lengths = readable.sum(1, dtype=torch.int32)
    ends = F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    out: Tensor = flash_attn().flash_attn_varlen_func(
        q.transpose(1, 2).flatten(0, 1),
        k.transpose(1, 2)[readable],
        v.transpose(1, 2)[readable],
        cu_seqlens_q=torch.arange(0, batch * time + 1, time, dtype=torch.int32, device=q.device),
        cu_seqlens_k=ends,
        max_seqlen_q=time,
        max_seqlen_k=int(lengths.max()),
        causal=False,
    )
    return out.view(batch, time, *out.shape[1:])
