"""Models in which everything matters, on a device, and how far apart results are."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rxrl.models import ReactiveTransformer
from rxrl.types import TokenBatch
from tests.models.small import interactions

GPU = torch.device("cuda")
PRESETS = ("pico", "nano", "micro")
"""The encoder of micro reads memory, and its cross-attention has fewer key and value heads than query heads."""


def awake(preset: str, **changes: object) -> ReactiveTransformer:
    """A model on the CPU whose reads of memory, which start without effect, have some, and whose tokens differ."""
    model = ReactiveTransformer.from_preset(preset, **changes)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.decoder.layers:
            weight = layer.memory_cross_attention.out_proj.weight
            weight.copy_(0.1 * torch.randn(weight.shape, generator=draws))
        model.embedding.weight.copy_(torch.randn(model.embedding.weight.shape, generator=draws))
    return model.eval()


def placed(model: nn.Module, device: torch.device | str = GPU, dtype: torch.dtype | None = None) -> ReactiveTransformer:
    """A copy elsewhere, perhaps of another type."""
    return copy.deepcopy(model).to(device=device, dtype=dtype)


def batch_of(lengths: Sequence[int] = (24, 17, 9), empty: bool = True) -> TokenBatch:
    """Interactions of these lengths, and perhaps a row without tokens, as a conversation that has ended has it."""
    rows = interactions(list(lengths)).rows()
    return TokenBatch.pad([*rows, []] if empty else rows)


def memory_for(model: ReactiveTransformer, rows: int) -> Tensor:
    return model.init_memory(rows, torch.Generator().manual_seed(1)).detach()


def gap(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference as a share of that of what is expected; not a number where either is not."""
    one, other = (each.detach().to("cpu", torch.float64) for each in (found, expected))
    assert one.shape == other.shape
    return float((one - other).norm() / other.norm())


def flat(gradients: Sequence[Tensor]) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([each.detach().to("cpu", torch.float64).flatten() for each in gradients])
