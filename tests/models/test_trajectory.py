from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rxrl.models import ReactiveTransformer
from rxrl.models.config import GateConfig
from rxrl.models.trajectory import GradientFlow, answer_hidden, memory_trajectory
from rxrl.types import PAD, TokenBatch
from tests.models.small import GATES, VARIANTS, VOCAB, config, interactions, memory_of, model_of, writing


def episodes(turns: int, batch: int, seed: int = 0) -> TokenBatch:
    """Interactions `[turns, batch, time]` of different lengths; the last row's last write is empty, as after the end of an episode."""
    lengths = [1 + (7 * index + seed) % 6 for index in range(turns * batch)]
    lengths[-1] = 0
    flat = interactions(lengths, seed)
    return TokenBatch(flat.ids.view(turns, batch, -1), flat.mask.view(turns, batch, -1))


def truncated(model: ReactiveTransformer, stm0: Tensor, batch: TokenBatch, window: int) -> Tensor:
    """Turn by turn and window by window, through the plain `write_memory`; nothing written leaves memory as it is."""
    turns = len(batch.ids)

    def write(stm: Tensor, turn: int) -> Tensor:
        told = batch.mask[turn].any(-1)
        memory = torch.zeros_like(stm)
        memory[:, ~told] = stm[:, ~told]
        memory[:, told] = model.write_memory(stm[:, told], batch.ids[turn, told], batch.mask[turn, told])
        return memory

    values = [stm0]
    with torch.no_grad():
        for turn in range(turns):
            values.append(write(values[-1], turn))
    results = []
    for turn in range(turns):
        first = max(0, turn + 1 - window)
        stm = values[first].detach() if first else stm0
        for index in range(first, turn + 1):
            stm = write(stm, index)
        results.append(stm)
    return torch.stack(results, dim=1)


def gradients(model: ReactiveTransformer, stm0: Tensor, trajectory: Tensor) -> list[Tensor]:
    weights = torch.randn(trajectory.shape, generator=torch.Generator().manual_seed(5), dtype=trajectory.dtype)
    wanted = [stm0, *model.parameters()]
    found = torch.autograd.grad((trajectory * weights).sum(), wanted, allow_unused=True)
    return [torch.zeros_like(each) if grad is None else grad for each, grad in zip(wanted, found, strict=True)]


@pytest.mark.parametrize("reads_memory", [False, True])
@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 9, None])
def test_the_window_of_gradients_is_exact(window: int | None, reads_memory: bool):
    turns, batch = 5, 3
    model = model_of(config(reads_memory=reads_memory))
    stm0 = memory_of(model, batch).requires_grad_()
    written = episodes(turns, batch)
    found = memory_trajectory(model, stm0, written.ids, written.mask, GradientFlow(window))
    expected = truncated(model, stm0, written, window or turns)
    assert found.shape == (2, turns, batch, 5, 16)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    for one, other in zip(gradients(model, stm0, found), gradients(model, stm0, expected), strict=True):
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("reads_memory", [False, True])
@pytest.mark.parametrize("window", [1, 2, None])
def test_conversations_of_different_lengths_are_as_each_alone(window: int | None, reads_memory: bool):
    model, lasts = model_of(config(reads_memory=reads_memory)), [2, 0, 4, 1, 4]
    stm0, written = memory_of(model, 5).requires_grad_(), episodes(4, 5)
    going = torch.arange(4).unsqueeze(1) < torch.tensor(lasts)
    batch = TokenBatch(written.ids.where(going.unsqueeze(-1), PAD), (written.mask & going.unsqueeze(-1)))
    batch.mask[3, 4, 0] = True
    found = memory_trajectory(model, stm0, batch.ids, batch.mask, GradientFlow(window))
    for row, last in enumerate(lasts):
        alone = stm0[:, row : row + 1].unsqueeze(1).expand(-1, 4, -1, -1, -1)
        if last:
            one = memory_trajectory(
                model, stm0[:, row : row + 1], *(each[:last, row : row + 1] for each in (batch.ids, batch.mask)), GradientFlow(window)
            )
            alone = torch.cat([one, one[:, -1:].expand(-1, 4 - last, -1, -1, -1)], dim=1)
        torch.testing.assert_close(found[:, :, row : row + 1], alone, atol=1e-12, rtol=0)


def test_nothing_written_has_gradients_of_zero():
    model = model_of(config())
    stm0, written = memory_of(model, 2).requires_grad_(), episodes(3, 2)
    nothing = torch.zeros_like(written.mask)
    stms = memory_trajectory(model, stm0, written.ids, nothing)
    assert stms.equal(stm0.unsqueeze(1).expand_as(stms))
    hidden = answer_hidden(model, stms, TokenBatch(written.ids, nothing), nothing)
    assert hidden.shape == (0, model.config.dim)
    found = torch.autograd.grad(stms.sum() + hidden.sum(), list(model.parameters()), allow_unused=True)
    reached = {name for (name, _), grad in zip(model.named_parameters(), found, strict=True) if grad is not None}
    assert {"encoder", "memory_attention", "decoder"} <= {name.partition(".")[0] for name in reached}
    assert all(grad is None or grad.eq(0).all() for grad in found)


@pytest.mark.parametrize("window", [1, 2, None])
@pytest.mark.parametrize("gate", [GATES[0], GATES[-1]], ids=lambda gate: gate.type)
@pytest.mark.parametrize("variant", [each for each in VARIANTS if each != "interlayer"])
def test_the_window_is_exact_for_every_memory_attention(variant: str, gate: GateConfig, window: int | None):
    attention = config().memory_attention.attention
    model = model_of(config(memory_attention=writing(variant, attention, attention, gate=gate)))
    stm0, written = memory_of(model, 2).requires_grad_(), episodes(3, 2)
    found = memory_trajectory(model, stm0, written.ids, written.mask, GradientFlow(window))
    expected = truncated(model, stm0, written, window or 3)
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-11)
    for one, other in zip(gradients(model, stm0, found), gradients(model, stm0, expected), strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-8)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 50), st.booleans())
@settings(max_examples=20)
def test_replay_does_not_depend_on_batch_order_or_padding(turns: int, batch: int, seed: int, reads_memory: bool):
    model = model_of(config(reads_memory=reads_memory), seed=seed)
    stm0, written = memory_of(model, batch, seed), episodes(turns, batch, seed)
    found = memory_trajectory(model, stm0, written.ids, written.mask, GradientFlow(2))
    order = torch.arange(batch).flip(0)
    wide = torch.nn.functional.pad(written.ids[:, order], (0, 3), value=9), torch.nn.functional.pad(written.mask[:, order], (0, 3))
    other = memory_trajectory(model, stm0[:, order], *wide, GradientFlow(2))
    torch.testing.assert_close(found[:, :, order], other, atol=1e-11, rtol=0)


@pytest.mark.parametrize("reads_memory", [False, True])
@pytest.mark.parametrize(("window", "reached"), [(None, True), (8, True), (7, False), (1, False)])
def test_the_answer_of_turn_8_reaches_the_write_of_turn_1(window: int | None, reached: bool, reads_memory: bool):
    model = model_of(config(reads_memory=reads_memory))
    marker = VOCAB - 1
    written = interactions([5] * 8)
    ids = written.ids.masked_fill(written.ids == marker, 8).view(8, 1, -1)
    ids[0, 0, 2] = marker
    stms = memory_trajectory(model, memory_of(model, 1), ids, written.mask.view(8, 1, -1), GradientFlow(window))
    turn = TokenBatch.pad([[1, 5, 9, 6, 10, 11, 3]])
    answer = torch.tensor([[False] * 4 + [True] * 3])
    hidden = answer_hidden(model, stms[:, 7:], TokenBatch(turn.ids[None], turn.mask[None]), answer[None])
    loss = torch.nn.functional.cross_entropy(model.decoder.head(hidden), turn.ids[answer])
    [gradient] = torch.autograd.grad(loss, [model.embedding.weight])
    assert bool(gradient[marker].abs().max() > 1e-12) == reached


def test_answer_states_are_those_that_predict_each_answer_token():
    model = model_of(config())
    stms = torch.stack([memory_of(model, 3, seed) for seed in range(2)], dim=1)
    turns = interactions([6, 4, 8, 5, 7, 3])
    ids, mask = turns.ids.view(2, 3, -1), turns.mask.view(2, 3, -1)
    answer = mask & (torch.arange(mask.shape[-1]) >= 2)
    found = model.decoder.head(answer_hidden(model, stms, TokenBatch(ids, mask), answer))
    expected = []
    for turn in range(2):
        logits = model.decode(ids[turn], mask[turn], stms[:, turn])
        expected += [logits[row, at - 1] for row in range(3) for at in range(ids.shape[2]) if answer[turn, row, at]]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-11, rtol=0)
    assert (ids[~mask] == PAD).all()
