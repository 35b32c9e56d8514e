"""Memory attention: writes encoded data into the Short-Term Memory through attention and learned gates.

The networks of all layers are independent of one another, given the memory from before the interaction. Their weights are
stored stacked along a leading layers axis and run as batched products, so that the write costs one set of kernels, not one per layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rxrl.models.config import AttentionConfig, ModelConfig
from rxrl.models.layers import NORM_EPS, attend, rope_angles, rotate, wide


class StackedRMSNorm(nn.Module):
    """One RMS norm a layer over `[layers, batch, time, dim]`."""

    def __init__(self, layers: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(layers, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises `x`, in float32 or wider."""
        return (F.rms_norm(x.to(wide(x.dtype)), x.shape[-1:], None, NORM_EPS) * self.weight[:, None, None, :]).to(x.dtype)


class StackedAttention(nn.Module):
    """One Sparse Query Attention a layer, rotary embedding on keys where asked."""

    def __init__(self, layers: int, dim: int, head_dim: int, config: AttentionConfig) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_proj = nn.Parameter(torch.empty(layers, dim, config.query_groups * head_dim))
        self.kv_proj = nn.Parameter(torch.empty(layers, dim, 2 * config.kv_groups * head_dim))
        self.out_proj = nn.Parameter(torch.empty(layers, config.query_groups * head_dim, dim))
        self.out_bias = nn.Parameter(torch.zeros(layers, dim))
        for weight in (self.q_proj, self.kv_proj, self.out_proj):
            nn.init.uniform_(weight, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)

    def forward(self, queries: Tensor, data: Tensor, data_mask: Tensor | None, rotate_keys: bool) -> Tensor:
        """Reads `data` for `queries`.

        Args:
            queries: `[layers, batch, slots, dim]`.
            data: `[layers or 1, batch, time, dim]`.
            data_mask: bool `[batch, time]`, true for real tokens, or None.
            rotate_keys: Rotary embedding on the keys.

        Returns:
            `[layers, batch, slots, dim]`.
        """
        layers, batch, slots, _ = queries.shape
        q = self._heads(queries, self.q_proj)
        k, v = self._heads(data, self.kv_proj).chunk(2, dim=2)
        if rotate_keys:
            k = rotate(k, rope_angles(torch.arange(k.shape[1], device=k.device), self.head_dim, k.dtype))
        mask = None if data_mask is None else data_mask.repeat(layers, 1)[:, None, None, :]
        out = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask).view(layers, batch * slots, -1)
        return torch.baddbmm(self.out_bias.unsqueeze(1), out, self.out_proj).view(layers, batch, slots, -1)

    def _heads(self, x: Tensor, projection: Tensor) -> Tensor:
        """`[layers or 1, batch, rows, dim]` to `[layers * batch, rows, groups, head_dim]`."""
        return torch.matmul(x.flatten(1, 2), projection).view(-1, x.shape[2], projection.shape[-1] // self.head_dim, self.head_dim)


class StackedLinearGate(nn.Module):
    """Linear sigmoid gate per slot: a slots x slots map over all slots' statuses, status = mean over dim of (old + new)."""

    def __init__(self, layers: int, slots: int, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layers, slots, slots))
        self.bias = nn.Parameter(bias.expand(layers, slots).clone())
        nn.init.uniform_(self.weight, -(slots**-0.5), slots**-0.5)

    def openness(self, old: Tensor, new: Tensor) -> Tensor:
        """Gate values in [0, 1], `[layers, batch, slots]`."""
        status = (old + new).mean(-1)
        return torch.baddbmm(self.bias.unsqueeze(1), status, self.weight.transpose(1, 2)).sigmoid()

    def forward(self, old: Tensor, new: Tensor) -> Tensor:
        """`g * new + (1 - g) * old`, `[layers, batch, slots, dim]`."""
        return torch.lerp(old, new, self.openness(old, new).unsqueeze(-1))


class MemoryAttention(nn.Module):
    """Interlayer memory attention.

    First each layer's memory reads the mean of all layers' memory from before the interaction, through a gate; then it reads the
    encoded data of its layer, through a second gate. Rotary embedding on the keys of the encoded data only.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        layers, dim, part = config.layers, config.dim, config.memory_attention
        self.mean_stm_norm = nn.Parameter(torch.ones(dim))
        self.mean_memory_norm = StackedRMSNorm(layers, dim)
        self.mean_attention = StackedAttention(layers, dim, config.head_dim, part.mean_attention)
        self.memory_norm = StackedRMSNorm(layers, dim)
        self.input_norm = StackedRMSNorm(layers, dim)
        self.attention = StackedAttention(layers, dim, config.head_dim, part.attention)
        # Slots start with openings spread from slow to fast, so that some keep what is old; the mean is let in little at first.
        self.mean_gate = StackedLinearGate(layers, config.slots, torch.full((config.slots,), -3.0))
        self.gate = StackedLinearGate(layers, config.slots, torch.linspace(-3.0, 0.0, config.slots))

    def forward(self, stm: Tensor, encoded: Tensor, mask: Tensor | None) -> Tensor:
        """Memory after one interaction.

        Args:
            stm: `[layers, batch, slots, dim]`.
            encoded: Hidden states of every encoder layer, `[layers, batch, time, dim]`.
            mask: bool `[batch, time]`, true for real tokens.

        Returns:
            `[layers, batch, slots, dim]`.
        """
        mean = F.rms_norm(stm.mean(0, keepdim=True), stm.shape[-1:], self.mean_stm_norm, NORM_EPS)
        mixed = self.mean_gate(stm, self.mean_attention(self.mean_memory_norm(stm), mean, None, rotate_keys=False))
        update = self.attention(self.memory_norm(mixed), self.input_norm(encoded), mask, rotate_keys=True)
        written: Tensor = self.gate(mixed, update)
        return written
