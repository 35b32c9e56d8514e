"""The baseline that re-reads, as a player: a causal decoder whose prompt is the transcript."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rxrl.errors import ConfigError
from rxrl.models import Generation, ModelConfig, ReactiveTransformer, Sampling, generate
from rxrl.types import TokenBatch


def rereads(config: ModelConfig) -> bool:
    """Whether a model has a decoder alone, so that it reads the conversation again in place of a memory."""
    return {"encoder", "memory_attention"} <= set(config.absent) and "decoder" not in config.absent


class RereadingPolicy:
    """Answers with a model that has a decoder alone; memory is a transcript of interactions, whole or a window.

    The oldest interactions are left out where the whole transcript does not fit the model's context.

    Args:
        model: The model.
        max_new_tokens: Longest answer, `[EOS]` included.
        temperature: Of sampled answers.
    """

    def __init__(self, model: ReactiveTransformer, max_new_tokens: int, temperature: float = 1.0) -> None:
        self.model, self.max_new_tokens, self.sampling = model, max_new_tokens, Sampling(temperature)

    def act(self, observation: TokenBatch, memory: Any, generators: Sequence[torch.Generator] | None) -> Generation:
        """Samples an answer to each prompt, or takes the likeliest tokens where `generators` is None.

        Raises:
            ConfigError: `memory` is neither None nor a transcript.
        """
        prompts = observation.rows()
        if memory is not None and not isinstance(getattr(memory, "rows", None), Sequence):
            raise ConfigError(f"A model that re-reads needs memory='transcript', 'transcript:N' or 'none', got a {type(memory).__name__}.")
        told = [()] * len(prompts) if memory is None else memory.rows
        rows = [self._prompt(said, prompt) for said, prompt in zip(told, prompts, strict=True)]
        stm = self.model.init_memory(len(rows))
        return generate(
            self.model, TokenBatch.pad(rows), stm, max_new_tokens=self.max_new_tokens, generators=generators, sampling=self.sampling
        )

    def _prompt(self, said: Sequence[Sequence[int]], prompt: Sequence[int]) -> list[int]:
        """The newest interactions that fit, then the prompt."""
        if not prompt:
            return []
        room = self.model.config.max_length - 1 - self.max_new_tokens - len(prompt)
        kept: list[Sequence[int]] = []
        for interaction in reversed(said):
            room -= len(interaction)
            if room < 0:
                break
            kept.append(interaction)
        return [*(token for interaction in reversed(kept) for token in interaction), *prompt]
