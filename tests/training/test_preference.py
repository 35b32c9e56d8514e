"""Preferences: pairs from rows, rivals and groups, scored given the memory before the answer is written, against the frozen start."""

import math
from dataclasses import replace

import pytest
import torch

from rxrl.algorithms import AlgorithmConfig
from rxrl.algorithms.advantages import best_of_group
from rxrl.errors import ConfigError
from rxrl.training.offline import with_accepted
from rxrl.training.replay import reference_memory, trajectory
from rxrl.training.signals.preference import dmpo
from rxrl.training.update import actor_loss
from scripts.learning import CODEC
from tests.training.lessons import signals_of, taught
from tests.training.steps import moved
from tests.training.test_memory_credit import slope
from tests.training.test_signals import QUIET, small, surprise
from tests.training.toy import EchoSource, ToySource, conversations, lines, same, targets_for, toy_critic, trainer_in, weights

COLUMNS = {"accepted": "ann has cat", "rejected": "bob", "neutral": "ok"}


def with_columns(chosen, **columns):
    """Conversations whose follow-ups name answers."""
    return [replace(each, follow_ups=tuple(replace(turn, extra=columns) for turn in each.follow_ups)) for each in chosen]


def compared(model, reference, chosen, signals, **options):
    """A rollout whose pairs the reference has scored."""
    rollout = taught(model, chosen, signals, **options)
    with torch.no_grad():
        return signals.compared(reference, lambda: reference_memory(reference, rollout), rollout)


def loss_of(actor, rollout, signals, reference):
    config = AlgorithmConfig(**QUIET)
    targets = targets_for(actor, rollout, config, toy_critic(actor), reference)
    return actor_loss(actor, rollout, targets, config, reference.decoder.head, signals=signals)[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_it_equals_a_computation_by_hand_on_the_memory_before_the_write(smoothing):
    reference = small()
    actor, chosen = moved(reference), with_columns(conversations(2, 3), **COLUMNS)
    options = {"beta": 0.3, "label_smoothing": smoothing, "anchor": 0.2}
    signals = signals_of(preference={"coefficient": 1.0, "options": options})
    rollout = compared(actor, reference, chosen, signals)
    memories, losses = (trajectory(actor, rollout), trajectory(reference, rollout)), []
    for number, row in enumerate(rollout.turn_grid()):
        for at, turn in enumerate(row):
            gains = []
            for text in COLUMNS.values():
                own, theirs = (
                    -surprise(model, stms[:, number, at : at + 1], turn.query_ids, CODEC.encode(text)).mean()
                    for model, stms in zip((actor, reference), memories, strict=True)
                )
                gains.append(float(own - theirs))
            right = 1 / (1 + math.exp(-0.3 * (gains[0] - gains[1])))
            losses.append(-(1 - smoothing) * math.log(right) - smoothing * math.log(1 - right) + 0.2 * abs(gains[2]))
    assert float(loss_of(actor, rollout, signals, reference).loss.detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-9)


def test_the_memory_after_the_write_would_give_another_loss():
    """What the answers are scored on does not hold them: another answer of the turn itself changes nothing."""
    reference = small()
    actor, chosen = moved(reference), with_columns(conversations(2, 2), **COLUMNS)
    signals = signals_of(preference=1.0)
    rollout = compared(actor, reference, chosen, signals)
    last = rollout.at(1)
    other = replace(rollout, turns=replace(rollout.turns, ids=rollout.turns.ids.clone()))
    other.turns.ids[1][last.answer[0]] = CODEC.encode("bob")[0]
    values = [loss_of(actor, each, signals, reference).metrics["signal/preference"] for each in (rollout, other)]
    assert torch.equal(*values)
    shifted = replace(rollout, writes=replace(rollout.writes, ids=rollout.writes.ids.roll(-1, 0), mask=rollout.writes.mask.roll(-1, 0)))
    assert not torch.allclose(loss_of(actor, shifted, signals, reference).metrics["signal/preference"], values[0], rtol=1e-6)


def test_gradients_equal_finite_differences_through_four_turns_of_memory():
    reference = small()
    actor, signals = moved(reference), signals_of(preference={"coefficient": 1.0, "options": {"beta": 2.0}})
    rollout = compared(actor, reference, conversations(2, 4), signals)
    assert (rollout.lessons["preference"].weights > 0).any()
    config = AlgorithmConfig(**QUIET)
    targets = targets_for(actor, rollout, config, toy_critic(actor), reference)

    def loss():
        return actor_loss(actor, rollout, targets, config, reference.decoder.head, signals=signals)[0].loss

    actor.zero_grad()
    loss().backward()
    generator = torch.Generator().manual_seed(0)
    for group, named in actor.group_parameters().items():
        trained = [p for _, p in named if p.grad is not None and p.grad.abs().max() > 0]
        assert trained, group
        p = trained[int(torch.randint(len(trained), (1,), generator=generator))]
        at = int(p.grad.abs().flatten().multinomial(1, generator=generator))
        assert slope(loss, p, at) == pytest.approx(float(p.grad.flatten()[at]), rel=2e-4, abs=1e-8), group


def pairs_of(rollout):
    """Texts of the pair of each turn and row that has one."""
    lesson = rollout.lessons["preference"]
    found = {}
    for number, row in torch.nonzero(lesson.weights).tolist():
        items = zip(lesson.tokens.ids[number, row], lesson.answer[number, row], strict=True)
        found[number, row] = [CODEC.decode(ids[answer].tolist()) for ids, answer in items if answer.any()]
    return found


def test_rivals_are_values_of_others_in_the_same_sentence():
    chosen = conversations(12, 4)
    rollout = taught(small(), chosen, signals_of(preference={"coefficient": 1, "options": {"pairs": ["rivals"]}}))
    grid, found = rollout.turn_grid(), pairs_of(rollout)
    assert found.keys() == {(n, r) for n, row in enumerate(grid) for r, turn in enumerate(row) if turn is not None and turn.asking}
    rivals = 0
    for (number, row), (accepted, rejected) in found.items():
        turn, told = grid[number][row], rollout.told[number][row]
        [(key, value)] = turn.expected.items()
        wrong = rejected.split()[-1]
        assert accepted == turn.reference
        assert rejected == turn.reference.replace(value, wrong)
        assert wrong != value
        others = {each for other, each in told.items() if other != key} - {value}
        assert not others or wrong in others
        rivals += bool(others)
    assert rivals


def test_groups_give_their_best_and_worst_answer():
    model = small()
    rollout = taught(model, conversations(3, 3), signals_of(preference={"coefficient": 1, "options": {"pairs": ["group"]}}), group_size=4)
    found, grid = pairs_of(rollout), rollout.turn_grid()
    assert found
    for (number, row), (accepted, rejected) in found.items():
        group = range(row // 4 * 4, row // 4 * 4 + 4)
        rewards = {at: float(rollout.rewards[number, at]) for at in group}
        assert rewards[row] == max(rewards.values())
        assert accepted == grid[number][row].answer
        assert rejected == grid[number][min(rewards, key=rewards.get)].answer


def test_without_a_difference_the_loss_is_that_of_a_coin():
    gains = torch.zeros(3, 2, 2)
    assert torch.allclose(dmpo(gains, torch.ones(3, 2, 2, dtype=torch.bool), 0.1), torch.full((3, 2), math.log(2)))


def test_dmpo_plays_no_rollouts_and_writes_accepted_answers(tmp_path):
    class Columns(ToySource):
        def take(self, **given):
            return with_columns(super().take(**given), accepted="bob has dog", rejected="ok")

    trainer = trainer_in(tmp_path, source=Columns(), algorithm={"name": "dmpo"})
    assert {name: each.coefficient for name, each in trainer.config.signals.items()} == {"preference": 1.0}
    before, seen = weights(trainer.model), []
    trainer.callbacks = (Recorder(seen),)
    trainer.train()
    assert not same(before, weights(trainer.model))
    for rollout in seen:
        assert {CODEC.decode(ids[answer].tolist()) for ids, answer in zip(*_flat(rollout), strict=True)} == {"bob has dog"}
    first, second = lines(trainer)
    assert first["signal/preference"] == pytest.approx(math.log(2), rel=1e-4)
    assert second["signal/preference"] != first["signal/preference"]
    assert first["sampler_gap"] == 0


def _flat(rollout):
    return rollout.turns.ids.flatten(0, 1), rollout.answer.flatten(0, 1)


class Recorder:
    """Keeps the rollouts of a training."""

    def __init__(self, seen):
        self.seen = seen

    def on_rollout(self, rollout):
        self.seen.append(rollout)

    def __getattr__(self, name):
        return lambda *_: None


def test_users_who_react_cannot_be_played_without_rollouts(tmp_path):
    with pytest.raises(ConfigError, match="the user of scenario 'e0-2' reacts"):
        trainer_in(tmp_path, source=EchoSource(), algorithm={"name": "dmpo"}, signals={"reward": 1})
    with pytest.raises(ConfigError, match="the user of scenario 'e0-2' reacts"):
        with_accepted(EchoSource().take(steps=2, strategy="multi-step", start=0, count=1))


def test_the_best_of_a_group_is_imitated_where_it_is_good_enough():
    rewards = torch.tensor([[1.0, 8.0, 8.0, 3.0, 4.0, 2.0], [9.0, 9.0, 0.0, 7.0, 6.0, 10.0]])
    valid = torch.ones_like(rewards, dtype=torch.bool)
    valid[1, 5] = False
    found = best_of_group(rewards, valid, torch.tensor([0, 0, 0, 1, 1, 1]), 5.0)
    assert found.tolist() == [[0, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0]]


def test_expert_iteration_trains(tmp_path):
    trainer = trainer_in(tmp_path, algorithm={"name": "expert", "best_above": 1.0}, episodes=8)
    before = weights(trainer.model)
    trainer.train()
    assert not same(before, weights(trainer.model))
