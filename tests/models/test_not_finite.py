"""A policy whose logits are not finite is refused in one sentence, however and wherever it answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from rxrl.errors import PolicyError
from rxrl.models import ReactiveSession, ReactiveTransformer, Sampling, generate_steps
from rxrl.models.generation.completion import complete, fill_masks
from rxrl.models.generation.sampling import draw
from tests.envs.worlds import CODEC, ByteCodec
from tests.models.small import generators, prompts

WORDS = "logits are not finite .* earlier checkpoint .* lower the learning rate"


def no_number(model: ReactiveTransformer) -> None:
    model.decoder.layers[0].norm1.weight.fill_(float("nan"))


def one_logit(model: ReactiveTransformer) -> None:
    model.decoder.head.bias[30] = float("inf")


def too_large(model: ReactiveTransformer) -> None:
    for weight in model.parameters():
        weight.mul_(1e30)


def one_embedding(model: ReactiveTransformer) -> None:
    """Nothing shows before this token is read."""
    model.embedding.weight[30] = float("nan")
    model.decoder.head.bias[30] = 1e3


@pytest.fixture(params=["auto", "sdpa"], ids=["kernels", "torch"])
def model(request: pytest.FixtureRequest) -> ReactiveTransformer:
    made = ReactiveTransformer.from_preset("pico", vocab_size=ByteCodec.vocab_size, seed=0)
    made.use_attention(request.param)
    return made


@pytest.mark.parametrize("spoil", [no_number, one_logit, too_large, one_embedding])
@pytest.mark.parametrize("sampling", [None, Sampling(), Sampling(0.7, 20, 0.9), Sampling(top_p=0.5)], ids=str)
def test_answers(model: ReactiveTransformer, spoil: Callable[[ReactiveTransformer], None], sampling: Sampling | None):
    with torch.no_grad():
        spoil(model)
    draws, batch, stm = None if sampling is None else generators(3), prompts([2, 5, 1]), model.init_memory(3).detach()
    with pytest.raises(PolicyError, match=WORDS):
        list(generate_steps(model, batch, stm, max_new_tokens=8, generators=draws, sampling=sampling or Sampling()))


def test_a_memory_that_is_not_finite(model: ReactiveTransformer):
    stm = model.init_memory(3).detach()
    stm[:, 1] = float("nan")
    with torch.no_grad():
        model.decoder.layers[0].memory_cross_attention.out_proj.weight.normal_(generator=torch.Generator().manual_seed(0))
    with pytest.raises(PolicyError, match=WORDS):
        model.generate(prompts([2, 5, 1]), stm, max_new_tokens=8, generators=generators(3))


def test_conversations_and_texts(model: ReactiveTransformer):
    with torch.no_grad():
        no_number(model)
        model.mlm_head.decoder.bias[30] = float("nan")
    session = ReactiveSession(model, CODEC)
    before = session.stm
    with pytest.raises(PolicyError, match=WORDS):
        list(session.ask("a"))
    assert session.stm is before
    with pytest.raises(PolicyError, match=WORDS):
        list(complete(model, CODEC, "a", generator=torch.Generator().manual_seed(0)))
    with pytest.raises(PolicyError, match=WORDS):
        fill_masks(model, CODEC, "a[MASK]")


def test_a_draw_from_no_distribution_stays_in_the_vocabulary():
    log_probs = torch.tensor([[float("nan")] * 4, [0.25] * 4]).log()
    assert draw(log_probs, torch.tensor([[0.5], [0.99]], dtype=torch.float64)).tolist() == [3, 3]
