"""Attention with heads of 16 numbers, the size that every preset has: torch's own kernel is made for wider ones."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rxrl.models.kernels.library import fits, instruction_set, run

HEAD_DIM = 16


class _Arguments(ctypes.Structure):
    """`struct attention` of kernels.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "readable", "out", "log_sums", "to_out", "to_q", "to_k", "to_v")),
        *((name, ctypes.c_long) for name in ("batch", "heads", "kv_heads", "times", "keys")),
        *((f"{name}_{axis}", ctypes.c_long) for name in "qkv" for axis in ("batch", "head", "time")),
        ("scale", ctypes.c_float),
        ("causal", ctypes.c_int),
    )


def can_attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> bool:
    """Whether the kernel is there and made for this; arguments as in `attend`."""
    return (
        instruction_set() is not None
        and q.shape[-1] == HEAD_DIM
        and q.shape[-2] > 1
        and k.shape[-2] > 0
        and k.shape == v.shape
        and q.shape[0] == k.shape[0]
        and q.shape[1] % k.shape[1] == 0
        and (mask is None or (not causal and mask.ndim == 4 and mask.shape[1] == mask.shape[2] == 1))
        and fits(q, k, v)
    )


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Scaled dot-product attention of float32 tensors on a CPU, heads merged.

    Args:
        q: `[batch, query_groups, time, 16]`.
        k: `[batch, kv_groups, keys, 16]`; kv_groups divides query_groups.
        v: As `k`.
        mask: bool `[batch or 1, 1, 1, keys]`, true where a key may be read; a row that reads nothing gives 0. Hidden keys cost nothing.
        causal: Position i reads keys up to i; only without `mask`.

    Returns:
        `[batch, time, query_groups * 16]`.
    """
    readable = None if mask is None else mask[:, 0, 0].expand(len(q), k.shape[2]).contiguous()
    out: Tensor = _Attention.apply(q, k, v, readable, causal)  # type: ignore[no-untyped-call]
    return out.flatten(2)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, readable: Tensor | None, causal: bool) -> Tensor:
        batch, heads, times, _ = q.shape
        out = q.new_empty(batch, times, heads, HEAD_DIM)
        log_sums = q.new_empty(batch, heads, times)
        run("rxrl_attention", _arguments(q, k, v, readable, causal, out=out, log_sums=log_sums))
        ctx.causal = causal
        ctx.save_for_backward(q, k, v, readable, out, log_sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, readable, out, log_sums = ctx.saved_tensors
        to_q, to_k, to_v = (each.new_empty(each.shape[0], each.shape[2], each.shape[1], HEAD_DIM) for each in (q, k, v))
        tensors = {"out": out, "log_sums": log_sums, "to_out": gradient.contiguous(), "to_q": to_q, "to_k": to_k, "to_v": to_v}
        run("rxrl_attention_gradients", _arguments(q, k, v, readable, ctx.causal, **tensors))
        return to_q.transpose(1, 2), to_k.transpose(1, 2), to_v.transpose(1, 2), None, None


def _arguments(q: Tensor, k: Tensor, v: Tensor, readable: Tensor | None, causal: bool, **tensors: Tensor) -> _Arguments:
    strides = {
        f"{name}_{axis}": each.stride(i)
        for name, each in zip("qkv", (q, k, v), strict=True)
        for i, axis in enumerate(("batch", "head", "time"))
    }
    pointers = {name: each.data_ptr() for name, each in {"q": q, "k": k, "v": v, **tensors}.items()}
    return _Arguments(
        readable=None if readable is None else readable.data_ptr(),
        batch=q.shape[0],
        heads=q.shape[1],
        kv_heads=k.shape[1],
        times=q.shape[2],
        keys=k.shape[2],
        scale=HEAD_DIM**-0.5,
        causal=causal,
        **pointers,
        **strides,
    )
