"""The Reactive Transformer as a player, and its Short-Term Memory as the memory that an environment keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rxrl.errors import ModelError
from rxrl.models import Generation, ReactiveTransformer, Sampling, generate
from rxrl.types import TokenBatch


class StmBackend:
    """The Short-Term Memory of a Reactive Transformer as a `MemoryBackend`; keeps its identity in deep copies."""

    def __init__(self, model: ReactiveTransformer) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> StmBackend:
        return self

    def init(self, seeds: Sequence[int]) -> Tensor:
        """stm0 of each row, drawn from its own seed."""
        rows = [self.model.init_memory(1, torch.Generator().manual_seed(int(seed))) for seed in seeds]
        return torch.cat(rows, dim=1).detach()

    @torch.no_grad()
    def write(self, memory: Tensor, interactions: TokenBatch, rows: Tensor) -> Tensor:
        """Writes the interactions of the chosen rows; the others keep their memory and cost nothing."""
        chosen = rows.nonzero().squeeze(1).to(memory.device)
        if not len(chosen):
            return memory
        batch = interactions.to(memory.device)
        written = self.model.write_memory(memory[:, chosen], batch.ids[chosen], batch.mask[chosen])
        return memory.index_copy(1, chosen, written)

    def reset_rows(self, memory: Tensor, rows: Tensor, fresh: Tensor) -> Tensor:
        """Takes the chosen rows from `fresh`, of the same shape; anything else is a `ModelError`."""
        if not isinstance(fresh, Tensor) or fresh.shape != memory.shape:
            came = list(fresh.shape) if isinstance(fresh, Tensor) else type(fresh).__name__
            raise ModelError(f"Memory to start from is a tensor of the shape {list(memory.shape)}, got {came}.")
        return torch.where(rows.to(memory.device)[None, :, None, None], fresh.to(memory.device), memory)

    def select_rows(self, memory: Tensor, indices: Sequence[int]) -> Tensor:
        """Memory whose row i is row `indices[i]` of the given one."""
        return memory[:, torch.as_tensor(indices, device=memory.device)]


class ModelPolicy:
    """Plays the environment with a Reactive Transformer."""

    def __init__(
        self,
        model: ReactiveTransformer,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> None:
        self.model, self.max_new_tokens, self.sampling = model, max_new_tokens, Sampling(temperature, top_k, top_p)

    def act(self, observation: TokenBatch, memory: Tensor, generators: Sequence[torch.Generator] | None) -> Generation:
        """Samples an answer to each prompt, or takes the likeliest tokens where `generators` is None."""
        return generate(self.model, observation, memory, max_new_tokens=self.max_new_tokens, generators=generators, sampling=self.sampling)
