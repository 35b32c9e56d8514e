"""Critics of every kind: what they read, what their loss trains, and what a cut episode would have been worth."""

from dataclasses import replace

import pytest
import torch

from rxrl.algorithms import AlgorithmConfig
from rxrl.models import SharedCritic
from rxrl.training.critics import bootstrap_values, critic_values, make_critic
from rxrl.training.targets import Targets
from rxrl.training.update import critic_loss
from tests.training.toy import conversation, conversations, play, tiny_model

KINDS = ("text", "dialogue", "memory", "shared")
MODEL = tiny_model()


def critic_of(kind, model=MODEL):
    """One whose memory attention, which starts without effect, has some."""
    torch.manual_seed(3)
    critic = make_critic(kind, model, 1)
    for name, parameter in critic.named_parameters():
        if "memory_cross_attention.out_proj" in name or name.startswith(("turn", "steps")):
            torch.nn.init.normal_(parameter)
    return critic


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_critic_reads(kind):
    """The text critic sees the saved data, the memory critic the memory; the shared one sees through the policy's encoder."""
    critic, rollout = critic_of(kind), play(MODEL, conversations(4, (3, 2)))
    other = tiny_model(seed=4)
    with torch.no_grad():
        values = critic_values(critic, rollout, MODEL)
        other_memory = critic_values(critic, replace(rollout, stm0=rollout.stm0 + 1), MODEL)
        changed = replace(rollout.critic_tokens, ids=rollout.critic_tokens.ids % 9)
        without_saved = critic_values(critic, replace(rollout, critic_tokens=changed), MODEL)
        other_policy = critic_values(critic, rollout, other)
    assert values.shape == rollout.rewards.shape
    assert (not torch.equal(values, other_memory)) == (kind == "memory")
    assert (not torch.equal(values, without_saved)) == (kind != "memory")
    assert (not torch.equal(values, other_policy)) == (kind in ("memory", "shared"))


@pytest.mark.parametrize("kind", KINDS)
def test_values_do_not_depend_on_longer_conversations_and_are_0_behind_the_end(kind):
    critic, rollout = critic_of(kind), play(MODEL, conversations(3, (3, 1, 2)))
    values = critic_values(critic, rollout, MODEL)
    assert values[~rollout.real].eq(0).all()
    assert values[rollout.real].ne(0).all()
    for row in range(3):
        alone = critic_values(critic, rollout.rows(torch.tensor([row])), MODEL)
        assert torch.allclose(alone[:, 0], values[:, row], atol=1e-6)
    # As in a process that has nothing to learn from: a pass, and gradients of 0.
    nothing = critic_values(critic, replace(rollout, real=torch.zeros_like(rollout.real)), MODEL)
    assert nothing.eq(0).all()
    nothing.sum().backward()
    slopes = [each.grad for each in critic.parameters() if each.grad is not None]
    assert slopes
    assert all(each.eq(0).all() for each in slopes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_that_is_judged_is_not_read(kind):
    critic, rollout = critic_of(kind), play(MODEL, conversations(4, 1))
    ids = torch.where(rollout.answer, (rollout.turns.ids + 1) % 9 + 7, rollout.turns.ids)
    changed = replace(rollout, turns=replace(rollout.turns, ids=ids))
    assert torch.allclose(critic_values(critic, rollout, MODEL), critic_values(critic, changed, MODEL), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_which_weights_the_value_loss_trains(kind):
    model = tiny_model()
    critic, rollout = critic_of(kind, model), play(model, conversations(4, 3))
    zeros = torch.zeros_like(rollout.rewards)
    targets = Targets(zeros, rollout.rewards, zeros, rollout.sampled_log_probs, None)
    critic_loss(critic, rollout, targets, AlgorithmConfig(), model).loss.backward()
    assert all(p.grad is not None for name, p in critic.named_parameters() if name in {"scale", "shift", "value.weight", "turn.weight"})
    trained = {
        group for group, named in model.group_parameters().items() for _, p in named if p.grad is not None and p.grad.abs().max() > 0
    }
    assert trained == ({"embedding", "encoder"} if kind == "shared" else set())


@pytest.mark.parametrize("kind", KINDS)
def test_values_far_from_0_keep_their_differences_in_mixed_precision(kind):
    critic, rollout = critic_of(kind), play(MODEL, conversations(4, 3))
    with torch.no_grad():
        critic.shift.fill_(100.0)
        wide = critic_values(critic, rollout, MODEL)
        with torch.autocast("cpu", torch.bfloat16):
            narrow = critic_values(critic, rollout, MODEL)
    assert narrow.dtype == torch.float32
    assert (narrow - wide).abs().max() < 0.1 * (wide.max() - wide.min())


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_episode_is_worth_what_would_have_followed(kind):
    """The same draws led to the same turns, so that is the value of the third turn of the episode that was not cut."""
    chosen = [conversation(7, 4), conversation(8, 2), conversation(9, 1)]
    cut, whole = (play(MODEL, chosen, max_turns=limit, whole=kind == "dialogue") for limit in (2, None))
    assert cut.truncated.tolist() == [True, False, False]
    critic = critic_of(kind)
    with torch.no_grad():
        expected = float(critic_values(critic, whole, MODEL)[2, 0])
    assert torch.allclose(bootstrap_values(critic, cut, MODEL), torch.tensor([expected, 0.0, 0.0]), atol=1e-5)
    assert bootstrap_values(critic, whole, MODEL).eq(0).all()
    picked = cut.rows(torch.tensor([2, 0]))
    assert torch.allclose(bootstrap_values(critic, picked, MODEL), torch.tensor([0.0, expected]), atol=1e-5)


def test_a_shared_critic_has_a_head_alone():
    critic = make_critic("shared", MODEL, 2)
    assert isinstance(critic, SharedCritic)
    assert {name.split(".")[0] for name in critic.state_dict()} == {"turn", "steps", "value", "out", "scale", "shift"}
