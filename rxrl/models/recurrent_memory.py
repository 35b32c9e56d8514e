"""Recurrent memory: a GRU in place of memory attention, to compare with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rxrl.models.config import ModelConfig
from rxrl.models.memory_attention import StackedAttention, StackedRMSNorm, Told


class GatedRecurrentUnit(nn.Module):
    """One GRU cell a layer, shared by its slots: a slot is the state, and what it has read is the input (Cho et al. 2014).

    Units start with openings spread from slow to fast, as the slots of memory attention do.
    """

    def __init__(self, layers: int, dim: int) -> None:
        super().__init__()
        self.input_weight = nn.Parameter(torch.empty(layers, dim, 3 * dim))
        self.state_weight = nn.Parameter(torch.empty(layers, dim, 3 * dim))
        start = torch.cat([torch.linspace(-3.0, 0.0, dim), torch.zeros(2 * dim)])
        self.input_bias = nn.Parameter(start.expand(layers, 3 * dim).clone())
        self.state_bias = nn.Parameter(torch.zeros(layers, 3 * dim))
        for weight in (self.input_weight, self.state_weight):
            nn.init.uniform_(weight, -(dim**-0.5), dim**-0.5)

    def forward(self, old: Tensor, new: Tensor) -> Tensor:
        """State after the input: `[layers, batch, slots, dim]` both and in return."""
        return torch.lerp(old, *self._candidate_and_share(old, new))

    def openness(self, old: Tensor, new: Tensor) -> Tensor:
        """Share of the candidate in what is mixed, mean over units, in [0, 1], `[layers, batch, slots]`."""
        return self._candidate_and_share(old, new)[1].mean(-1)

    def observed(self, old: Tensor, new: Tensor) -> Tensor:
        """As `openness`, for whoever watches the gate."""
        return self.openness(old, new)

    def _candidate_and_share(self, old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        # Memory keeps its type under autocast, where products come back in a narrower one.
        of_new = _mapped(new, self.input_weight, self.input_bias).to(old.dtype)
        of_old = _mapped(old, self.state_weight, self.state_bias).to(old.dtype)
        update, reset, candidate = of_new.chunk(3, dim=-1)
        old_update, old_reset, old_candidate = of_old.chunk(3, dim=-1)
        return (candidate + (reset + old_reset).sigmoid() * old_candidate).tanh(), (update + old_update).sigmoid()


def _mapped(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear map of each layer: `[layers, batch, slots, dim]` to `[layers, batch, slots, out]`."""
    return torch.bmm(x.flatten(1, 2).to(weight.dtype), weight).add_(bias.unsqueeze(1)).view(*x.shape[:3], -1)


class RecurrentMemory(nn.Module):
    """Writes an interaction into memory as a recurrent network does.

    Each slot reads the encoded data with a learned query, whatever it holds, and a GRU updates it. Slots do not see one another. It takes
    the place of `MemoryAttention`, with memory of the same shape.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        layers, dim = config.layers, config.dim
        self.queries = nn.Parameter(torch.empty(layers, config.slots, dim))
        nn.init.normal_(self.queries)
        self.input_norm = StackedRMSNorm(layers, dim)
        self.attention = StackedAttention(layers, dim, config.head_dim, config.memory_attention.attention)
        self.gate = GatedRecurrentUnit(layers, dim)

    def told(self, encoded: Tensor, mask: Tensor | None) -> Told:
        """What each slot reads of interactions, whatever it holds; arguments as in `MemoryAttention.told`."""
        queries = self.queries.unsqueeze(1).expand(-1, encoded.shape[1], -1, -1)
        return Told((self.attention(queries, self.attention.keys(encoded, mask, rotate_keys=True, norm=self.input_norm)),), mask)

    def forward(self, stm: Tensor, told: Told) -> Tensor:
        """Memory after one interaction: `stm` `[layers, batch, slots, dim]` in and out."""
        written: Tensor = self.gate(stm, *told.tensors)
        return written
