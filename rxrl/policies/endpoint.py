"""A chat endpoint as a player: it is stateless, so the whole transcript is sent again each turn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rxrl.endpoint import ChatEndpoint, Reply
from rxrl.errors import EndpointError
from rxrl.policies.text import Dialogue, TextPolicy, check_options
from rxrl.types import TextCodec

SEED_RANGE = 2**31
"""Endpoints take seeds below it."""


class EndpointPolicy(TextPolicy):
    """Answers through an OpenAI-compatible chat endpoint.

    Sampled answers send the seed of the row's generator along; whether it is heeded is up to the endpoint.

    Args:
        endpoint: Where to ask.
        codec: That of the environment.
        system: A system prompt, sent first.
        max_tokens: Longest answer, in tokens of the endpoint's model, at least 1.
        temperature: Of sampled answers, above 0; greedy ones have 0.
    """

    def __init__(
        self, endpoint: ChatEndpoint, codec: TextCodec, *, system: str | None = None, max_tokens: int = 128, temperature: float = 1.0
    ) -> None:
        super().__init__(codec)
        check_options(temperature, max_tokens)
        self.endpoint, self.system, self.max_tokens, self.temperature = endpoint, system, max_tokens, temperature

    def answer(self, dialogues: Sequence[Dialogue], generators: Sequence[torch.Generator] | None) -> list[str]:
        """Asks for all answers at once.

        Raises:
            EndpointError: An answer did not come, after all retries.
        """
        options = (
            [{"temperature": 0.0, "max_tokens": self.max_tokens}] * len(dialogues)
            if generators is None
            else [
                {"temperature": self.temperature, "max_tokens": self.max_tokens, "seed": each.initial_seed() % SEED_RANGE}
                for each in generators
            ]
        )
        found = self.endpoint.complete([dialogue.messages(self.system) for dialogue in dialogues], options)
        return [_text(each) for each in found]


def _text(found: Reply | EndpointError) -> str:
    if isinstance(found, EndpointError):
        raise found
    return found.text.strip()
