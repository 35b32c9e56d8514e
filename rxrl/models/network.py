"""The network of a Reactive Transformer: one shared embedding, encoder, memory attention and decoder around a memory that is a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

from rxrl.errors import ModelError
from rxrl.models.config import AttentionBackend, ModelConfig
from rxrl.models.cuda_graph import GraphMemory
from rxrl.models.experts import RouterStatistics
from rxrl.models.groups import grouped_parameters, in_group
from rxrl.models.heads import MLMHead
from rxrl.models.layers import CrossAttention, use_attention_backend
from rxrl.models.memory_attention import MemoryAttention
from rxrl.models.memory_tokens import MemoryTokenDecoder, TokenMemory
from rxrl.models.missing import MissingPart
from rxrl.models.recurrent_memory import RecurrentMemory
from rxrl.models.transformer import Decoder, Encoder

T = TypeVar("T")


class ReactiveNetwork(nn.Module):
    """Reads one interaction at a time and keeps the conversation in a Short-Term Memory `[layers, batch, slots, dim]`.

    Memory goes in and comes out of pure calls; it is never part of the module. `ReactiveTransformer` is this network with methods for
    presets, files, the Hub and generation.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.graphs = config, GraphMemory()
        self.embedding = in_group("embedding", nn.Embedding(config.vocab_size, config.dim))
        self.encoder = in_group("encoder", Encoder(config))
        self.memory_attention = in_group("memory_attention", _memory_writer(config))
        self.decoder = in_group("decoder", MemoryTokenDecoder(config) if config.has_memory_tokens else Decoder(config))
        # Memory never uses it.
        self.mlm_head = in_group("encoder", MLMHead(config.dim, config.vocab_size, config.encoder.mlm_norm))
        self.initial_memory: nn.Parameter | None = None
        if config.initial_memory == "learned":
            self.initial_memory = nn.Parameter(torch.empty(config.memory_layers, config.slots, config.dim))
        in_group("memory_attention", self)
        self._initialise()
        for part in config.absent:
            setattr(self, part, MissingPart(part))
        use_attention_backend(self, config.attention_backend)

    def _initialise(self) -> None:
        """Small embeddings; reads of memory start at zero, so that an untrained memory cannot disturb language modelling."""
        nn.init.normal_(self.embedding.weight, std=0.02)
        if self.initial_memory is not None:
            nn.init.normal_(self.initial_memory, std=0.02)
        for module in self.modules():
            if isinstance(module, CrossAttention):
                nn.init.zeros_(module.out_proj.weight)
                nn.init.zeros_(module.out_proj.bias)

    def forward(self, task: Callable[[Self], T]) -> T:
        """Runs `task(self)`: the single entry for training, so that hooks of a distributed wrapper always run."""
        return task(self)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.parameters()).dtype

    def use_attention(self, backend: AttentionBackend) -> None:
        """Chooses what computes attention from now on; no part of a checkpoint.

        Raises:
            ModelError: flash-attn is asked for and not installed.
        """
        use_attention_backend(self, backend)
        self.config = self.config.model_copy(update={"attention_backend": backend})

    def init_memory(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Fresh memory stm0.

        Args:
            batch_size: Rows.
            generator: CPU generator of the noise; None draws from torch's global one.

        Returns:
            `[layers, batch, slots, dim]`.
        """
        c = self.config
        shape = (c.memory_layers, batch_size, c.slots, c.dim)
        if self.initial_memory is not None:
            return self.initial_memory.unsqueeze(1).expand(shape)
        if c.initial_memory == "zeros":
            stm = torch.zeros(shape)
        elif c.initial_memory == "ones":
            stm = torch.ones(shape)
        elif c.initial_memory == "uniform":
            stm = torch.rand(shape, generator=generator) * 2 - 1
        else:
            stm = torch.randn(shape, generator=generator) * (1.0 if c.initial_memory == "normal" else 0.01)
        return stm.to(self.device, self.dtype)

    def encode(self, ids: Tensor, mask: Tensor, stm: Tensor | None = None) -> Tensor:
        """Encoded data of an interaction.

        Args:
            ids: int64 `[batch, time]`.
            mask: bool `[batch, time]`, true for real tokens; or `[batch, time, time]`, true where one token may read another, for rows of
                several texts.
            stm: Memory, for encoders that read it.

        Returns:
            `[layers, batch, time, dim]`.
        """
        self._check(ids, mask)
        if stm is not None:
            self._check_rows(stm, ids)
        encoded: Tensor = self.encoder(self.embedding(ids), mask, stm)
        return encoded

    @property
    def writes_read_memory(self) -> bool:
        """Whether what is written depends on memory before memory attention, so that interactions are encoded one after the other."""
        return isinstance(self.decoder, MemoryTokenDecoder) or self.encoder.reads_memory

    def write_memory(self, stm: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Memory after an interaction: encoder, then memory attention; shapes as in `encode`, `stm` in and out."""
        if isinstance(self.decoder, MemoryTokenDecoder):
            self._check(ids, mask)
            self._check_rows(stm, ids)
            return self.update_memory(stm, self.decoder.write(self.embedding(ids), mask, stm), mask)
        return self.update_memory(stm, self.encode(ids, mask, stm if self.encoder.reads_memory else None), mask)

    def update_memory(self, stm: Tensor, encoded: Tensor, mask: Tensor) -> Tensor:
        """Memory after an interaction that is already encoded; `stm` `[layers, batch, slots, dim]` in and out."""
        if stm.shape[1] != encoded.shape[1]:
            raise ModelError(f"Memory has {stm.shape[1]} rows, the interactions have {encoded.shape[1]}: both need the same batch.")
        written: Tensor = self.memory_attention(stm, self.memory_attention.told(encoded, mask))
        return written

    def decode(
        self,
        ids: Tensor,
        mask: Tensor,
        stm: Tensor,
        stm_mask: Tensor | None = None,
        statistics: RouterStatistics | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Logits of the next token; reads memory, never writes it.

        Args:
            ids: int64 `[batch, time]`, right-padded.
            mask: bool `[batch, time]`, true for real tokens; or `[batch, time, time]`, as for `encode`.
            stm: `[layers, batch, slots, dim]`.
            stm_mask: bool `[batch, slots]`, true for real slots, where encoded data (padded) serves as memory; or `[batch, time, slots]`,
                true where a token may read a slot.
            statistics: Collects router counts.
            positions: int64 `[batch, time]`, place of each token in its text; None: its place in the row.

        Returns:
            `[batch, time, vocab]`; values at padded positions mean nothing.
        """
        logits: Tensor = self.decoder.head(self.decode_hidden(ids, mask, stm, stm_mask, statistics, positions))
        return logits

    def decode_hidden(
        self,
        ids: Tensor,
        mask: Tensor,
        stm: Tensor,
        stm_mask: Tensor | None = None,
        statistics: RouterStatistics | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """As `decode`, before the output head: `[batch, time, dim]`."""
        self._check(ids, mask)
        self._check_rows(stm, ids)
        memory, reads = self.decoder.project_memory(stm), mask if mask.ndim == 3 else None
        return self.decoder.hidden(self.embedding(ids), memory, stm_mask, statistics, reads, positions)

    def group_parameters(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Named parameters by group of `PARAMETER_GROUPS`, as the modules declare them."""
        return grouped_parameters(self)

    @staticmethod
    def _check_rows(stm: Tensor, ids: Tensor) -> None:
        if stm.shape[1] != ids.shape[0]:
            raise ModelError(f"Memory has {stm.shape[1]} rows, the tokens have {ids.shape[0]}: both need the same batch.")

    def _check(self, ids: Tensor, mask: Tensor) -> None:
        shapes = (ids.shape, (*ids.shape, ids.shape[-1]))
        if ids.dtype != torch.int64 or mask.shape not in shapes or mask.dtype != torch.bool:
            raise ModelError(
                f"Tokens must be int64 [batch, time] with a bool mask of the same shape or [batch, time, time], "
                f"got {ids.dtype} {list(ids.shape)} and {mask.dtype} {list(mask.shape)}."
            )
        if ids.shape[1] > self.config.max_length:
            raise ModelError(
                f"An interaction may have {self.config.max_length} tokens at most, got {ids.shape[1]}: "
                "shorten it, or use a model with a larger max_length."
            )


def _memory_writer(config: ModelConfig) -> MemoryAttention | RecurrentMemory | TokenMemory:
    if config.has_memory_tokens:
        return TokenMemory()
    return RecurrentMemory(config) if config.memory_attention.variant == "recurrent" else MemoryAttention(config)
