"""The baselines with memory, a GRU and memory tokens: what holds for the memory of a Reactive Transformer holds for theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from rxrl.errors import CheckpointError, ConfigError, ModelError
from rxrl.evaluation.trace import trace
from rxrl.models import BASELINES, Critic, ReactiveTransformer, count_parameters, export_rxlm, preset
from rxrl.models.config import MemoryAttentionConfig, ModelConfig
from rxrl.models.skeleton import skeleton
from rxrl.models.trajectory import GradientFlow, answer_hidden, memory_trajectory
from rxrl.policies import StmBackend, rereads
from rxrl.training.critics import make_critic
from rxrl.types import EOS, TokenBatch
from scripts.learning import CODEC
from tests.models.small import FIRST, VOCAB, generators, interactions, padded, prompts
from tests.training.toy import conversation

KINDS = ("pico-gru", "pico-rmt")


def small(name: str, seed: int = 0, dtype: torch.dtype = torch.float64, **changes: object) -> ReactiveTransformer:
    sizes = {"vocab_size": VOCAB, "max_length": 48, "slots": 5, "initial_memory": "normal"}
    return ReactiveTransformer.from_preset(name, seed, **sizes | changes).to(dtype).eval()


@pytest.mark.parametrize("name", BASELINES)
def test_each_is_as_large_as_pico_and_has_as_much_memory(name: str) -> None:
    pico, theirs = (count_parameters(skeleton(ReactiveTransformer, preset(each)))["total"] for each in ("pico", name))
    assert abs(theirs - pico) < 0.1 * pico
    assert rereads(preset(name)) == (name == "pico-causal")
    if not rereads(preset(name)):
        assert preset(name).memory_values == preset("pico").memory_values
        assert preset(name).initial_memory == "learned"


@pytest.mark.parametrize("name", KINDS)
def test_memory_goes_in_and_comes_out_with_gradients_through_every_write(name: str) -> None:
    model, written = small(name), interactions([9, 6, 4])
    stm0 = model.init_memory(3, torch.Generator().manual_seed(0)).requires_grad_()
    assert stm0.shape == (model.config.memory_layers, 3, 5, 64)
    ids, mask = (each.expand(4, *each.shape) for each in (written.ids, written.mask))
    stms = memory_trajectory(model, stm0, ids, mask)
    assert stms.shape == (model.config.memory_layers, 4, 3, 5, 64)
    assert not torch.equal(stms[:, -1], stms[:, -2])
    for row in range(3):
        (gradient,) = torch.autograd.grad(stms[:, -1, row].square().cos().sum(), stm0, retain_graph=True)
        touched = gradient.abs().sum((0, 2, 3)) > 0
        assert touched.tolist() == [each == row for each in range(3)]
    one = memory_trajectory(model, stm0, ids, mask, GradientFlow(1))
    torch.testing.assert_close(one, stms)
    (gradient,) = torch.autograd.grad(one[:, -1].sum(), stm0, allow_unused=True)
    assert gradient is None or not gradient.any()


@pytest.mark.parametrize("name", KINDS)
def test_neither_padding_nor_neighbours_change_a_row(name: str) -> None:
    model, written = small(name), interactions([9, 6, 4])
    stm = model.init_memory(3, torch.Generator().manual_seed(0))
    after, wide = model.write_memory(stm, written.ids, written.mask), padded(written, 5)
    torch.testing.assert_close(model.write_memory(stm, wide.ids, wide.mask), after)
    logits = model.decode(written.ids, written.mask, after)
    torch.testing.assert_close(model.decode(wide.ids, wide.mask, after)[:, :9][written.mask], logits[written.mask])
    for row, length in enumerate((9, 6, 4)):
        ids, mask = written.ids[row : row + 1, :length], written.mask[row : row + 1, :length]
        torch.testing.assert_close(model.write_memory(stm[:, row : row + 1], ids, mask), after[:, row : row + 1])
    backend = StmBackend(model)
    kept = backend.write(stm, written, torch.tensor([True, False, True]))
    assert torch.equal(kept[:, 1], stm[:, 1])
    torch.testing.assert_close(kept[:, 0], after[:, 0])


@pytest.mark.parametrize("name", KINDS)
def test_answers_with_a_cache_are_those_of_the_whole_sequence(name: str) -> None:
    model, asked = small(name), prompts([6, 3, 4])
    with torch.no_grad():
        model.decoder.head.weight.mul_(8)
        model.decoder.head.bias[EOS] += 1.0
    stm = model.write_memory(model.init_memory(3, torch.Generator().manual_seed(0)), asked.ids, asked.mask).detach()
    for draws in (None, generators(3)):
        said = model.generate(asked, stm, max_new_tokens=12, generators=draws)
        for row, length in enumerate(asked.lengths.tolist()):
            answer = said.ids[row][said.mask[row]]
            ids = torch.cat([asked.ids[row, :length], answer]).unsqueeze(0)
            logits = model.decode(ids, torch.ones_like(ids, dtype=torch.bool), stm[:, row : row + 1])[0, length - 1 : -1]
            special = [token for token in range(FIRST) if token != EOS]
            found = logits.index_fill(1, torch.tensor(special), float("-inf")).log_softmax(-1)
            torch.testing.assert_close(said.raw_log_probs[row][said.mask[row]], found.gather(1, answer.unsqueeze(1)).squeeze(1))


def test_memory_tokens_are_one_causal_sequence_before_and_behind_an_interaction() -> None:
    """By hand: memory, tokens, memory again, in one pass without caches."""
    model, decoder = small("pico-rmt"), small("pico-rmt").decoder
    written = interactions([7])
    stm = model.init_memory(1, torch.Generator().manual_seed(0))
    x = torch.cat([stm[0], model.embedding(written.ids), stm[0]], dim=1)
    angles = decoder.angles(torch.arange(-5, 12), x.dtype)
    for layer in model.decoder.layers:
        x, _ = layer(x, angles, None, None)
    x = model.decoder.normed(x)
    torch.testing.assert_close(model.write_memory(stm, written.ids, written.mask)[0], x[:, -5:])
    torch.testing.assert_close(model.decode(written.ids, written.mask, stm), model.decoder.head(x[:, 5:12]))


def test_a_gru_updates_a_slot_as_torch_does() -> None:
    model = small("pico-gru", layers=2)
    cell = model.memory_attention.gate
    draws = torch.Generator().manual_seed(0)
    old, new = (torch.randn(2, 3, 5, 64, generator=draws, dtype=torch.float64) for _ in range(2))
    for layer in range(2):
        theirs = torch.nn.GRUCell(64, 64, dtype=torch.float64)
        # There the update gate is the share of what is old, and comes second.
        order, signs = torch.arange(192).view(3, 64)[[1, 0, 2]].flatten(), torch.ones(3, 64, dtype=torch.float64)
        signs[1] = -1
        for ours, name in ((cell.input_weight, "weight_ih"), (cell.state_weight, "weight_hh")):
            getattr(theirs, name).data = ours[layer].t()[order] * signs.flatten()[:, None]
        for ours, name in ((cell.input_bias, "bias_ih"), (cell.state_bias, "bias_hh")):
            getattr(theirs, name).data = ours[layer][order] * signs.flatten()
        found = theirs(new[layer].flatten(0, 1), old[layer].flatten(0, 1)).view(3, 5, 64)
        torch.testing.assert_close(cell(old, new)[layer], found)
    assert cell.openness(old, new).shape == (2, 3, 5)


@pytest.mark.parametrize("name", KINDS)
def test_it_learns_what_only_memory_can_tell(name: str) -> None:
    """Four tellings, each with a value of its own, then something unrelated, then always the same question."""
    model = small(name, dtype=torch.float32, initial_memory="learned").train()
    told = torch.tensor([[1, 4, FIRST + value, 5, FIRST + 9, 2] for value in range(4)])
    idle = torch.tensor([[1, 4, FIRST + 8, 5, FIRST + 9, 2]] * 4)
    asked = torch.tensor([[1, 4, FIRST + 7, 5, FIRST + value, 2] for value in range(4)])
    writes, real = torch.stack([told, idle]), torch.ones(2, 4, 6, dtype=torch.bool)
    turns, answer = TokenBatch(asked.unsqueeze(0), real[:1]), torch.zeros(1, 4, 6, dtype=torch.bool)
    answer[..., 4] = True
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    for _ in range(150):
        stms = memory_trajectory(model, model.init_memory(4), writes, real)
        loss = F.cross_entropy(model.decoder.head(answer_hidden(model, stms[:, 1:], turns, answer)), asked[:, 4])
        if loss < 0.1:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"the loss is still {float(loss):.3f}")


@pytest.mark.parametrize("name", KINDS)
def test_checkpoints_and_critics_are_those_of_the_other_models(name: str, tmp_path: Path) -> None:
    model = small(name, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    loaded = ReactiveTransformer.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
    written = interactions([9, 6])
    stm = model.write_memory(model.init_memory(2), written.ids, written.mask)
    turn = torch.ones(2, dtype=torch.int64)
    for kind in ("text", "memory"):
        critic = make_critic(kind, model, 2)
        assert isinstance(critic, Critic)
        values = critic(written.ids, written.mask, turn, turn, stm if kind == "memory" else None)
        assert values.shape == (2,)
    assert torch.equal(critic.embedding.weight, model.embedding.weight)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for name in KINDS:
        with pytest.raises(CheckpointError, match="no place for the memory variant"):
            export_rxlm(small(name), tmp_path)
    with pytest.raises(ConfigError, match="a model with memory tokens has neither"):
        trace(small("pico-rmt"), CODEC, [conversation(0, 2)])
    with pytest.raises(ModelError, match=r"has no encoder.*memory tokens"):
        small("pico-rmt").encode(torch.ones(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool))
    attention = preset("pico").memory_attention.attention
    for variant in ("recurrent", "tokens"):
        with pytest.raises(ValidationError, match="has no residual gate"):
            MemoryAttentionConfig(variant=variant, attention=attention, gate={"type": "none"})
    whole = preset("pico-rmt").model_dump()
    for changes, reason in (
        ({"absent": ()}, "leaves an encoder nothing to do"),
        ({"decoder": whole["decoder"] | {"head_norm": "none"}}, "a decoder.head_norm to scale"),
        ({"decoder": whole["decoder"] | {"experts": 2, "active_experts": 1}}, "needs decoder.experts 1"),
    ):
        with pytest.raises(ValidationError, match=reason):
            ModelConfig.model_validate(whole | changes)
