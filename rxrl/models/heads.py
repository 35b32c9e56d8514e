"""Heads: masked language modelling for encoder pre-training, and the critic of the actor-critic trainers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rxrl.errors import ModelError
from rxrl.models.config import ModelConfig
from rxrl.models.layers import use_attention_backend
from rxrl.models.transformer import Encoder


class MLMHead(nn.Module):
    """Linear dim -> dim, GELU, a layer norm where asked, linear dim -> vocab; only for encoder pre-training."""

    def __init__(self, dim: int, vocab_size: int, norm: bool = False) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.layer_norm = nn.LayerNorm(dim) if norm else None
        self.decoder = nn.Linear(dim, vocab_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """`[..., dim]` to logits `[..., vocab]`."""
        hidden = F.gelu(self.dense(hidden))
        logits: Tensor = self.decoder(hidden if self.layer_norm is None else self.layer_norm(hidden))
        return logits


class ValueHead(nn.Module):
    """Value of a turn from hidden states of what it is judged by: mean pooling, a gated head with learned scale and shift."""

    def _make_head(self, dim: int, max_steps: int) -> None:
        self.turn = nn.Embedding(max_steps + 1, dim)
        self.steps = nn.Embedding(max_steps + 1, dim)
        self.value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, 1)
        self.scale = nn.Parameter(torch.ones(()))
        self.shift = nn.Parameter(torch.zeros(()))
        for embedding in (self.turn, self.steps):
            nn.init.zeros_(embedding.weight)

    def _value(self, hidden: Tensor, mask: Tensor, turn: Tensor, steps: Tensor) -> Tensor:
        limit = self.turn.num_embeddings - 1
        real = mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * real).sum(1) / real.sum(1).clamp(min=1)
        pooled = pooled + self.turn(turn.clamp(max=limit)) + self.steps(steps.clamp(max=limit))
        value, gate = self.value(F.rms_norm(pooled, pooled.shape[-1:])).chunk(2, dim=-1)
        out: Tensor = self.out(value * F.silu(gate))
        # Under autocast `out` is narrow, and far from 0 its steps would be larger than what advantages are made of.
        return out.squeeze(-1).to(self.scale.dtype) * self.scale + self.shift


class SharedCritic(ValueHead):
    """Value of a turn from what the policy's own encoder makes of (saved data, query): the head alone, for a shared trunk."""

    def __init__(self, config: ModelConfig, max_steps: int = 64) -> None:
        super().__init__()
        self._make_head(config.dim, max_steps)

    def forward(self, hidden: Tensor, mask: Tensor, turn: Tensor, steps: Tensor) -> Tensor:
        """Values of a batch of turns, in units of the reward.

        Args:
            hidden: Last hidden states of the encoder, `[batch, time, dim]`.
            mask: bool `[batch, time]`, true for real tokens.
            turn: Turn number from 1, int64 `[batch]`.
            steps: Turns of the episode, int64 `[batch]`.

        Returns:
            float `[batch]`.
        """
        return self._value(hidden, mask, turn, steps)


class Critic(ValueHead):
    """Value of a turn from (saved data, query, turn, steps), with an encoder of its own.

    Args:
        config: Sizes of the actor.
        layers: Encoder layers; as many of the actor's as it has at most.
        max_steps: Turns from here on count as this many.
        memory: The encoder reads memory in cross-attention, which starts without effect.
    """

    def __init__(self, config: ModelConfig, layers: int = 1, max_steps: int = 64, *, memory: bool = False) -> None:
        super().__init__()
        reads = (config.encoder.cross_attention or config.decoder.cross_attention) if memory else None
        encoder = config.encoder.model_copy(update={"cross_attention": reads})
        config = config.model_copy(update={"layers": min(layers, config.memory_layers if memory else config.layers), "encoder": encoder})
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.encoder = Encoder(config)
        for layer in self.encoder.layers:
            if layer.memory_cross_attention is not None:
                nn.init.zeros_(layer.memory_cross_attention.out_proj.weight)
                nn.init.zeros_(layer.memory_cross_attention.out_proj.bias)
        self._make_head(config.dim, max_steps)
        use_attention_backend(self, config.attention_backend)

    @property
    def reads_memory(self) -> bool:
        """Whether values depend on memory, which must then be given."""
        return self.encoder.reads_memory

    def forward(self, ids: Tensor, mask: Tensor, turn: Tensor, steps: Tensor, stm: Tensor | None = None) -> Tensor:
        """Values of a batch of turns, in units of the reward.

        Args:
            ids: Saved interactions followed by the query, or for a critic that reads memory the query alone, int64 `[batch, time]`.
            mask: bool `[batch, time]`, true for real tokens.
            turn: Turn number from 1, int64 `[batch]`.
            steps: Turns of the episode, int64 `[batch]`.
            stm: Memory that the turn reads, `[layers, batch, slots, dim]` with the actor's layers, of which the critic reads those
                that it has; only and always for a critic that reads memory.

        Returns:
            float `[batch]`.

        Raises:
            ModelError: Memory is given to a critic that reads none, or missing.
        """
        if self.reads_memory != (stm is not None):
            raise ModelError(f"This critic reads {'memory: give stm' if self.reads_memory else 'no memory: leave out stm'}.")
        hidden = self.encoder(self.embedding(ids), mask, None if stm is None else stm[: len(self.encoder.layers)])[-1]
        return self._value(hidden, mask, turn, steps)

    @torch.no_grad()
    def load_encoder(self, embedding: nn.Embedding, encoder: Encoder | None) -> None:
        """Starts from an actor's embedding and the first layers of its encoder (copies); what the actor lacks stays as it is."""
        self.embedding.load_state_dict(embedding.state_dict())
        if encoder is None:
            return
        own = self.encoder.state_dict()
        self.encoder.load_state_dict(own | {name: value for name, value in encoder.state_dict().items() if name in own})
