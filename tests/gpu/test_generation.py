"""Answers on a GPU are those of a CPU, whatever stands beside a row and however the decoder goes on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rxrl.models import ReactiveTransformer, Sampling, answer_logits, decoding, generate_steps
from rxrl.models.generation import Generation
from rxrl.types import EOS, TokenBatch
from tests.gpu.parts import GPU, awake, memory_for, placed
from tests.models.small import generators, padded, prompts

LENGTHS = [3, 11, 7, 1, 5, 9, 2, 13]


def talkative(dtype: torch.dtype = torch.float64, ends: float = 1.5, **changes: object) -> ReactiveTransformer:
    """A model on the CPU whose answers have different lengths."""
    model = awake("pico", **changes).to(dtype)
    with torch.no_grad():
        model.decoder.head.bias[EOS] += ends
    return model


def answers(
    model: ReactiveTransformer, rows: list[int] | None = None, *, sampled: bool = False, columns: int = 0, **options: object
) -> Generation:
    """Answers of some of the rows; memory and draws belong to a row."""
    chosen = list(range(len(LENGTHS))) if rows is None else rows
    whole = prompts(LENGTHS).rows()
    batch = padded(TokenBatch.pad([whole[row] for row in chosen]), columns)
    stm = memory_for(model, len(LENGTHS))[:, chosen]
    draws = [generators(len(LENGTHS))[row] for row in chosen] if sampled else None
    return model.generate(batch, stm, max_new_tokens=24, generators=draws, **options)


def ids_of(found: Generation) -> list[list[int]]:
    return TokenBatch(found.ids, found.mask).rows()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_likeliest_tokens_are_those_of_a_cpu(dtype: torch.dtype):
    model = talkative(dtype)
    expected, found = answers(model), answers(placed(model))
    assert found.ids.device.type == "cuda"
    assert len(set(map(len, ids_of(expected)))) > 2, "answers must end at different times for this to show anything"
    assert ids_of(found) == ids_of(expected)
    assert found.computed_tokens == expected.computed_tokens
    assert (found.raw_log_probs.cpu() - expected.raw_log_probs).abs().max() < (1e-9 if dtype == torch.float64 else 1e-3)


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.7}, {"top_k": 20}, {"top_p": 0.6}, {"temperature": 0.9, "top_k": 300, "top_p": 0.9}], ids=str
)
def test_sampled_tokens_are_those_of_a_cpu(options: dict[str, float]):
    model = talkative(ends=4.5)
    expected, found = answers(model, sampled=True, **options), answers(placed(model), sampled=True, **options)
    assert len(set(map(len, ids_of(expected)))) > 2
    assert ids_of(found) == ids_of(expected)
    assert (found.log_probs.cpu() - expected.log_probs).abs().max() < 1e-9


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("preset", ["pico", "micro"])
def test_a_row_gets_the_same_answer_alone_and_padded(preset: str, sampled: bool):
    model = placed(talkative() if preset == "pico" else awake(preset).double())
    together = ids_of(answers(model, sampled=sampled))
    assert ids_of(answers(model, sampled=sampled, columns=5)) == together
    order = [5, 2, 7, 0, 1, 6, 4, 3]
    assert ids_of(answers(model, order, sampled=sampled)) == [together[row] for row in order]
    for row in (0, 3, 7):
        assert ids_of(answers(model, [row], sampled=sampled)) == [together[row]]


@pytest.mark.parametrize("preset", ["pico", "micro"])
def test_both_ways_to_go_on_from_a_prompt_agree(preset: str, monkeypatch: pytest.MonkeyPatch):
    model = placed(talkative() if preset == "pico" else awake(preset).double())
    made, begin = [], decoding.begin

    def begun(*given: object):
        hidden, found = begin(*given)
        made.append(type(found).__name__)
        return hidden, found

    monkeypatch.setattr("rxrl.models.generation.begin", begun)
    folded = answers(model)
    monkeypatch.setattr(decoding, "_can_fold", lambda *_: False)
    plain = answers(model)
    assert made == ["FoldedDecoding", "PlainDecoding"]
    assert ids_of(plain) == ids_of(folded)
    assert (plain.raw_log_probs - folded.raw_log_probs).abs().max() < 1e-9


def replayed(model: ReactiveTransformer, found: Generation) -> Tensor:
    """Log-probabilities of the generated tokens from one pass over prompt and answer, `[batch, time]`."""
    rows = [prompt + answer for prompt, answer in zip(prompts(LENGTHS).rows(), ids_of(found), strict=True)]
    whole = TokenBatch.pad(rows, GPU)
    log_probs = answer_logits(model.decode(whole.ids, whole.mask, memory_for(model, len(rows)))).float().log_softmax(-1)
    out = torch.zeros(found.ids.shape, device=GPU)
    for row, (prompt, answer) in enumerate(zip(prompts(LENGTHS).rows(), ids_of(found), strict=True)):
        for step, token in enumerate(answer):
            out[row, step] = log_probs[row, len(prompt) + step - 1, token]
    return out


@pytest.mark.parametrize(("way", "bound"), [("float32", 1e-4), ("bfloat16", 0.3), ("mixed precision", 0.3)])
def test_a_replay_gives_the_log_probabilities_of_the_sampler(way: str, bound: float):
    model = placed(talkative(torch.bfloat16 if way == "bfloat16" else torch.float32))
    with torch.autocast("cuda", torch.bfloat16, enabled=way == "mixed precision"), torch.no_grad():
        found = answers(model, sampled=True)
        assert (found.raw_log_probs - replayed(model, found)).abs().max() <= bound


def test_the_stream_is_the_same_answer():
    model = placed(talkative())
    whole = ids_of(answers(model, sampled=True))
    streamed: list[list[int]] = [[] for _ in LENGTHS]
    stm = memory_for(model, len(LENGTHS))
    for step in generate_steps(model, prompts(LENGTHS), stm, max_new_tokens=24, generators=generators(len(LENGTHS)), sampling=Sampling()):
        for row, token in zip(step.rows.tolist(), step.tokens.tolist(), strict=True):
            streamed[row].append(token)
    assert streamed == whole


def test_rows_without_a_prompt_get_no_answer():
    model = placed(talkative())
    found = model.generate(TokenBatch.pad([prompts([4]).rows()[0], []], GPU), memory_for(model, 2), max_new_tokens=4)
    assert found.mask.any(1).tolist() == [True, False]
