"""Mixture-of-Experts feed-forward, and what its router did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rxrl.models.layers import SwiGLU, swiglu, wide

_FEW = 8
"""Choices for each expert, on average, up to which a batch is small."""
FEW_ON_GPU = 1024
"""Tokens up to which a GPU computes every expert for every token: it would wait longer for what decides which are needed."""


@dataclass(frozen=True, slots=True)
class ExpertLoad:
    """How the router uses the experts, padding excluded.

    Attributes:
        fraction: Share of routed tokens that each expert gets, `[layers, experts]`; sums to 1.
        probability: Mean router probability of each expert, `[layers, experts]`; sums to 1.
        entropy: Mean entropy of a token's router probabilities in nats, `[layers]`; log(experts) where it does not decide.
    """

    fraction: Tensor
    probability: Tensor
    entropy: Tensor


class RouterStatistics:
    """Collects what the load-balancing loss needs, over all layers of one forward pass, padding excluded."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self.loads: list[Tensor] = []
        self.probabilities: list[Tensor] = []
        self.entropies: list[Tensor] = []

    def keep_rows(self, rows: Tensor) -> None:
        """Looks at some rows of the mask alone, by index, before a pass that leaves out the others."""
        self.mask = self.mask.flatten(0, -2)[rows]

    def add(self, probabilities: Tensor, chosen: Tensor) -> None:
        """Adds one layer: router probabilities `[tokens, experts]` and chosen experts `[tokens, k]`."""
        real = self.mask.reshape(-1).to(probabilities.dtype)
        weights = real.unsqueeze(1).expand_as(chosen).reshape(-1)
        self.loads.append(torch.zeros_like(probabilities[0]).scatter_add(0, chosen.reshape(-1), weights))
        self.probabilities.append((probabilities * real.unsqueeze(1)).sum(0))
        self.entropies.append((torch.special.entr(probabilities.detach()).sum(1) * real).sum())

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens routed `[layers, experts]`, summed probabilities `[layers, experts]` and the number of real tokens."""
        return torch.stack(self.loads), torch.stack(self.probabilities), self.mask.sum()

    def load(self) -> ExpertLoad:
        """How the experts were used."""
        loads, probabilities, tokens = self.sums()
        tokens = tokens.clamp(min=1)
        fraction = loads / loads.sum(1, keepdim=True).clamp(min=1)
        return ExpertLoad(fraction, probabilities.detach() / tokens, torch.stack(self.entropies) / tokens)


def load_balance_loss(loads: Tensor, probabilities: Tensor, tokens: Tensor) -> Tensor:
    """Experts * sum over experts of (share of routed tokens) * (mean router probability), mean over layers; 1 when balanced.

    Args:
        loads: Tokens routed to each expert, `[layers, experts]` (no gradient).
        probabilities: Summed router probabilities, `[layers, experts]`.
        tokens: Number of real tokens.

    Source: Switch Transformer (Fedus et al. 2021), equation 4, for top-k routing.
    """
    share = loads / loads.sum(1, keepdim=True).clamp(min=1)
    return (share.detach() * probabilities / tokens.clamp(min=1)).sum(1).mean() * loads.shape[1]


class MixtureOfExperts(nn.Module):
    """Top-k routed SwiGLU experts; the weights of the chosen k are renormalised.

    Only chosen experts cost, and nothing loops over experts or tokens. Choices are sorted by expert and go through grouped matrix
    products, whose cost does not depend on how evenly the experts are used; where torch or the sizes do not allow those, each expert's
    tokens are padded to those of the fullest one. With 4,096 tokens whose router prefers one expert, padding takes seven times as long,
    forward and backward (measured at nano size on one CPU core). On a GPU few tokens visit every expert, which waits for nothing.
    A compiled graph, whose shapes cannot depend on routing, computes every expert for every token instead.

    Args:
        dim: Size of a token.
        hidden: Hidden size of an expert.
        experts: Routed experts.
        active: Routed experts that a token passes.
        shared: Experts that every token passes besides.
        global_bias: One output bias for all routed experts instead of biases of their own.
    """

    def __init__(self, dim: int, hidden: int, experts: int, active: int, shared: int = 0, global_bias: bool = False) -> None:
        super().__init__()
        self.experts, self.active = experts, active
        self.router = nn.Linear(dim, experts, bias=False)
        self.w1 = nn.Parameter(torch.empty(experts, dim, 2 * hidden))
        self.b1: nn.Parameter | None = None
        self.b2: nn.Parameter | None = None
        if not global_bias:
            self.b1 = nn.Parameter(torch.empty(experts, 2 * hidden))
        self.w2 = nn.Parameter(torch.empty(experts, hidden, dim))
        if not global_bias:
            self.b2 = nn.Parameter(torch.empty(experts, dim))
        for weight, bias, fan_in in ((self.w1, self.b1, dim), (self.w2, self.b2, hidden)):
            nn.init.uniform_(weight, -(fan_in**-0.5), fan_in**-0.5)
            if bias is not None:
                nn.init.uniform_(bias, -(fan_in**-0.5), fan_in**-0.5)
        self.global_bias = nn.Parameter(torch.zeros(dim)) if global_bias else None
        # The sum of several SwiGLUs is one that is as much wider.
        self.shared = SwiGLU(dim, shared * hidden) if shared else None

    @property
    def inactive_parameters(self) -> int:
        """Parameters that one token does not use."""
        stacks = [each for each in (self.w1, self.b1, self.w2, self.b2) if each is not None]
        return sum(each[0].numel() for each in stacks) * (self.experts - self.active)

    def forward(self, x: Tensor, statistics: RouterStatistics | None = None) -> Tensor:
        """`[batch, time, dim]` to the same; `statistics` collects router counts."""
        tokens = x.reshape(-1, x.shape[-1])
        scores = self.router(tokens).to(wide(x.dtype))
        best, chosen = scores.topk(self.active, dim=-1)
        if statistics is not None:
            statistics.add(scores.softmax(-1), chosen)
        # The softmax of the k best is that of all, renormalised over them.
        out = self._route(tokens)(tokens, best.softmax(-1).to(x.dtype), chosen)
        if self.global_bias is not None:
            out = out + self.global_bias
        if self.shared is not None:
            out = out + self.shared(tokens)
        return out.view_as(x)

    def _route(self, tokens: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The way that is fastest here."""
        if torch.compiler.is_compiling():
            return self._grouped if self._can_group(tokens) else self._dense
        on_cpu = tokens.device.type == "cpu"
        if not on_cpu and len(tokens) <= FEW_ON_GPU:
            return self._dense
        choices = len(tokens) * self.active
        # On CPUs reading the weights decides for so few: padding costs nothing then, and one product for all starts fewer kernels.
        if not self._can_group(tokens) or (on_cpu and self.experts < choices <= _FEW * self.experts):
            return self._padded
        return self._grouped

    def _can_group(self, tokens: Tensor) -> bool:
        """Grouped products want torch 2.10, no float64, rows of whole 16 bytes, and bfloat16 on GPUs or to be compiled."""
        dtype, on_cpu = self._computed_in(tokens), tokens.device.type == "cpu"
        if on_cpu and torch.is_autocast_enabled("cpu"):
            return False
        rows = [size * dtype.itemsize for size in (self.w1.shape[1], self.w2.shape[1])]
        known = dtype == torch.bfloat16 or (dtype != torch.float64 and on_cpu and not torch.compiler.is_compiling())
        return hasattr(F, "grouped_mm") and known and all(row % 16 == 0 for row in rows)

    def _computed_in(self, tokens: Tensor) -> torch.dtype:
        """Type of the products: that of autocast, which does not know grouped ones, else that of the weights."""
        kind = tokens.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.w1.dtype

    def _grouped(self, tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Weighted outputs `[tokens, dim]` of the `chosen` experts `[tokens, k]`, as products of rows that are sorted by expert."""
        dtype = self._computed_in(tokens)
        tokens, weights, w1, w2 = (each.to(dtype) for each in (tokens, weights, self.w1, self.w2))
        b1, b2 = (None if each is None else each.to(dtype) for each in (self.b1, self.b2))
        expert, order = chosen.flatten().sort(stable=True)
        ends = torch.searchsorted(expert, torch.arange(self.experts, device=expert.device), right=True, out_int32=True)
        place = torch.empty_like(order).index_copy(0, order, torch.arange(len(order), device=order.device)).view_as(chosen)
        if b1 is None:
            hidden = F.grouped_mm(_dispatch(tokens, order, place), w1, offs=ends)
        elif len(order) <= self.experts * tokens.shape[1] // _FEW:
            hidden = F.grouped_mm(_dispatch(tokens, order, place), w1, offs=ends) + b1.index_select(0, expert)
        else:
            # One row more of weights and a 1 behind each token: cheaper than a bias for each choice; in narrow types the gradient of the
            # biases is summed as exactly as that of the weights.
            spare = 16 // tokens.element_size() - 1
            w1 = torch.cat([w1, b1.unsqueeze(1), w1.new_zeros(self.experts, spare, w1.shape[2])], dim=1)
            longer = torch.cat([tokens, tokens.new_ones(len(tokens), 1), tokens.new_zeros(len(tokens), spare)], dim=1)
            hidden = F.grouped_mm(_dispatch(longer, order, place), w1, offs=ends)
        out = _combine(F.grouped_mm(swiglu(hidden), w2, offs=ends), weights, order, place)
        return out if b2 is None else torch.addmm(out, self._shares(weights, chosen), b2)

    def _shares(self, weights: Tensor, chosen: Tensor) -> Tensor:
        """Weight of each expert, `[tokens, experts]`, 0 where it is not chosen."""
        return torch.zeros(len(chosen), self.experts, dtype=weights.dtype, device=weights.device).scatter(1, chosen, weights)

    def _padded(self, tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """The same as batched products; gathers in both directions, because their gradients are cheaper than those of scatters."""
        expert = chosen.flatten()
        queues = (expert.unsqueeze(1) == torch.arange(self.experts, device=expert.device)).cumsum(0)
        longest = int(queues[-1].max())
        # Where each choice stands in its expert's queue; places that stay empty read some token and are read by nobody.
        place = queues.gather(1, expert.unsqueeze(1)).squeeze(1).add_(expert, alpha=longest).sub_(1)
        source = torch.arange(len(expert), device=expert.device) // self.active
        queued = (torch.arange(self.experts * longest, device=expert.device) % len(tokens)).index_copy(0, place, source)
        inputs = tokens.index_select(0, queued).view(self.experts, longest, -1)
        outputs = _batched(swiglu(_batched(inputs, self.w1, self.b1)), self.w2, self.b2).flatten(0, 1)
        return torch.bmm(weights.unsqueeze(1), outputs.index_select(0, place).view(*chosen.shape, -1)).squeeze(1)

    def _dense(self, tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """The same as products of all tokens with all experts, of which the unchosen get weight 0."""
        shares = self._shares(weights, chosen)
        hidden = swiglu(_batched(tokens.expand(self.experts, -1, -1), self.w1, self.b1))
        return torch.einsum("end,ne->nd", _batched(hidden, self.w2, self.b2), shares)


class _Dispatch(torch.autograd.Function):
    """Rows for the choices in the order of their experts; the gradient of a token is a sum over its own rows, not a scattered one."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, order: Tensor, place: Tensor) -> Tensor:
        """`[tokens, dim]` to `[tokens * k, dim]`."""
        ctx.save_for_backward(place)
        return tokens.index_select(0, order // place.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Of the tokens."""
        (place,) = ctx.saved_tensors
        return F.embedding_bag(place, gradient, mode="sum"), None, None


class _Combine(torch.autograd.Function):
    """Weighted sum of the rows of each token, back in the order of tokens."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, weights: Tensor, order: Tensor, place: Tensor) -> Tensor:
        """`[tokens * k, dim]` and `[tokens, k]` to `[tokens, dim]`."""
        ctx.save_for_backward(outputs, weights, order, place)
        return F.embedding_bag(place, outputs, mode="sum", per_sample_weights=weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Of outputs and weights."""
        outputs, weights, order, place = ctx.saved_tensors
        rows = gradient.index_select(0, order // place.shape[1])
        to_weights = (rows * outputs).sum(1).index_select(0, place.flatten()).view_as(weights)
        return rows.mul_(weights.flatten().index_select(0, order).unsqueeze(1)), to_weights, None, None


def _dispatch(tokens: Tensor, order: Tensor, place: Tensor) -> Tensor:
    """Rows `[tokens * k, dim]` of the choices, sorted by expert; `order` `[tokens * k]` sorts them, `place` `[tokens, k]` finds them."""
    rows: Tensor = _Dispatch.apply(tokens, order, place)  # type: ignore[no-untyped-call]
    return rows


def _combine(outputs: Tensor, weights: Tensor, order: Tensor, place: Tensor) -> Tensor:
    """Weighted sum of the rows `[tokens * k, dim]` of each token, `[tokens, dim]`; `order` and `place` as above."""
    out: Tensor = _Combine.apply(outputs, weights, order, place)  # type: ignore[no-untyped-call]
    return out


def _batched(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.bmm(inputs, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), inputs, weight)
