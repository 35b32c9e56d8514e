"""Heads: masked language modelling for encoder pre-training, and the critic of the actor-critic trainers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rxrl.models.config import ModelConfig
from rxrl.models.transformer import Encoder


class MLMHead(nn.Module):
    """Linear dim -> dim, GELU, linear dim -> vocab; only for encoder pre-training."""

    def __init__(self, dim: int, vocab_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.decoder = nn.Linear(dim, vocab_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """`[..., dim]` to logits `[..., vocab]`."""
        logits: Tensor = self.decoder(F.gelu(self.dense(hidden)))
        return logits


class Critic(nn.Module):
    """Value of a turn from (saved data, query, turn, steps): encoder, mean pooling, gated head with learned scale and shift."""

    def __init__(self, config: ModelConfig, layers: int = 1, max_steps: int = 64) -> None:
        super().__init__()
        config = config.model_copy(update={"layers": min(layers, config.layers)})
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.encoder = Encoder(config)
        self.turn = nn.Embedding(max_steps + 1, config.dim)
        self.steps = nn.Embedding(max_steps + 1, config.dim)
        self.value = nn.Linear(config.dim, 2 * config.dim)
        self.out = nn.Linear(config.dim, 1)
        self.scale = nn.Parameter(torch.ones(()))
        self.shift = nn.Parameter(torch.zeros(()))
        for embedding in (self.turn, self.steps):
            nn.init.zeros_(embedding.weight)

    def forward(self, ids: Tensor, mask: Tensor, turn: Tensor, steps: Tensor) -> Tensor:
        """Values of a batch of turns, in units of the reward.

        Args:
            ids: Saved interactions followed by the query, int64 `[batch, time]`.
            mask: bool `[batch, time]`, true for real tokens.
            turn: Turn number from 1, int64 `[batch]`.
            steps: Turns of the episode, int64 `[batch]`.

        Returns:
            float `[batch]`.
        """
        limit = self.turn.num_embeddings - 1
        hidden = self.encoder(self.embedding(ids), mask)[-1]
        real = mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * real).sum(1) / real.sum(1).clamp(min=1)
        pooled = pooled + self.turn(turn.clamp(max=limit)) + self.steps(steps.clamp(max=limit))
        value, gate = self.value(F.rms_norm(pooled, pooled.shape[-1:])).chunk(2, dim=-1)
        out: Tensor = self.out(value * F.silu(gate))
        return out.squeeze(-1) * self.scale + self.shift

    @torch.no_grad()
    def load_encoder(self, embedding: nn.Embedding, encoder: Encoder) -> None:
        """Starts from an actor's embedding and the first layers of its encoder (copies)."""
        self.embedding.load_state_dict(embedding.state_dict())
        self.encoder.load_state_dict({name: value for name, value in encoder.state_dict().items() if name in self.encoder.state_dict()})
