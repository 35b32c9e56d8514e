from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rxrl.errors import ModelError
from rxrl.models import ModelConfig, Sampling, answer_logits, generate_steps
from rxrl.models.generation.sampling import FORBIDDEN, truncate_distribution
from rxrl.types import EOS, PAD, Action, TokenBatch
from tests.models.small import FIRST, VOCAB, config, configs, generators, memory_of, model_of, padded, prompts

PROMPTS = st.lists(st.integers(0, 9), min_size=1, max_size=5)


def replayed(model, batch, stm, generation, temperature=1.0):
    """Log-probabilities of generated tokens as the trainer computes them: one pass over the whole sequence."""
    rows = [prompt + answer for prompt, answer in zip(batch.rows(), TokenBatch(generation.ids, generation.mask).rows(), strict=True)]
    whole = TokenBatch.pad(rows)
    log_probs = (answer_logits(model.decode(whole.ids, whole.mask, stm)) / temperature).log_softmax(-1)
    out = torch.zeros_like(generation.raw_log_probs)
    for row, start in enumerate(batch.lengths.tolist()):
        for step in range(int(generation.mask[row].sum())):
            out[row, step] = log_probs[row, start + step - 1, generation.ids[row, step]]
    return out


@given(configs(), PROMPTS, st.integers(0, 99))
@settings(max_examples=25)
def test_cached_and_replayed_log_probabilities_agree(shape: ModelConfig, lengths: list[int], seed: int):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        model = model_of(shape, seed=seed, dtype=dtype, ends=0.5)
        stm, batch = memory_of(model, len(lengths), seed), prompts(lengths, seed)
        found = model.generate(batch, stm, max_new_tokens=12, generators=generators(len(lengths), seed), temperature=1.7)
        assert found.raw_log_probs.dtype == dtype
        assert (found.raw_log_probs - replayed(model, batch, stm, found)).abs().max() <= tolerance
        assert (found.log_probs - replayed(model, batch, stm, found, 1.7)).abs().max() <= tolerance


@given(configs(), PROMPTS, st.integers(0, 99), st.booleans(), st.integers(0, 4))
@settings(max_examples=25)
def test_answers_depend_on_neither_batch_nor_order_nor_padding(shape, lengths, seed, greedy, columns):
    model = model_of(shape, seed=seed, ends=1.0)
    stm, batch = memory_of(model, len(lengths), seed), prompts(lengths, seed)

    def answers(rows: list[int], extra: int = 0):
        chosen = TokenBatch.pad([batch.rows()[row] for row in rows])
        draws = None if greedy else [generators(len(lengths), seed)[row] for row in rows]
        found = model.generate(padded(chosen, extra), stm[:, rows], max_new_tokens=20, generators=draws)
        ids = TokenBatch(found.ids, found.mask).rows()
        return ids, [row[: len(answer)] for row, answer in zip(found.log_probs, ids, strict=True)]

    together, log_probs = answers(list(range(len(lengths))))
    backwards = list(reversed(range(len(lengths))))
    reversed_ids, reversed_log_probs = answers(backwards, columns)
    assert [reversed_ids[row] for row in backwards] == together
    for row in range(len(lengths)):
        [alone], [alone_log_probs] = answers([row])
        assert alone == together[row]
        torch.testing.assert_close(alone_log_probs, log_probs[row], atol=1e-10, rtol=0)
        torch.testing.assert_close(reversed_log_probs[backwards.index(row)], log_probs[row], atol=1e-10, rtol=0)


@pytest.mark.parametrize("greedy", [True, False])
def test_rows_that_end_stop_costing(greedy: bool):
    model = model_of(config(max_length=96), seed=3, ends=0.6)
    lengths = [index % 7 for index in range(40)]
    stm, batch = memory_of(model, 40), prompts(lengths)
    found = model.generate(batch, stm, max_new_tokens=60, generators=None if greedy else generators(40))
    useful = int(found.mask.sum())
    assert len(set(found.mask.sum(1).tolist())) > 5, "the rows must end at different times for this to show anything"
    assert found.computed_tokens < 0.7 * found.ids.numel()
    assert found.computed_tokens <= 1.2 * useful
    for row in (0, 13, 39):
        draws = None if greedy else [generators(40)[row]]
        alone = model.generate(TokenBatch.pad([batch.rows()[row]]), stm[:, [row]], max_new_tokens=60, generators=draws)
        assert alone.ids[0].tolist() == found.ids[row][found.mask[row]].tolist()


@given(configs(), st.integers(0, 99))
@settings(max_examples=15)
def test_special_tokens_cannot_be_generated(shape: ModelConfig, seed: int):
    model = model_of(shape, seed=seed, ends=-1.0)
    with torch.no_grad():
        model.decoder.head.bias[list(FORBIDDEN)] += 30.0
    stm = memory_of(model, 4)
    for draws, temperature in ((None, 1.0), (generators(4), 1.0), (generators(4), 9.0)):
        found = model.generate(prompts([1, 2, 3, 4]), stm, max_new_tokens=30, generators=draws, temperature=temperature)
        assert not set(found.ids[found.mask].tolist()) & set(FORBIDDEN)
        assert torch.isfinite(found.log_probs).all()


def test_a_row_ends_with_its_end_token_or_at_its_limit_and_is_padded_after():
    model = model_of(config(), seed=1, ends=1.0)
    found = model.generate(prompts([3] * 30), memory_of(model, 30), max_new_tokens=10, generators=generators(30))
    assert isinstance(found, Action)
    assert (found.ids[~found.mask] == PAD).all()
    assert (found.log_probs[~found.mask] == 0).all()
    assert (found.raw_log_probs[~found.mask] == 0).all()
    ended = 0
    for answer in TokenBatch(found.ids, found.mask).rows():
        assert EOS not in answer[:-1]
        assert answer[-1] == EOS or len(answer) == 10
        ended += answer[-1] == EOS
    assert 0 < ended < 30


def test_an_answer_leaves_room_to_be_written_whatever_stands_beside_it():
    model = model_of(config(max_length=20), ends=-30.0)
    batch = prompts([1, 15])
    found = model.generate(batch, memory_of(model, 2), max_new_tokens=99)
    assert found.mask.sum(1).tolist() == [20 - 1 - 4, 20 - 1 - 18]


def test_rows_without_a_prompt_get_no_answer_and_change_no_other():
    model = model_of(config(), ends=-2.0)
    stm, batch = memory_of(model, 3), prompts([2, 2, 4])
    with_gap = TokenBatch.pad([batch.rows()[0], [], batch.rows()[2]])
    found, whole = (model.generate(each, stm, max_new_tokens=8, generators=generators(3)) for each in (with_gap, batch))
    assert not found.mask[1].any()
    assert found.ids[[0, 2]].tolist() == whole.ids[[0, 2]].tolist()
    nothing = model.generate(TokenBatch.pad([[], [], []]), stm, max_new_tokens=8)
    assert nothing.ids.shape == (3, 1)
    assert not nothing.mask.any()


def test_the_stream_is_the_same_answer():
    model = model_of(config(), ends=1.0)
    stm, batch = memory_of(model, 6), prompts([1, 2, 3, 4, 5, 6])
    whole = model.generate(batch, stm, max_new_tokens=10, generators=generators(6), temperature=1.3, top_k=9)
    answers: list[list[int]] = [[] for _ in range(6)]
    running = set(range(6))
    for step in generate_steps(model, batch, stm, max_new_tokens=10, generators=generators(6), sampling=Sampling(1.3, 9)):
        assert set(step.rows.tolist()) == running
        for row, token, ended in zip(step.rows.tolist(), step.tokens.tolist(), step.ended.tolist(), strict=True):
            answers[row].append(token)
            running -= {row} if ended else set()
    assert not running
    assert answers == TokenBatch(whole.ids, whole.mask).rows()


def test_samples_follow_the_distribution():
    model = model_of(config(), seed=3)
    count = 3000
    batch, stm = prompts([3]), memory_of(model, 1)
    logits = model.decode(batch.ids, batch.mask, stm)[0, -1]
    expected = (answer_logits(logits) / 1.5).softmax(-1)
    many = TokenBatch(batch.ids.expand(count, -1), batch.mask.expand(count, -1))
    found = model.generate(many, stm.expand(-1, count, -1, -1), max_new_tokens=1, generators=generators(count), temperature=1.5)
    share = torch.bincount(found.ids[:, 0], minlength=VOCAB) / count
    assert ((share - expected).abs() <= 4 * (expected * (1 - expected) / count).sqrt() + 1 / count).all()
    assert (expected > 0.01).sum() > 5
    torch.testing.assert_close(found.log_probs[:, 0].exp(), expected[found.ids[:, 0]])


def test_truncation_keeps_what_it_names():
    probabilities = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).double()

    def kept(top_k, top_p):
        return truncate_distribution(probabilities.log(), top_k, top_p).exp()[0].tolist()

    assert kept(2, None) == pytest.approx([0, 4 / 7, 0, 3 / 7])
    assert kept(None, 0.5) == pytest.approx([0, 4 / 7, 0, 3 / 7])
    assert kept(None, 0.39) == pytest.approx([0, 1, 0, 0])
    assert kept(3, 0.7) == pytest.approx([0, 4 / 7, 0, 3 / 7])
    assert kept(9, 1.0) == pytest.approx([0.1, 0.4, 0.2, 0.3])


@given(st.integers(0, 99), st.sampled_from([0.3, 3.0]), st.none() | st.integers(1, 400), st.none() | st.floats(0.01, 1.2))
def test_truncation_of_large_vocabularies_is_that_of_its_definition(seed, spread, top_k, top_p):
    log_probs = (spread * torch.randn(3, 300, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).log_softmax(-1)
    found = truncate_distribution(log_probs, top_k, top_p)
    for row, truncated in zip(log_probs.exp().tolist(), found.exp().tolist(), strict=True):
        order = sorted(range(300), key=row.__getitem__, reverse=True)[:top_k]
        total, reached, kept = sum(row[token] for token in order), 0.0, []
        for token in order:
            kept.append(token)
            reached += row[token] / total
            if top_p is not None and reached >= top_p:
                break
        mass = sum(row[token] for token in kept)
        assert truncated == pytest.approx([row[token] / mass if token in kept else 0.0 for token in range(300)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a number of at least 1e-06"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"generators": generators(1)}, "2 prompts need a generator each, got 1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    model = model_of(config())
    with pytest.raises(ModelError, match=message):
        model.generate(prompts([1, 2]), memory_of(model, 2), **({"max_new_tokens": 4} | options))


def test_wrong_inputs_are_refused():
    model = model_of(config(max_length=12))
    with pytest.raises(ModelError, match="Memory has 3 rows, the prompts have 2"):
        model.generate(prompts([1, 2]), memory_of(model, 3), max_new_tokens=4)
    with pytest.raises(ModelError, match="A prompt of 11 tokens leaves no room"):
        model.generate(prompts([1, 8]), memory_of(model, 2), max_new_tokens=4)


def test_answers_may_be_learned_from():
    model = model_of(config(), ends=1.0)
    found = model.generate(prompts([2, 3]), memory_of(model, 2), max_new_tokens=6, generators=generators(2))
    hidden = model.embedding(found.ids) * found.log_probs.unsqueeze(-1)
    hidden.sum().backward()
    assert model.embedding.weight.grad is not None
    assert not any(tensor.is_inference() for tensor in (found.ids, found.mask, found.log_probs, found.raw_log_probs))


@pytest.mark.parametrize("seed", range(3))
def test_of_sixty_four_rows_of_which_one_in_fifty_ends_few_tokens_are_wasted(seed: int):
    model = model_of(config(max_length=256), seed=seed)
    with torch.no_grad():
        model.decoder.head.weight.zero_()
        model.decoder.head.bias.zero_()
        model.decoder.head.bias[EOS] = math.log((VOCAB - FIRST) / 49)
    found = model.generate(prompts([32] * 64), memory_of(model, 64), max_new_tokens=220, generators=generators(64, seed))
    useful = int(found.mask.sum()) - 64  # the first tokens come from the prompts
    assert 64 * 25 < useful < 64 * 80, "about fifty tokens an answer"
    assert found.computed_tokens <= 1.2 * useful
