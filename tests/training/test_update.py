"""The update: every term is felt, and nothing depends on how rows are batched."""

import copy
from dataclasses import replace

import pytest
import torch

from rxrl.algorithms import AlgorithmConfig, sum_results
from rxrl.models.trajectory import answer_hidden
from rxrl.training.replay import trajectory
from rxrl.training.rollout import Rollout
from rxrl.training.update import actor_loss, critic_loss, has_advantage, minibatches, totals_of
from tests.algorithms.options import configured
from tests.distributions import exact_kl, tempered
from tests.lockstep import in_lockstep
from tests.training.steps import ALL_ON, assert_same, full_update, loss_and_gradients, moved
from tests.training.toy import conversations, play, targets_for, tiny_model, toy_critic, unscored_tells, widened


@pytest.mark.parametrize("name", ["ppo", "impo"])
def test_order_and_padding_change_neither_losses_nor_gradients(name):
    model = tiny_model(double=True)
    reference, actor, critic = tiny_model(seed=5, double=True), moved(model), toy_critic(model)
    config = AlgorithmConfig(name=name, advantage="gae", value_clip=0.5, **ALL_ON)
    chosen = conversations(5, (3, 1, 4))
    rollout = play(model, chosen)
    base = full_update(actor, rollout, targets_for(model, rollout, config, critic, reference), config, reference, critic)
    shuffled = play(model, [chosen[index] for index in (3, 0, 4, 2, 1)])
    more_rows = play(model, chosen, rows=8)
    longer = widened(rollout, 5)
    for other in (shuffled, more_rows, longer, with_empty_turns(rollout, 2)):
        assert_same(base, full_update(actor, other, targets_for(model, other, config, critic, reference), config, reference, critic))


def with_empty_turns(rollout: Rollout, turns: int) -> Rollout:
    """The same rollout with turns behind it in which no row is real."""

    def more(values, fill=0):
        return torch.cat([values, values.new_full((turns, *values.shape[1:]), fill)])

    def batch(given):
        return replace(given, ids=more(given.ids), mask=more(given.mask))

    return replace(
        rollout,
        writes=batch(rollout.writes),
        turns=batch(rollout.turns),
        critic_tokens=batch(rollout.critic_tokens),
        answer=more(rollout.answer),
        sampled_log_probs=more(rollout.sampled_log_probs),
        rewards=more(rollout.rewards, 123.0),
        scored=more(rollout.scored),
        asking=more(rollout.asking),
        real=more(rollout.real),
        turn=more(rollout.turn, 9),
        steps=torch.cat([rollout.steps, rollout.steps[:1].expand(turns, -1)]),
    )


def test_minibatches_of_one_row_sum_to_the_whole_batch():
    """A weighted sum over rows: what each conversation contributes does not depend on its neighbours."""
    model = tiny_model(double=True)
    actor, config = moved(model), AlgorithmConfig(name="ppo", kl=0.1, balance=0.0)
    rollout = play(model, conversations(4, (1, 3)))
    targets = targets_for(model, rollout, config, toy_critic(model))
    _, whole, _ = loss_and_gradients(actor, rollout, targets, config, model)
    tokens = int(rollout.answer.sum())
    total = dict.fromkeys(whole, 0.0)
    for row in range(4):
        index = torch.tensor([row])
        part = rollout.rows(index)
        _, gradients, _ = loss_and_gradients(actor, part, targets.rows(index), config, model)
        total = {name: total[name] + gradients[name] * int(part.answer.sum()) / tokens for name in total}
    assert all(torch.allclose(whole[name], total[name], rtol=1e-8, atol=1e-12) for name in whole)


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (1, 4), (5, 4), (7, 3), (8, 8), (6, 9)])
def test_minibatches_use_every_row_once(batch, count):
    parts = list(minibatches(batch, count, 0, "minibatch"))
    assert len(parts) == min(batch, count)
    assert sorted(torch.cat(parts).tolist()) == list(range(batch))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    again, other = list(minibatches(batch, count, 0, "minibatch")), list(minibatches(batch, count, 1, "minibatch"))
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    if batch == 8:
        assert [p.tolist() for p in parts] != [p.tolist() for p in other]


@pytest.mark.parametrize("name", ["ppo", "impo"])
def test_every_coefficient_is_felt_in_the_update(name):
    model, reference = tiny_model(), tiny_model(seed=9)
    rollout = play(model, conversations(4, 3))
    on = AlgorithmConfig(name=name, **ALL_ON)
    targets = targets_for(model, rollout, on, toy_critic(model), reference)
    base = loss_and_gradients(model, rollout, targets, on, reference)[0]
    names = ALL_ON if name == "impo" else ("entropy", "kl", "balance")
    for coefficient in names:
        off = AlgorithmConfig(name=name, **ALL_ON | {coefficient: 0.0})
        aims = replace(targets, reference_hidden=targets.reference_hidden if off.kl else None)
        result = loss_and_gradients(model, rollout, aims, off, reference)[0]
        assert not torch.allclose(result.loss, base.loss, atol=1e-7), coefficient
    assert {"policy_loss", "entropy", "kl", "balance", "ratio", "clip_fraction", "approx_kl"} <= base.metrics.keys()
    assert ({"memory_change", "memory_cosine", "consistency"} <= base.metrics.keys()) == (name == "impo")
    assert all(value.isfinite() for value in base.metrics.values())


def test_consistency_compares_with_the_memory_of_the_turn_before():
    """Where memory stands still from turn to turn the term is 0; a single turn has none."""
    model = tiny_model(double=True)
    rollout = play(model, conversations(3, 3))
    config = AlgorithmConfig(name="impo", **ALL_ON)
    targets = targets_for(model, rollout, config, toy_critic(model))
    result, _, _ = loss_and_gradients(model, rollout, targets, config, model)
    assert result.metrics["consistency"] > 1e-6
    frozen = tiny_model(double=True)
    with torch.no_grad():
        frozen.memory_attention.gate.weight.zero_()
        frozen.memory_attention.mean_gate.weight.zero_()
        frozen.memory_attention.gate.bias.fill_(-1e3)
        frozen.memory_attention.mean_gate.bias.fill_(-1e3)
    still, _, _ = loss_and_gradients(frozen, rollout, targets, config, model)
    assert still.metrics["consistency"].abs() < 1e-12
    assert still.metrics["memory_change"].abs() < 1e-12
    single = play(model, conversations(3, 1))
    alone, _, _ = loss_and_gradients(model, single, targets_for(model, single, config, toy_critic(model)), config, model)
    assert alone.metrics["consistency"] == 0
    assert alone.metrics["memory_change"] == 0


def test_consistency_is_a_mean_over_the_tokens_from_the_second_turn_on():
    model = tiny_model(double=True)
    rollout = play(model, conversations(4, (3, 1)), reward=unscored_tells)
    config = AlgorithmConfig(name="impo", **ALL_ON)
    result, _, _ = loss_and_gradients(model, rollout, targets_for(model, rollout, config, toy_critic(model)), config, model)
    stms = trajectory(model, rollout)
    before = torch.cat([stms[:, :1], stms[:, :-1]], dim=1)
    now, then = (tempered(model.decoder.head(answer_hidden(model, memory, rollout.turns, rollout.answer))) for memory in (stms, before))
    counted = (rollout.answer & (rollout.scored & (rollout.turn > 1)).unsqueeze(-1))[rollout.answer]
    assert 0 < int(counted.sum()) < len(counted)
    assert torch.allclose(result.metrics["consistency"], exact_kl(now, then)[counted].mean())


def test_consistency_may_compare_position_by_position_with_the_answer_before():
    """As published: where both answers have a token."""
    model = tiny_model(double=True)
    rollout = play(model, conversations(5, (3, 2)), reward=unscored_tells)
    config = configured(name="impo", consistency_form="positions", **ALL_ON)
    result, _, _ = loss_and_gradients(model, rollout, targets_for(model, rollout, config, toy_critic(model)), config, model)
    all_hidden = answer_hidden(model, trajectory(model, rollout), rollout.turns, rollout.answer)
    policy = torch.zeros(*rollout.answer.shape, model.config.vocab_size, dtype=torch.float64)
    policy[rollout.answer] = tempered(model.decoder.head(all_hidden))
    found = []
    for turn in range(1, len(rollout.real)):
        for row in range(rollout.batch):
            if rollout.scored[turn, row]:
                now, then = policy[turn, row][rollout.answer[turn, row]], policy[turn - 1, row][rollout.answer[turn - 1, row]]
                found += [exact_kl(a[None], b[None]) for a, b in zip(now, then, strict=False)]
    assert 0 < len(found) < int(rollout.answer[1:].sum())
    assert torch.allclose(result.metrics["consistency"], torch.cat(found).mean())


@pytest.mark.parametrize("loss_per", ["token", "turn", "episode"])
def test_tokens_turns_or_episodes_count_the_same(loss_per):
    model = tiny_model(double=True)
    rollout = play(model, conversations(5, (3, 1)), reward=unscored_tells)
    config = AlgorithmConfig(name="ppo", loss_per=loss_per, kl=0.0, entropy=0.0, balance=0.0, clip=10.0)
    targets = targets_for(model, rollout, config, toy_critic(model))
    targets = replace(targets, old_log_probs=targets.old_log_probs + 0.3)
    loss = loss_and_gradients(model, rollout, targets, config, model)[0].loss.detach()
    gains = {}
    for turn, row in rollout.scored.nonzero().tolist():
        tokens = int(rollout.answer[turn, row].sum())
        gains[turn, row] = [float(targets.advantages[turn, row]) * 2.718281828459045**-0.3] * tokens
    if loss_per == "token":
        means = [gain for each in gains.values() for gain in each]
    elif loss_per == "turn":
        means = [sum(each) / len(each) for each in gains.values()]
    else:
        rows = [[gain for (_, row), each in gains.items() if row == wanted for gain in each] for wanted in range(5)]
        means = [sum(each) / len(each) for each in rows if each]
    assert float(loss) == pytest.approx(-sum(means) / len(means))


def imitating(name="impo", **changes):
    options = {"loss_per": "episode", "self_imitation": 0.3, "self_imitation_above": 4.0, "value_clip": 0.5, **ALL_ON}
    return configured(name=name, **options | changes)


def test_losses_of_micro_batches_add_up_to_that_of_the_minibatch():
    """One optimizer step a minibatch, however it is cut; what the experts were given is handed in, as the trainer counts it first."""
    model = tiny_model(double=True)
    actor, critic, config = moved(model), toy_critic(model), imitating()
    rollout = play(model, conversations(5, (3, 1)), reward=unscored_tells)
    targets = targets_for(model, rollout, config, critic)
    seen = []
    whole = actor_loss(actor, rollout, targets, config, model.decoder.head, reduce=lambda x: seen.append(x) or x)[0]
    loads, tokens = seen
    gradients = torch.autograd.grad(whole.loss, list(actor.parameters()), allow_unused=True)
    value = critic_loss(critic, rollout, targets, config, model)
    totals, parts = totals_of(rollout, config), [torch.tensor(rows) for rows in ([0, 3], [1], [2, 4])]
    results, values = [], []
    for rows in parts:
        part, aims = rollout.rows(rows), targets.rows(rows)
        given = {"totals": totals, "reduce": lambda x: loads if x.ndim else tokens}
        results.append(actor_loss(actor, part, aims, config, model.decoder.head, **given)[0])
        values.append(critic_loss(critic, part, aims, config, model, totals))
    joined, joined_value = sum_results(results), sum_results(values)
    assert torch.allclose(joined.loss, whole.loss)
    assert torch.allclose(joined_value.loss, value.loss)
    assert joined.metrics.keys() == whole.metrics.keys()
    assert all(torch.allclose(joined.metrics[name], metric) for name, metric in whole.metrics.items())
    for one, other in zip(gradients, torch.autograd.grad(joined.loss, list(actor.parameters()), allow_unused=True), strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-12)


def test_gradients_of_two_processes_average_to_those_of_one():
    model = tiny_model(double=True)
    actor, config = moved(model), imitating("ppo")
    rollout = play(model, conversations(5, (3, 1)), reward=unscored_tells)
    targets = targets_for(model, rollout, config, toy_critic(model))
    _, whole, _ = loss_and_gradients(actor, rollout, targets, config, model)

    def process(rows, reduce):
        mine, part = copy.deepcopy(actor), rollout.rows(rows)
        given = {"totals": totals_of(part, config, reduce), "reduce": reduce}
        actor_loss(mine, part, targets.rows(rows), config, model.decoder.head, **given)[0].loss.backward()
        return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in mine.named_parameters()}

    one, two = in_lockstep(process, [torch.tensor([2]), torch.tensor([0, 1, 3, 4])])
    assert all(torch.allclose((one[name] + two[name]) / 2, gradient, atol=1e-12) for name, gradient in whole.items())


def test_self_imitation_looks_at_the_best_episodes_alone():
    model = tiny_model(double=True)
    rollout = play(model, conversations(4, (3, 2)))
    rewards = torch.tensor([[9.0, 2.0, 9.0, 10.0], [9.0, 9.0, 8.0, 8.0], [9.0, 0.0, 9.0, 0.0]], dtype=torch.float64)
    rollout = replace(rollout, rewards=rewards)
    quiet = {"name": "ppo", "kl": 0.0, "entropy": 0.0, "balance": 0.0}
    config = configured(self_imitation=0.5, self_imitation_above=9.0, **quiet)
    targets = replace(targets_for(model, rollout, config, toy_critic(model)), advantages=torch.zeros_like(rewards))
    result, _, _ = loss_and_gradients(model, rollout, targets, config, model)
    best = [0, 3]
    tokens = targets.old_log_probs[:, best][rollout.answer[:, best]]
    assert torch.allclose(result.metrics["self_imitation"], -tokens.mean())
    assert torch.allclose(result.loss, -0.5 * tokens.mean())
    none, _, _ = loss_and_gradients(model, rollout, targets, configured(self_imitation=0.5, self_imitation_above=9.9, **quiet), model)
    assert none.loss == none.metrics["self_imitation"] == 0
    off, _, _ = loss_and_gradients(model, rollout, targets, AlgorithmConfig(**quiet), model)
    assert "self_imitation" not in off.metrics


@pytest.mark.parametrize("per_token", [False, True])
def test_an_advantage_counts_where_its_turn_is_trained(per_token):
    model = tiny_model(double=True)
    rollout, config = play(model, conversations(6, 4), reward=unscored_tells), configured(burn_in=1)
    targets = targets_for(model, rollout, config, toy_critic(model))

    def found(turn, row, value, part=rollout, config=config):
        advantages = torch.zeros_like(rollout.answer if per_token else rollout.rewards, dtype=torch.float64)
        advantages[turn, row] = value
        return has_advantage(part, replace(targets, advantages=advantages), config)

    trained, silent = (flags.nonzero().tolist() for flags in (rollout.scored[1:], ~rollout.scored[1:]))
    assert trained
    assert silent
    assert all(found(turn + 1, row, -0.01) and not found(turn + 1, row, 1e-9) for turn, row in trained)
    assert not any(found(turn + 1, row, 1.0) for turn, row in silent)
    assert not any(found(0, row, 1.0) for row in range(6))
    assert not found(*trained[0], 1.0, replace(rollout, scored=torch.zeros_like(rollout.scored)))
    # Without one, the best episodes teach where they are imitated.
    assert found(0, 0, 0.0, config=configured(self_imitation=0.1, self_imitation_above=0.0))
    assert not found(0, 0, 0.0, config=configured(self_imitation=0.1, self_imitation_above=10.0))
