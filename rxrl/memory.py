"""Stateless helpers on Short-Term Memory tensors `[layers, batch, slots, dim]`; the learned write lives in the models."""

from __future__ import annotations

import torch
from torch import Tensor

from rxrl.errors import ModelError

_AXES = 4


def reset_rows(stm: Tensor, rows: Tensor, fresh: Tensor) -> Tensor:
    """Takes some rows of a memory from another one.

    Args:
        stm: Memory `[layers, batch, slots, dim]`; it is not changed.
        rows: bool `[batch]`, true for the rows to replace.
        fresh: Memory of the same shape that supplies them.

    Returns:
        A new memory `[layers, batch, slots, dim]`; gradients flow to `stm` in the kept rows, to `fresh` in the others.

    Raises:
        ModelError: A shape or the type of `rows` does not fit.
    """
    _check_memory("stm", stm)
    if fresh.shape != stm.shape:
        raise ModelError(f"reset_rows: expected `fresh` with the shape of `stm` {tuple(stm.shape)}, got {tuple(fresh.shape)}.")
    return torch.where(_check_rows(rows, stm)[None, :, None, None], fresh, stm)


def drift(before: Tensor, after: Tensor, rows: Tensor | None = None) -> Tensor:
    """Mean squared change of each row of a memory.

    Args:
        before: Memory `[layers, batch, slots, dim]`.
        after: Memory of the same shape.
        rows: bool `[batch]`, true for the rows to report; None reports all.

    Returns:
        float `[batch]`, or `[n]` for the n rows chosen: the mean of `(after - before) ** 2` over layers, slots and dim,
        computed in float32 at least.

    Raises:
        ModelError: A shape or the type of `rows` does not fit.
    """
    _check_memory("before", before)
    if after.shape != before.shape:
        raise ModelError(f"drift: expected two memories of one shape, got {tuple(before.shape)} and {tuple(after.shape)}.")
    precision = torch.promote_types(before.dtype, torch.float32)
    change = (after.to(precision) - before.to(precision)).square().mean(dim=(0, 2, 3))
    return change if rows is None else change[_check_rows(rows, before)]


def swap(stm: Tensor, permutation: Tensor) -> Tensor:
    """Hands each row the memory of another one.

    Args:
        stm: Memory `[layers, batch, slots, dim]`; it is not changed.
        permutation: int64 `[batch]`; row i of the result is row `permutation[i]` of `stm`. Every row is used exactly once.

    Returns:
        A new memory `[layers, batch, slots, dim]`.

    Raises:
        ModelError: `permutation` is not a permutation of the rows.
    """
    _check_memory("stm", stm)
    rows = torch.arange(stm.shape[1], device=permutation.device)
    if permutation.shape != rows.shape or permutation.dtype != torch.int64 or not torch.equal(permutation.sort().values, rows):
        raise ModelError(f"swap: expected an int64 permutation of the {stm.shape[1]} rows, got {permutation.tolist()}.")
    return stm.index_select(1, permutation)


def _check_memory(name: str, stm: Tensor) -> None:
    if stm.dim() != _AXES:
        raise ModelError(f"Expected {name} as a memory [layers, batch, slots, dim], got a tensor of shape {tuple(stm.shape)}.")


def _check_rows(rows: Tensor, stm: Tensor) -> Tensor:
    if rows.dtype != torch.bool or rows.shape != stm.shape[1:2]:
        raise ModelError(f"Expected `rows` as bool [batch] = [{stm.shape[1]}], got {rows.dtype} {list(rows.shape)}.")
    return rows
