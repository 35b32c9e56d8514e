from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rxrl.errors import ModelError
from rxrl.models import Critic, ReactiveTransformer
from rxrl.models.experts import RouterStatistics
from rxrl.policies import ModelPolicy, StmBackend
from rxrl.types import PARAMETER_GROUPS, Action
from tests.models.small import VOCAB, config, configs, generators, interactions, memory_of, model_of, padded, prompts

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@given(configs(), LENGTHS, st.integers(0, 99), st.integers(1, 5))
@settings(max_examples=25)
def test_padding_changes_no_memory_no_logit_and_no_router_count(shape, lengths, seed, columns):
    model = model_of(shape, seed=seed)
    stm, plain = memory_of(model, len(lengths), seed), interactions(lengths, seed)
    wide = padded(plain, columns)
    torch.testing.assert_close(model.write_memory(stm, wide.ids, wide.mask), model.write_memory(stm, plain.ids, plain.mask))
    one, other = RouterStatistics(plain.mask), RouterStatistics(wide.mask)
    logits = model.decode(plain.ids, plain.mask, stm, statistics=one)
    wider = model.decode(wide.ids, wide.mask, stm, statistics=other)
    torch.testing.assert_close(wider[:, : plain.ids.shape[1]][plain.mask], logits[plain.mask])
    if shape.decoder.experts > 1:
        for a, b in zip(one.sums(), other.sums(), strict=True):
            torch.testing.assert_close(a, b)
        assert one.sums()[0].sum() == sum(lengths) * shape.decoder.active_experts * shape.layers


@given(configs(), LENGTHS, st.integers(0, 99))
@settings(max_examples=15)
def test_rows_do_not_see_one_another(shape, lengths, seed):
    model = model_of(shape, seed=seed)
    stm, batch = memory_of(model, len(lengths), seed), interactions(lengths, seed)
    written, logits = model.write_memory(stm, batch.ids, batch.mask), model.decode(batch.ids, batch.mask, stm)
    for row in range(len(lengths)):
        own = slice(row, row + 1)
        torch.testing.assert_close(model.write_memory(stm[:, own], batch.ids[own], batch.mask[own]), written[:, own])
        torch.testing.assert_close(model.decode(batch.ids[own], batch.mask[own], stm[:, own]), logits[own])


def test_the_decoder_is_causal_and_the_encoder_is_not():
    model = model_of(config())
    stm, batch = memory_of(model, 1), interactions([6])
    changed = batch.ids.clone()
    changed[0, 4] = (changed[0, 4] + 1) % VOCAB
    before, after = (model.decode(ids, batch.mask, stm) for ids in (batch.ids, changed))
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])
    before, after = (model.encode(ids, batch.mask)[-1] for ids in (batch.ids, changed))
    assert not torch.allclose(before[:, 0], after[:, 0])


def test_memory_is_a_set_for_the_decoder_and_masked_slots_are_not_read():
    model = model_of(config())
    stm, batch = memory_of(model, 2), interactions([5, 3])
    logits = model.decode(batch.ids, batch.mask, stm)
    torch.testing.assert_close(model.decode(batch.ids, batch.mask, stm.flip(2)), logits)
    assert not torch.allclose(model.decode(batch.ids, batch.mask, stm.flip(1)), logits), "memory must matter"
    longer = torch.cat([stm, 9 * torch.ones_like(stm)], dim=2)
    real = torch.tensor([[True] * 5 + [False] * 5]).expand(2, -1)
    torch.testing.assert_close(model.decode(batch.ids, batch.mask, longer, real), logits)


def test_an_untrained_model_does_not_depend_on_its_memory():
    model = ReactiveTransformer.from_config(config())
    batch = interactions([7, 4])
    one, other = (model.decode(batch.ids, batch.mask, memory_of(model, 2, seed)) for seed in (1, 2))
    assert torch.equal(one, other)


def test_memory_is_a_value_and_never_part_of_the_model():
    model = model_of(config())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stm, batch = memory_of(model, 2), interactions([5, 4])
    kept = stm.clone()
    written = model.write_memory(stm, batch.ids, batch.mask)
    model.generate(prompts([2, 3]), written, max_new_tokens=5)
    assert torch.equal(stm, kept)
    assert not torch.allclose(stm, written)
    assert list(model.buffers()) == []
    after = model.state_dict()
    assert after.keys() == before.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("kind", ["normal", "small-normal", "uniform", "zeros", "ones", "learned"])
def test_initial_memory(kind: str):
    model = ReactiveTransformer.from_config(config(initial_memory=kind, slots=400))
    stm = memory_of(model, 3)
    assert stm.shape == (2, 3, 400, 16)
    spread = {"normal": 1.0, "small-normal": 0.01, "uniform": 3**-0.5, "zeros": 0.0, "ones": 0.0, "learned": 0.02}[kind]
    assert stm.std().item() == pytest.approx(spread, rel=0.05)
    assert stm.mean().item() == pytest.approx(1.0 if kind == "ones" else 0.0, abs=0.05)
    assert torch.equal(stm, memory_of(model, 3))
    assert torch.equal(memory_of(model, 3, seed=1), stm) == (kind in ("zeros", "ones", "learned"))
    assert ("initial_memory" in model.state_dict()) == (kind == "learned")


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    one = ReactiveTransformer.from_config(config(), seed=4)
    state = torch.get_rng_state()
    other = ReactiveTransformer.from_config(config(), seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(one.embedding.weight, ReactiveTransformer.from_config(config(), seed=5).embedding.weight)


@pytest.mark.parametrize("reads_memory", [False, True])
def test_every_parameter_is_in_one_group(reads_memory: bool):
    model = ReactiveTransformer.from_config(config(reads_memory=reads_memory, initial_memory="learned"))
    groups = model.group_parameters()
    assert tuple(groups) == PARAMETER_GROUPS
    names = [name for named in groups.values() for name, _ in named]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert {name.split(".")[0] for name, _ in groups["encoder"]} == {"encoder", "mlm_head"}
    assert all("decoder.layers" in name for name, _ in groups["decoder_memory"])
    assert not any("cross" in name for name, _ in groups["decoder"])


def test_the_task_runs_through_forward():
    model = model_of(config())
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    assert model(lambda inner: inner is model)
    assert calls == [1]


def test_the_backend_writes_chosen_rows_only_and_survives_copies():
    model = model_of(config())
    backend = StmBackend(model)
    assert copy.deepcopy(backend) is backend
    assert copy.deepcopy({"memory": [backend]})["memory"][0] is backend
    memory, batch = backend.init([7, 8, 9]), interactions([3, 6, 5])
    torch.testing.assert_close(memory[:, [1]], backend.init([8]))
    written = backend.write(memory, batch, torch.tensor([True, False, True]))
    torch.testing.assert_close(written[:, [0, 2]], model.write_memory(memory, batch.ids, batch.mask)[:, [0, 2]])
    assert torch.equal(written[:, 1], memory[:, 1])
    assert not written.requires_grad
    assert torch.equal(backend.write(memory, batch, torch.zeros(3, dtype=torch.bool)), memory)
    reset = backend.reset_rows(written, torch.tensor([False, False, True]), memory)
    assert torch.equal(reset[:, 2], memory[:, 2])
    assert torch.equal(reset[:, :2], written[:, :2])
    assert torch.equal(backend.select_rows(memory, [2, 0]), memory[:, [2, 0]])


def test_a_policy_answers_as_the_model_generates():
    model = model_of(config(), ends=1.0)
    stm, batch = memory_of(model, 3), prompts([2, 4, 1])
    action = ModelPolicy(model, 9, temperature=1.4).act(batch, stm, generators(3))
    assert isinstance(action, Action)
    assert torch.equal(action.ids, model.generate(batch, stm, max_new_tokens=9, generators=generators(3), temperature=1.4).ids)
    assert torch.equal(ModelPolicy(model, 9).act(batch, stm, None).ids, model.generate(batch, stm, max_new_tokens=9).ids)


def test_wrong_inputs_are_refused():
    model = model_of(config())
    stm, batch = memory_of(model, 2), interactions([5, 3])
    with pytest.raises(ModelError, match="Tokens must be int64"):
        model.encode(batch.ids.int(), batch.mask)
    with pytest.raises(ModelError, match="bool mask"):
        model.decode(batch.ids, batch.mask.long(), stm)
    with pytest.raises(ModelError, match="Memory has 3 rows"):
        model.write_memory(memory_of(model, 3), batch.ids, batch.mask)
    with pytest.raises(ModelError, match="Memory has 3 rows"):
        model.decode(batch.ids, batch.mask, memory_of(model, 3))
    with pytest.raises(ModelError, match="48 tokens at most, got 49"):
        model.encode(*vars_of(interactions([49])))


def vars_of(batch):
    return batch.ids, batch.mask


def test_a_critic_that_reads_memory_starts_as_one_that_reads_none():
    actor = model_of(config(layers=3))
    torch.manual_seed(0)
    plain = Critic(config(layers=3), 2).double()
    torch.manual_seed(1)
    reader = Critic(config(layers=3), 2, memory=True).double()
    reader.load_state_dict(reader.state_dict() | plain.state_dict())
    for critic in (plain, reader):
        critic.load_encoder(actor.embedding, actor.encoder)
    assert (plain.reads_memory, reader.reads_memory) == (False, True)
    batch, turn, steps, stm = interactions([5, 2, 7]), torch.tensor([1, 2, 3]), torch.tensor([4, 4, 99]), memory_of(actor, 3)
    values = reader(batch.ids, batch.mask, turn, steps, stm)
    torch.testing.assert_close(values, plain(batch.ids, batch.mask, turn, steps))
    with torch.no_grad():
        for layer in reader.encoder.layers:
            layer.memory_cross_attention.out_proj.weight.normal_()
    assert not torch.allclose(reader(batch.ids, batch.mask, turn, steps, stm), values)
    wide = padded(batch, 4)
    found = reader(wide.ids, wide.mask, turn, steps, stm)
    torch.testing.assert_close(found[1:], reader(batch.ids[1:], batch.mask[1:], turn[1:], steps[1:], stm[:, 1:]))
    with pytest.raises(ModelError, match="This critic reads memory: give stm"):
        reader(batch.ids, batch.mask, turn, steps)
    with pytest.raises(ModelError, match="reads no memory: leave out stm"):
        plain(batch.ids, batch.mask, turn, steps, stm)
    assert not any("cross" in name for name, _ in Critic(config(reads_memory=True)).named_parameters()), "no weights that nothing trains"


def test_heads_have_the_norms_that_the_configuration_gives_them():
    shape = config()
    norms = {
        "encoder": shape.encoder.model_copy(update={"mlm_norm": True}),
        "decoder": shape.decoder.model_copy(update={"head_norm": "rms"}),
    }
    model = model_of(config(**norms))
    hidden = 9 * torch.randn(2, 16).double() + 3
    head = model.mlm_head
    dense = torch.nn.functional.gelu(head.dense(hidden))
    normed = (dense - dense.mean(-1, keepdim=True)) / (dense.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = head.decoder(normed * head.layer_norm.weight + head.layer_norm.bias)
    torch.testing.assert_close(head(hidden), expected)
    batch, stm = interactions([5]), memory_of(model, 1)
    found = model.decode_hidden(batch.ids, batch.mask, stm)
    torch.testing.assert_close((found / model.decoder.head_norm.weight).square().mean(-1), torch.ones(1, 5).double(), atol=1e-5, rtol=0)
    plain = model_of(config())
    assert set(model.state_dict()) - set(plain.state_dict()) == {
        "mlm_head.layer_norm.weight",
        "mlm_head.layer_norm.bias",
        "decoder.head_norm.weight",
    }
    assert "decoder.head_norm.weight" in [name for name, _ in model.group_parameters()["decoder"]]


def test_the_critic_ignores_padding_and_order_and_starts_from_the_actor():
    actor = model_of(config())
    critic = Critic(config()).double()
    critic.load_encoder(actor.embedding, actor.encoder)
    assert torch.equal(critic.embedding.weight, actor.embedding.weight)
    batch, turn, steps = interactions([5, 2, 7]), torch.tensor([1, 2, 3]), torch.tensor([4, 4, 99])
    values = critic(batch.ids, batch.mask, turn, steps)
    wide = padded(batch, 4)
    torch.testing.assert_close(critic(wide.ids, wide.mask, turn, steps), values)
    torch.testing.assert_close(critic(batch.ids.flip(0), batch.mask.flip(0), turn.flip(0), steps.flip(0)), values.flip(0))
    assert values.std() > 0
