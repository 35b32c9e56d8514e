"""Parts at work alone: the decoder continues a text, the encoder with its MLM head fills masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from rxrl.errors import ModelError
from rxrl.models.generation.batch import generate_steps
from rxrl.models.generation.sampling import Sampling, check_finite
from rxrl.models.generation.session import AnswerEnd, Token, stream_tokens
from rxrl.models.layers import wide
from rxrl.models.network import ReactiveNetwork
from rxrl.types import BOS, EOS, MASK, SPECIAL_TOKENS, TextCodec, TokenBatch

MASK_TEXT = SPECIAL_TOKENS[MASK]


def complete(
    model: ReactiveNetwork,
    tokenizer: TextCodec,
    text: str,
    *,
    generator: torch.Generator,
    temperature: float = 0.1,
    top_k: int | None = None,
    top_p: float | None = 0.9,
    max_new_tokens: int | None = None,
) -> Iterator[Token | AnswerEnd]:
    """Continues a text with memory in its initial state; needs the decoder only.

    Args:
        model: The Reactive Transformer.
        tokenizer: The one that the model was trained with.
        text: What to continue; "" begins a text.
        generator: CPU generator of the memory and of samples.
        temperature: Of sampling; 0 takes the likeliest token each time.
        top_k: Sample from this many of the likeliest tokens.
        top_p: Sample from the smallest set of tokens with at least this probability, in (0, 1].
        max_new_tokens: Limit of new tokens, `[EOS]` included; None: what the model's length leaves.

    Returns:
        An iterator of `Token`s, then `AnswerEnd`.

    Raises:
        ModelError: The text leaves no room, or an option is out of range.
    """
    ids = tokenizer.encode(text)
    steps = generate_steps(
        model,
        TokenBatch.pad([[BOS, *ids]]),
        model.init_memory(1, generator).detach(),
        max_new_tokens=model.config.max_length if max_new_tokens is None else max_new_tokens,
        generators=None if temperature == 0 else [generator],
        sampling=Sampling(temperature or 1.0, top_k, top_p),
    )
    return stream_tokens(_Continuation(tokenizer, ids), ((int(step.tokens), float(step.log_probs), bool(step.ended)) for step in steps))


@dataclass(frozen=True, slots=True)
class _Continuation:
    """Decodes ids as what follows others: a leading space is kept, which tokenizers leave out at the start of a text."""

    tokenizer: TextCodec
    before: Sequence[int]

    def encode(self, text: str) -> list[int]:
        return _following_ids(self.tokenizer, text)

    def decode(self, ids: Sequence[int]) -> str:
        start = self.tokenizer.decode(self.before)
        return self.tokenizer.decode([*self.before, *ids])[len(start) :]


@dataclass(frozen=True, slots=True)
class Guess:
    """What may stand in a mask's place.

    Attributes:
        text: Of the token, its leading space included where it has one.
        id: Of the token.
        probability: Among all tokens that are no special ones.
    """

    text: str
    id: int
    probability: float


@torch.no_grad()
def fill_masks(
    model: ReactiveNetwork, tokenizer: TextCodec, text: str, *, top_k: int = 5, generator: torch.Generator | None = None
) -> list[list[Guess]]:
    """Likeliest tokens for every `[MASK]` of a text; needs the encoder and the MLM head.

    Args:
        model: The Reactive Transformer.
        tokenizer: The one that the model was trained with.
        text: With `[MASK]` wherever a token is to be guessed.
        top_k: Guesses for each mask, likeliest first.
        generator: CPU generator of the memory, for encoders that read it.

    Raises:
        ModelError: The text has no mask or is too long, or the model lacks a part.
    """
    if top_k < 1:
        raise ModelError(f"top_k must be at least 1, got {top_k}.")
    ids = _masked_ids(tokenizer, text)
    batch = TokenBatch.pad([ids], model.device)
    stm = model.init_memory(1, generator) if model.encoder.reads_memory else None
    hidden = model.encode(batch.ids, batch.mask, stm)[-1, 0]
    logits = model.mlm_head(hidden[[at for at, token in enumerate(ids) if token == MASK]])
    check_finite(logits.sum())
    logits = logits.to(wide(logits.dtype))
    logits[:, : model.config.special_tokens] = float("-inf")
    found = logits.log_softmax(-1).topk(min(top_k, logits.shape[-1] - model.config.special_tokens), dim=-1)
    inside = _Continuation(tokenizer, tokenizer.encode("a"))
    return [
        [Guess(inside.decode([token]), token, probability) for token, probability in zip(tokens, probabilities, strict=True)]
        for tokens, probabilities in zip(found.indices.tolist(), found.values.exp().tolist(), strict=True)
    ]


def _masked_ids(tokenizer: TextCodec, text: str) -> list[int]:
    """`[BOS] text [EOS]`, the form of training; a mask stands for a token together with the space in front of it."""
    first, *others = text.split(MASK_TEXT)
    if not others:
        raise ModelError(f"The text has no {MASK_TEXT}: put one wherever a token is to be guessed.")
    pieces = [first, *others]
    pieces[:-1] = [piece.removesuffix(" ") for piece in pieces[:-1]]
    ids = [BOS, *tokenizer.encode(pieces[0])]
    for piece in pieces[1:]:
        ids += [MASK, *_following_ids(tokenizer, piece)]
    return [*ids, EOS]


def _following_ids(tokenizer: TextCodec, text: str) -> list[int]:
    """Ids of a text that goes on without a space, which tokenizers put in front of every text they are given."""
    if not text or text[0] == " ":
        return tokenizer.encode(text)
    # Words and punctuation never share a token: whichever the text does not begin with serves as what stands before it.
    before = "." if text[0].isalnum() else "a"
    lead = tokenizer.encode(before)
    return tokenizer.encode(before + text)[len(lead) :]
