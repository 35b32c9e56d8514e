"""Gradients through memory: true where they flow, absent where they are cut, and the same whether turns are recomputed or kept."""

from dataclasses import replace

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rxrl.algorithms import AlgorithmConfig
from rxrl.training import update
from rxrl.training.replay import policy_log_probs, trajectory
from rxrl.training.token_statistics import LazyLogits
from rxrl.training.update import actor_loss
from tests.algorithms.options import configured
from tests.training.steps import ALL_ON, assert_same, full_update, loss_and_gradients, moved
from tests.training.toy import conversations, play, targets_for, tiny_model, toy_critic, unscored_tells

CUTS = {
    "nowhere": ({}, (0, 0, 0, 0)),
    "window of 1": ({"bptt_turns": 1}, (0, 1, 2, 3)),
    "window of 2": ({"bptt_turns": 2}, (0, 0, 1, 2)),
    "window of 3": ({"bptt_turns": 3}, (0, 0, 0, 1)),
    "every turn": ({"detach_every": 1}, (0, 1, 2, 3)),
    "every second turn": ({"detach_every": 2}, (0, 0, 2, 2)),
    "burn-in": ({"burn_in": 1}, (1, 2, 2, 2)),
    "burn-in and window": ({"burn_in": 1, "bptt_turns": 1}, (1, 2, 2, 3)),
    "burn-in and cuts": ({"burn_in": 1, "detach_every": 3}, (1, 2, 2, 3)),
}
"""Options, and for each of four turns the first write that its loss differentiates through."""


def gradient_at_writes(model, rollout, config):
    """For each write, the size of the gradient that the answers of the last turn alone send to its encoded data."""
    encoded = []
    encode = model.encode

    def recording(*arguments):
        encoded.append(encode(*arguments))
        if encoded[-1].requires_grad:
            encoded[-1].retain_grad()
        return encoded[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "encode", recording)
        policy_log_probs(model, rollout, config)[-1].sum().backward()
    batch = rollout.batch
    sizes = [torch.zeros(len(data[0])) if data.grad is None else data.grad.abs().amax((0, 2, 3)) for data in encoded]
    return torch.cat(sizes).view(-1, batch).amax(1)


def test_gradients_reach_the_write_of_turn_1_from_the_answer_of_turn_8():
    model = tiny_model(double=True)
    rollout = play(model, conversations(3, 8))
    cuts = [({}, 0), *(({"bptt_turns": k}, 8 - k) for k in (8, 7, 3, 1))]
    cuts += [({"detach_every": 8}, 0), ({"detach_every": 3}, 6), ({"detach_every": 7}, 7), ({"burn_in": 2}, 3)]
    for options, first in cuts:
        gradients = gradient_at_writes(model, rollout, configured(**options))
        assert gradients[first:].gt(1e-9).all(), options
        assert gradients[:first].eq(0).all(), options


def test_cuts_change_gradients_and_not_values():
    model = tiny_model(double=True)
    rollout = play(model, conversations(3, 5), warm_up=True)
    options = [{}, *({"bptt_turns": k} for k in (1, 3, 5, 9)), {"detach_every": 2}, {"burn_in": 2}, {"burn_in": 9}]
    configs = [configured(**given, checkpoint_turns=again) for given in options for again in (False, True)]
    values = [policy_log_probs(model, rollout, config).detach() for config in configs]
    assert all((value - values[0]).abs().max() < 1e-12 for value in values)


def recomputed(model, rollout, firsts, states):
    """Memory that each turn reads, by a plain loop: the state before write `firsts[turn]` is a constant."""
    memories = []
    for turn, first in enumerate(firsts):
        stm = states[first]
        for write in range(first, turn + 1):
            stm = model.write_memory(stm, rollout.writes.ids[write], rollout.writes.mask[write])
        memories.append(stm)
    return torch.stack(memories, dim=1)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("name", "form"), [("ppo", "same-tokens"), ("impo", "same-tokens"), ("impo", "positions")])
def test_gradients_equal_finite_differences_through_four_turns_of_memory(name, form, cut, monkeypatch):
    """What is detached is held constant: memory before a cut, and the policy of the turn before."""
    options, firsts = CUTS[cut]
    model, reference = (tiny_model(seed=seed, double=True, layers=1, dim=8) for seed in (0, 3))
    config = configured(name=name, consistency_form=form, **ALL_ON, clip=10.0, **options)
    rollout = play(model, conversations(2, 4))
    targets = targets_for(model, rollout, config, toy_critic(model), reference)
    actor, held = moved(model), []
    previous = update._Replay._previous

    def hold(*arguments):
        said = previous(*arguments)
        held.append(said and LazyLogits(*(each.detach().clone() for each in (said.hidden, said.weight, said.bias))))
        return said

    def loss():
        return actor_loss(actor, rollout, targets, config, reference.decoder.head)[0].loss

    monkeypatch.setattr(update._Replay, "_previous", hold)
    actor.zero_grad()
    loss().backward()
    states = [rollout.stm0, *trajectory(actor, rollout).detach().unbind(1)]
    monkeypatch.setattr(update._Replay, "_previous", lambda *_: held[0])
    monkeypatch.setattr(update, "trajectory", lambda *_: recomputed(actor, rollout, firsts, states))
    generator = torch.Generator().manual_seed(0)
    for group, named in actor.group_parameters().items():
        trained = [(n, p) for n, p in named if p.grad is not None and p.grad.abs().max() > 0]
        assert trained, group
        for pick in torch.randint(len(trained), (3,), generator=generator).tolist():
            parameter_name, p = trained[pick]
            at = int(p.grad.abs().flatten().multinomial(1, generator=generator))
            expected = float(p.grad.flatten()[at])
            assert slope(loss, p, at) == pytest.approx(expected, rel=2e-4, abs=1e-8), (group, parameter_name)


@torch.no_grad()
def slope(function, parameter, at, step=1e-5):
    entry = parameter.view(-1)
    before = float(entry[at])
    entry[at] = before + step
    above = float(function())
    entry[at] = before - step
    below = float(function())
    entry[at] = before
    return (above - below) / (2 * step)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("form", ["same-tokens", "positions"])
def test_recomputing_each_turn_changes_neither_losses_nor_gradients(cut, form):
    model, reference = tiny_model(double=True), tiny_model(seed=5, double=True)
    actor, critic = moved(model), toy_critic(model)
    options = {"loss_per": "turn", "self_imitation": 0.3, "self_imitation_above": 4.0, **ALL_ON, **CUTS[cut][0]}
    rollout = play(model, conversations(5, (4, 1, 3)), reward=unscored_tells, warm_up=form == "positions")
    base, again = (configured(name="impo", consistency_form=form, **options, checkpoint_turns=flag) for flag in (False, True))
    targets = targets_for(model, rollout, base, critic, reference)
    one, two = (full_update(actor, rollout, targets, config, reference, critic) for config in (base, again))
    assert_same(one, two)
    assert one[0].metrics["consistency"] > 0


@pytest.mark.parametrize("form", ["same-tokens", "positions"])
def test_bounded_gradients_are_the_same_where_turns_are_recomputed(form):
    model, reference = tiny_model(double=True), tiny_model(seed=5, double=True)
    actor, critic = moved(model), toy_critic(model)
    with torch.no_grad():
        actor.memory_attention.attention.out_proj.mul_(6.0)
    rollout = play(model, conversations(5, (4, 1, 3)), reward=unscored_tells, warm_up=form == "positions")
    options = {"name": "impo", "consistency_form": form, "loss_per": "turn", **ALL_ON}
    base, again, exact = (
        configured(**options, gradient_growth=growth, checkpoint_turns=flag) for growth, flag in ((1.0, False), (1.0, True), (None, False))
    )
    targets = targets_for(model, rollout, base, critic, reference)
    one, two, other = (full_update(actor, rollout, targets, config, reference, critic) for config in (base, again, exact))
    assert_same(one, two)
    name = "memory_attention.attention.q_proj"
    assert not torch.allclose(one[2][name], other[2][name], rtol=1e-2)


def test_the_ratio_is_exactly_1_where_turns_are_recomputed():
    model = tiny_model()
    rollout = play(model, conversations(5, (4, 2)))
    for options in ({}, {"bptt_turns": 2}, {"detach_every": 2}):
        config = configured(name="impo", checkpoint_turns=True, **options)
        targets = targets_for(model, rollout, config, toy_critic(model))
        result, _, log_probs = loss_and_gradients(model, rollout, targets, config, model)
        assert result.metrics["ratio_deviation"] == 0
        assert torch.equal(log_probs, targets.old_log_probs)


class LiveBytes(TorchDispatchMode):
    """Largest number of bytes that tensors made inside held at one time."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.calls = {}, 0, 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        out = function(*arguments, **(named or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.live.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.calls += 1
        if self.calls % 8 == 0:
            self.live = {key: (alive, size) for key, (alive, size) in self.live.items() if not alive.expired()}
            self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return out


def peak_of_an_update(model, rollout, targets, config):
    model.zero_grad()
    with LiveBytes() as bytes_used:
        actor_loss(model, rollout, targets, config, model.decoder.head)[0].loss.backward()
    return bytes_used.peak


def first_turns(rollout, count):
    """The same rollout, ended earlier."""

    def cut(batch):
        return replace(batch, ids=batch.ids[:count], mask=batch.mask[:count])

    names = ("answer", "sampled_log_probs", "rewards", "scored", "asking", "real", "turn", "steps")
    batches = {name: cut(getattr(rollout, name)) for name in ("writes", "turns", "critic_tokens")}
    return replace(rollout, **batches, **{name: getattr(rollout, name)[:count] for name in names}, terms={})


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"bptt_turns": 2}])
def test_memory_use_of_an_update_does_not_grow_with_the_turns_where_they_are_recomputed(options):
    """What one more turn leaves behind is its memory (a window keeps a second one) and a few numbers: a hundredth of its activations."""
    model = tiny_model()
    whole = play(model, conversations(3, 10))
    growth = {}
    for again in (False, True):
        config = AlgorithmConfig(name="impo", checkpoint_turns=again, **options)
        peaks = []
        for turns in (4, 10):
            rollout = first_turns(whole, turns)
            peaks.append(peak_of_an_update(model, rollout, targets_for(model, rollout, config, toy_critic(model)), config))
        growth[again] = (peaks[1] - peaks[0]) / 6
    one_memory = whole.stm0.nbytes
    assert growth[True] < 6 * one_memory
    assert growth[True] < 0.03 * growth[False]
