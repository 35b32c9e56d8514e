"""The Reactive Transformer as users meet it: the network, with methods for presets, files, the Hub and generation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from rxrl.models.checkpoint import SavedTokenizer, load_model, save_model
from rxrl.models.config import ModelConfig
from rxrl.models.generation.batch import Generation, generate
from rxrl.models.generation.sampling import Sampling
from rxrl.models.interop.hub import local_folder, push_to_hub
from rxrl.models.network import ReactiveNetwork
from rxrl.models.presets import preset
from rxrl.types import TokenBatch


class ReactiveTransformer(ReactiveNetwork):
    """Reads one interaction at a time and keeps the conversation in a Short-Term Memory `[layers, batch, slots, dim]`.

    Memory goes in and comes out of pure calls; it is never part of the module.
    """

    @classmethod
    def from_preset(cls, name: str, seed: int = 0, **changes: Any) -> Self:
        """A model of a named size with random weights.

        Args:
            name: One of `rxrl presets`.
            seed: Seed of the weights.
            changes: Fields of `ModelConfig` that differ, for example `vocab_size`.
        """
        return cls.from_config(preset(name, **changes), seed)

    @classmethod
    def from_config(cls, config: ModelConfig, seed: int = 0) -> Self:
        """A model with random weights that depend on `seed` alone; the global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config)

    def generate(
        self,
        prompts: TokenBatch,
        stm: Tensor,
        *,
        max_new_tokens: int,
        generators: Sequence[torch.Generator] | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Generation:
        """Answers of a batch of prompts, as `rxrl.models.generate` gives them; the last three options as in `Sampling`."""
        return generate(
            self, prompts, stm, max_new_tokens=max_new_tokens, generators=generators, sampling=Sampling(temperature, top_k, top_p)
        )

    def save_pretrained(self, path: str | Path, *, tokenizer: SavedTokenizer | None = None, card: str | None = None) -> None:
        """Writes the model into a directory, as `rxrl.models.checkpoint.save_model` does."""
        save_model(self, Path(path), tokenizer, card)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """Reads what `save_pretrained` wrote, from a directory or a Hub id `owner/name`.

        Raises:
            CheckpointError: A file is missing, broken or does not fit.
        """
        return load_model(cls, local_folder(path))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the model with a model card; options as in `rxrl.models.interop.hub.push_to_hub`, returns the address."""
        return push_to_hub(self, repo_id, **options)
