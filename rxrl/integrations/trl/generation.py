"""Answers sampled with the model of a trainer, with the log-probability of each token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rxrl.errors import ConfigError
from rxrl.policies.huggingface import check_scores, end_tokens, generate

Sampled = tuple[list[int], list[float]]
"""Token ids of an answer, the token that ends it included, and their log-probabilities."""
Generate = Callable[[Any, list[list[int]], int], Sequence[Sampled]]
"""Called with the trainer, the ids of each prompt and the most tokens of an answer."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_k": (None, 0, -1),
    "top_p": (None, 1.0),
    "min_p": (None, 0.0),
    "repetition_penalty": (None, 1.0),
    "generation_kwargs": (None, {}),
}
"""Settings of a trainer that leave the distribution of tokens as it is."""


def generate_answers(trainer: Any, rows: list[list[int]], max_tokens: int) -> list[Sampled]:
    """Samples answers with the model of a trainer, at its temperature.

    Args:
        trainer: A `GRPOTrainer`.
        rows: Ids of each prompt.
        max_tokens: Most tokens of an answer.

    Returns:
        The tokens of each answer, up to the one that ends it, and their log-probabilities.

    Raises:
        ConfigError: The trainer generates in another way, or from another distribution than the one that it trains.
        PolicyError: The model's logits are not finite.
    """
    from trl.models import unwrap_model_for_generation  # noqa: PLC0415

    _check_settings(trainer.args)
    tokenizer = tokenizer_of(trainer)
    recorded = TokenLogProbs(trainer.args.temperature)
    with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model, _evaluating(model), torch.no_grad():
        options = {"do_sample": True, "temperature": trainer.args.temperature, "top_k": 0, "top_p": 1.0, "max_new_tokens": max_tokens}
        found = generate(model, tokenizer, rows, logits_processor=[check_scores, recorded], **options)
        ends = end_tokens(model, tokenizer)
    answers = []
    for ids, log_probs in zip(found.tolist(), recorded.of(found).tolist(), strict=True):
        length = next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))
        answers.append((ids[:length], log_probs[:length]))
    return answers


def _check_settings(args: Any) -> None:
    if args.use_vllm or getattr(args, "use_transformers_continuous_batching", False):
        raise ConfigError("conversation_rollout samples with the model's own generate: leave use_vllm out, or give it `generate`.")
    for name, neutral in _NEUTRAL.items():
        if (value := getattr(args, name, None)) not in neutral:
            raise ConfigError(f"Answers are sampled from the distribution that is trained, and {name}={value!r} changes it: leave it out.")


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without dropout."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


class TokenLogProbs:
    """A processor of logits that changes nothing, and notes the log-probability of each sampled token.

    Args:
        temperature: Divides the logits.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
        self._taken: list[Tensor] = []
        self._last: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores `[batch, vocab]` as they are."""
        self._take(input_ids[:, -1])
        self._last = (scores.float() / self.temperature).log_softmax(-1)
        return scores

    def of(self, sampled: Tensor) -> Tensor:
        """Log-probabilities of all tokens that were sampled, float `[batch, time]`."""
        self._take(sampled[:, -1])
        return torch.stack(self._taken, dim=1)

    def _take(self, tokens: Tensor) -> None:
        if self._last is not None:
            self._taken.append(self._last.gather(1, tokens[:, None])[:, 0])


def tokenizer_of(trainer: Any) -> Any:
    """The tokenizer of a trainer, be it alone or part of a processor."""
    return getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
