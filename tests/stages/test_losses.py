"""Losses of the supervised stages."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from rxrl.data.batches import EpisodeBatch, episode_batch
from rxrl.models import ReactiveTransformer
from rxrl.models.trajectory import GradientFlow, answer_hidden, memory_trajectory
from rxrl.stages import losses
from rxrl.stages.losses import joint_loss, mask_tokens, memory_attention_loss, memory_mix, smat_loss, token_cross_entropy
from rxrl.types import ANSWER, BOS, EOS, MASK, QUERY, SPECIAL_TOKENS, TokenBatch
from tests.training.toy import CODEC, conversations, tiny_model

FIRST = len(SPECIAL_TOKENS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def texts(rows=4, longest=12):
    lengths = torch.randint(3, longest, (rows,), generator=generator()).tolist()
    words = [torch.randint(FIRST, CODEC.vocab_size, (length,), generator=generator(length)).tolist() for length in lengths]
    return TokenBatch.pad([[BOS, *row, EOS] for row in words])


def padded(batch: TokenBatch, columns=4, rows=2, fill=8) -> TokenBatch:
    """The same tokens with more padded columns (holding `fill`) and more rows without tokens behind them."""
    ids = F.pad(batch.ids.masked_fill(~batch.mask, fill), (0, columns, 0, rows), value=fill)
    return TokenBatch(ids, F.pad(batch.mask, (0, columns, 0, rows)))


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(one, two):
    assert one.keys() == two.keys()
    for name, gradient in one.items():
        assert torch.allclose(gradient, two[name], rtol=1e-8, atol=1e-12), name


# Masking


def test_masked_tokens_have_the_published_shares():
    batch = TokenBatch(torch.randint(FIRST, 200, (200, 100), generator=generator()), torch.ones(200, 100, dtype=torch.bool))
    ids, chosen = mask_tokens(batch, 200, 0.15, generator(1))
    share = chosen.double().mean()
    picked, before = ids[chosen], batch.ids[chosen]
    masked, kept = picked == MASK, picked == before
    assert float(share) == pytest.approx(0.15, abs=0.01)
    assert float(masked.double().mean()) == pytest.approx(0.8, abs=0.02)
    assert float(kept.double().mean()) == pytest.approx(0.1, abs=0.02)
    assert float((~masked & ~kept).double().mean()) == pytest.approx(0.1, abs=0.02)
    assert torch.equal(ids[~chosen], batch.ids[~chosen])
    assert picked[~masked].min() >= FIRST
    assert picked.max() < 200


def test_neither_padding_nor_special_tokens_are_masked_and_every_row_has_one():
    rows = [[BOS, QUERY, FIRST, ANSWER, EOS], [BOS, *range(FIRST, FIRST + 9), EOS], [BOS, EOS]]
    batch = TokenBatch.pad(rows)
    for seed in range(50):
        _, chosen = mask_tokens(batch, CODEC.vocab_size, 0.01, generator(seed))
        assert not (chosen & ~batch.mask).any()
        assert not (chosen & (batch.ids < FIRST)).any()
        assert chosen.any(1).tolist() == [True, True, False]


def test_masks_depend_on_the_generator_alone():
    batch = texts()
    first, again, other = (mask_tokens(batch, CODEC.vocab_size, 0.3, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


# Joint training


def joint(model, batch, monkeypatch, **changes):
    """The joint loss with masks that depend on the tokens, so that padding cannot shift the draws."""
    monkeypatch.setattr(losses, "mask_tokens", lambda given, *_: (given.ids, given.mask & (given.ids % 3 == 0)))
    return joint_loss(model, batch, generator(), **{"noise": 0.0, "slot_dropout": 0.0} | changes)


def test_padding_changes_nothing_in_the_joint_stage(monkeypatch):
    model, batch = tiny_model(double=True), texts()
    one, two = (joint(model, each, monkeypatch) for each in (batch, padded(batch)))
    assert torch.allclose(one.loss, two.loss, rtol=1e-12)
    for name, value in one.metrics.items():
        assert torch.allclose(value, two.metrics[name], rtol=1e-12), name
    assert_same_gradients(gradients(model, one.loss), gradients(model, two.loss))


def test_joint_loss_is_the_weighted_sum_of_its_parts(monkeypatch):
    model, batch = tiny_model(double=True), texts()
    ar, mlm, both = (
        joint(model, batch, monkeypatch, ar_weight=a, mlm_weight=m, balance_weight=0.0).loss for a, m in ((1, 0), (0, 1), (2, 3))
    )
    assert torch.allclose(both, 2 * ar + 3 * mlm)
    # Every real token but the first is predicted from those before it.
    memory = model.encode(batch.ids, batch.mask)
    logits = model.decode(batch.ids, batch.mask, memory, batch.mask)[:, :-1]
    assert torch.allclose(ar, F.cross_entropy(logits[batch.mask[:, 1:]], batch.ids[:, 1:][batch.mask[:, 1:]]))


def test_the_decoder_sends_no_gradient_into_the_encoder(monkeypatch):
    model = tiny_model(double=True)
    found = gradients(model, joint(model, texts(), monkeypatch, mlm_weight=0.0).loss)
    assert not any(name.startswith("encoder.") and gradient.abs().max() > 0 for name, gradient in found.items())
    assert any("memory_cross_attention" in name for name in found)
    assert not any(name.startswith("memory_attention") for name in found)


@pytest.mark.parametrize("changes", [{"noise": 0.5}, {"slot_dropout": 0.5}])
def test_noise_and_hidden_slots_are_felt_by_the_decoder_only(changes, monkeypatch):
    model, batch = tiny_model(double=True), texts()
    plain, disturbed = joint(model, batch, monkeypatch).metrics, joint(model, batch, monkeypatch, **changes).metrics
    assert plain["ar_loss"] != disturbed["ar_loss"]
    assert plain["mlm_loss"] == disturbed["mlm_loss"]


def test_a_fresh_model_does_not_see_memory_at_all():
    """The output of memory cross-attention starts at zero, so logits do not depend on memory however large it is."""
    model, batch = tiny_model(awake=False), texts()
    memories = [model.init_memory(4, generator(1)), 100 * model.init_memory(4, generator(2)), torch.zeros(2, 4, 6, 16)]
    logits = [model.decode(batch.ids, batch.mask, memory) for memory in memories]
    assert all(torch.equal(logits[0], other) for other in logits)
    # It can learn to: the gradient is there.
    found = gradients(model, token_cross_entropy(logits[0][batch.mask], batch.ids[batch.mask])[0])
    assert found["decoder.layers.0.memory_cross_attention.out_proj.weight"].abs().max() > 0


# Memory attention


@pytest.mark.parametrize(("turn", "base"), [(0, 0.9), (1, 0.45), (2, 0.4), (5, 0.25), (9, 0.05), (10, 0.05), (30, 0.05)])
def test_memory_mix_has_its_values_and_range(turn, base):
    draws = generator()
    weights = [memory_mix(turn, draws) for _ in range(300)]
    assert min(weights) >= base * 0.85 - 1e-9
    assert max(weights) <= base * 1.15 + 1e-9
    assert max(weights) - min(weights) > 0.25 * base
    assert sum(weights) / 300 == pytest.approx(base, rel=0.02)


def test_targets_mix_slot_by_slot_and_keep_the_old_memory_beyond_the_interaction():
    stm = torch.randn(2, 3, 6, 4, generator=generator())
    encoded = torch.randn(2, 3, 9, 4, generator=generator(1))
    mask = torch.arange(9) < torch.tensor([4, 9, 0])[:, None]
    target = losses._memory_target(stm, encoded, mask, 0.3, 6)
    mixed = 0.7 * stm + 0.3 * encoded[:, :, :6]
    assert torch.allclose(target[:, 0, :4], mixed[:, 0, :4])
    assert torch.equal(target[:, 0, 4:], stm[:, 0, 4:])
    assert torch.allclose(target[:, 1], mixed[:, 1])
    assert torch.equal(target[:, 2], stm[:, 2])
    short = losses._memory_target(stm, encoded[:, :, :2], mask[:, :2], 0.3, 6)
    assert torch.equal(short[:, 0, 2:], stm[:, 0, 2:])


def episodes(steps=(3, 1, 2)) -> EpisodeBatch:
    return episode_batch(conversations(5, steps), CODEC, 32)


def test_only_memory_attention_learns_in_its_stage():
    model = tiny_model(double=True)
    found = gradients(model, memory_attention_loss(model, model.init_memory(5, generator()), episodes().writes, generator()).loss)
    assert found
    assert all(name.startswith("memory_attention.") for name in found)


def test_memory_attention_loss_is_minus_the_cosine_with_the_target():
    model = tiny_model(double=True)
    stm0, writes = model.init_memory(5, generator()), episodes().writes
    one = TokenBatch(writes.ids[:1], writes.mask[:1])
    result = memory_attention_loss(model, stm0, one, generator(3), noise=0.0)
    encoded = model.encode(one.ids[0], one.mask[0])
    target = losses._memory_target(stm0, encoded, one.mask[0], memory_mix(0, generator(3)), 6)
    updated = model.write_memory(stm0, one.ids[0], one.mask[0])
    assert torch.allclose(result.loss, -F.cosine_similarity(updated, target, dim=-1).mean())
    assert torch.allclose(result.metrics["drift"], (updated - stm0).pow(2).mean())


def test_padding_and_conversations_that_have_ended_change_nothing():
    model = tiny_model(double=True)
    writes, stm0 = episodes((3, 1)).writes, model.init_memory(5, generator())
    assert (~writes.mask.any(-1)).any()
    # Two more rows, which have ended before they began, and four more columns.
    wide = TokenBatch(F.pad(writes.ids, (0, 4, 0, 2), value=9), F.pad(writes.mask, (0, 4, 0, 2)))
    more = torch.cat([stm0, 5 * model.init_memory(2, generator(8))], dim=1)
    one = memory_attention_loss(model, stm0, writes, generator(), noise=0.0)
    expected = gradients(model, one.loss)
    two = memory_attention_loss(model, more, wide, generator(), noise=0.0)
    assert torch.allclose(one.loss, two.loss, rtol=1e-12)
    assert torch.allclose(one.metrics["drift"], two.metrics["drift"], rtol=1e-12)
    assert_same_gradients(gradients(model, two.loss), expected)


def test_an_encoder_that_reads_memory_reads_it_here_too():
    model = ReactiveTransformer.from_preset("micro", 0, vocab_size=CODEC.vocab_size, dim=16, layers=2, slots=6, max_length=32).double()
    writes = episodes((2,)).writes
    one = TokenBatch(writes.ids[:1], writes.mask[:1])
    stm0 = model.init_memory(5, generator())
    result = memory_attention_loss(model, stm0, one, generator(3), noise=0.0)
    encoded = model.encode(one.ids[0], one.mask[0], stm0)
    target = losses._memory_target(stm0, encoded, one.mask[0], memory_mix(0, generator(3)), 6)
    assert torch.allclose(result.loss, -F.cosine_similarity(model.write_memory(stm0, one.ids[0], one.mask[0]), target, dim=-1).mean())


# Memory-aware training


def test_smat_loss_is_the_cross_entropy_of_the_answers_in_the_real_cycle():
    model, chosen = tiny_model(double=True), conversations(3, (2, 3))
    stm0 = model.init_memory(3, generator())
    result = smat_loss(model, stm0, episode_batch(chosen, CODEC, 32), balance_weight=0.0)
    terms = []
    for row, c in enumerate(chosen):
        stm = stm0[:, row : row + 1]
        for before, now in zip(c.interactions, c.follow_ups, strict=False):
            written = torch.tensor([[BOS, QUERY, *CODEC.encode(before.query), ANSWER, *CODEC.encode(before.answer), EOS]])
            stm = model.write_memory(stm, written, torch.ones_like(written, dtype=torch.bool))
            prompt, answer = [BOS, QUERY, *CODEC.encode(now.query), ANSWER], [*CODEC.encode(now.answer), EOS]
            ids = torch.tensor([prompt + answer])
            found = model.decode(ids, torch.ones_like(ids, dtype=torch.bool), stm)[0].log_softmax(-1)
            terms += [-found[len(prompt) - 1 + at, token] for at, token in enumerate(answer)]
    assert torch.allclose(result.loss, torch.stack(terms).mean())


def test_order_and_padding_change_nothing_in_memory_aware_training():
    model, chosen = tiny_model(double=True), conversations(4, (3, 1))
    stm0 = model.init_memory(4, generator())
    batch = episode_batch(chosen, CODEC, 32)
    order = [2, 0, 3, 1]
    shuffled = episode_batch([chosen[index] for index in order], CODEC, 32)

    def wide(given):
        return TokenBatch(F.pad(given.ids, (0, 4), value=9), F.pad(given.mask, (0, 4)))

    longer = replace(batch, writes=wide(batch.writes), turns=wide(batch.turns), answer=F.pad(batch.answer, (0, 4)))
    base = smat_loss(model, stm0, batch, balance_weight=0.1)
    expected = gradients(model, base.loss)
    for memory, other in ((stm0[:, order], shuffled), (stm0, longer)):
        result = smat_loss(model, memory, other, balance_weight=0.1)
        assert torch.allclose(result.loss, base.loss, rtol=1e-12)
        assert_same_gradients(gradients(model, result.loss), expected)


def test_the_gradient_window_of_memory_aware_training():
    model = tiny_model(double=True)
    batch, stm0 = episodes((4,)), model.init_memory(5, generator())
    losses_of = {k: smat_loss(model, stm0, batch, flow=GradientFlow(k), balance_weight=0.0) for k in (None, 1, 4)}
    assert torch.allclose(losses_of[None].loss, losses_of[1].loss, rtol=1e-12)
    found = {k: gradients(model, result.loss)["memory_attention.gate.bias"] for k, result in losses_of.items()}
    assert torch.allclose(found[None], found[4], rtol=1e-9)
    assert not torch.allclose(found[None], found[1], rtol=1e-3)


def test_what_memory_contributes_is_measured_with_an_empty_and_with_another_memory():
    model = tiny_model(double=True)
    batch, stm0 = episodes((3,)), model.init_memory(5, generator())
    true = memory_trajectory(model, stm0, batch.writes.ids, batch.writes.mask)

    def expected(stms):
        hidden = answer_hidden(model, stms, batch.turns, batch.answer)
        return F.cross_entropy(model.decoder.head(hidden), batch.turns.ids[batch.answer])

    cases = {"true": true, "empty": stm0.unsqueeze(1).expand_as(true), "other": true[:, :, [4, 0, 1, 2, 3]]}
    for name, stms in cases.items():
        assert torch.allclose(smat_loss(model, stm0, batch, memory=name).metrics["loss"], expected(stms))


def test_cross_entropy_and_accuracy():
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    loss, accuracy = token_cross_entropy(logits, torch.tensor([0, 1]))
    assert float(loss) == pytest.approx((math.log(1 + math.exp(-2)) + math.log(2)) / 2)
    assert float(accuracy) == 0.5
