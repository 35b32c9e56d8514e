"""Signals: each is the loss that it says it is, over the one memory that own answers have written."""

import pytest
import torch
from torch.nn import functional as F

from rxrl.algorithms import AlgorithmConfig
from rxrl.data.batches import episode_batch
from rxrl.errors import ConfigError
from rxrl.stages.losses import smat_loss
from rxrl.training.rules import check_signals
from rxrl.training.update import actor_loss, totals_of
from rxrl.types import EOS, SPECIAL_TOKENS, prompt_ids
from scripts.learning import CODEC
from tests.training.lessons import signal_step, signals_of, taught
from tests.training.steps import moved
from tests.training.test_memory_credit import slope
from tests.training.toy import EchoSource, conversations, lines, same, targets_for, tiny_model, toy_critic, trainer_in, weights

TEACHING = {"reference": 0.5}
"""Signals that are learned from besides the reward."""
QUIET = {"entropy": 0.0, "kl": 0.0, "balance": 0.0, "memory_difference": 0.0}


def small(seed=0, **changes):
    return tiny_model(seed, double=True, **{"layers": 1, "dim": 8} | changes)


def loss_of(model, rollout, config, signals, reference=None):
    reference = reference or model
    targets = targets_for(model, rollout, config, toy_critic(model), reference)
    return actor_loss(model, rollout, targets, config, reference.decoder.head, signals=signals)[0]


def surprise(model, stm, query, answer):
    """-log pi of each token of an answer and of its end, given a memory."""
    prompt = prompt_ids(query)
    ids = torch.tensor([[*prompt, *answer, EOS]])
    logits = model.decode(ids, torch.ones_like(ids, dtype=torch.bool), stm)[0, len(prompt) - 1 : -1]
    logits = logits[:, : model.config.vocab_size].clone()
    logits[:, [token for token in range(7) if token != EOS]] = -torch.inf
    return F.cross_entropy(logits, ids[0, len(prompt) :], reduction="none")


def test_the_reference_is_scored_given_the_memory_that_own_answers_have_written():
    model, chosen, signals = small(), conversations(3, (4, 1, 3)), signals_of(reference=1.0)
    rollout, losses = taught(model, chosen, signals), []
    for row, turns in enumerate(zip(*rollout.turn_grid(), strict=True)):
        stm = rollout.stm0[:, row : row + 1]
        for number, turn in enumerate(turns):
            stm = model.write_memory(stm, rollout.writes.ids[number, row : row + 1], rollout.writes.mask[number, row : row + 1])
            if turn is not None:
                losses.append(surprise(model, stm, turn.query_ids, turn.reference_ids))
    found = loss_of(model, rollout, AlgorithmConfig(**QUIET), signals)
    assert torch.allclose(found.loss, torch.cat(losses).mean(), rtol=1e-10)
    assert torch.equal(found.loss.detach(), found.metrics["signal/reference"])


def test_with_teacher_forced_writes_it_is_the_loss_of_supervised_training():
    model, chosen, signals = small(), conversations(3, 3), signals_of(reference=1.0)
    batch = episode_batch(chosen, CODEC, model.config.max_length)
    with torch.no_grad():
        # SMAT gives special tokens a probability; answers of the policy never hold them.
        model.decoder.head.bias[[token for token in range(len(SPECIAL_TOKENS)) if token != EOS]] = -1e4
    forced, own = (taught(model, chosen, signals, teacher_forcing=flag) for flag in (True, False))
    losses = [loss_of(model, each, AlgorithmConfig(**QUIET), signals).loss for each in (forced, own)]
    supervised = smat_loss(model, forced.stm0, batch, balance_weight=0.0).loss
    assert torch.allclose(losses[0], supervised, rtol=1e-10)
    assert not torch.allclose(losses[1], supervised, rtol=1e-3)


@pytest.mark.parametrize("name", TEACHING)
@pytest.mark.parametrize("again", [False, True])
def test_gradients_equal_finite_differences_through_four_turns_of_memory(name, again):
    model, signals = small(), signals_of(**{name: 0.7})
    config = AlgorithmConfig(**QUIET, checkpoint_turns=again)
    rollout, actor = taught(model, conversations(2, 4), signals), moved(model)
    targets = targets_for(model, rollout, config, toy_critic(model), model)

    def loss():
        return actor_loss(actor, rollout, targets, config, model.decoder.head, signals=signals)[0].loss

    signal_step(actor, rollout, targets, config, model, signals)
    generator = torch.Generator().manual_seed(0)
    for group, named in actor.group_parameters().items():
        trained = [p for _, p in named if p.grad is not None and p.grad.abs().max() > 0]
        assert trained, group
        for pick in torch.randint(len(trained), (2,), generator=generator).tolist():
            p = trained[pick]
            at = int(p.grad.abs().flatten().multinomial(1, generator=generator))
            assert slope(loss, p, at) == pytest.approx(float(p.grad.flatten()[at]), rel=2e-4, abs=1e-8), group


@pytest.mark.parametrize("name", TEACHING)
def test_parts_of_a_minibatch_add_up_and_recomputed_turns_change_nothing(name):
    model, signals = small(), signals_of(reward=1.0, **{name: 0.5})
    rollout, actor = taught(model, conversations(4, (4, 1, 3)), signals), moved(model)
    config = AlgorithmConfig(name="ppo", kl=0.0, balance=0.0)
    targets = targets_for(model, rollout, config, toy_critic(model), model)
    whole, gradients = signal_step(actor, rollout, targets, config, model, signals)
    recomputed = config.model_copy(update={"checkpoint_turns": True})
    totals, sums = totals_of(rollout, config, None, signals), dict.fromkeys(gradients, 0.0)
    for part in (torch.tensor([2]), torch.tensor([0, 3]), torch.tensor([1])):
        actor.zero_grad()
        head = model.decoder.head
        found, _ = actor_loss(actor, rollout.rows(part), targets.rows(part), recomputed, head, False, totals, None, signals)
        found.loss.backward()
        sums = {key: value + dict(actor.named_parameters())[key].grad for key, value in sums.items()}
    assert all(torch.allclose(sums[key], gradients[key], rtol=1e-8, atol=1e-12) for key in gradients)
    again, _ = signal_step(actor, rollout, targets, recomputed, model, signals)
    assert torch.allclose(again.loss, whole.loss, rtol=1e-10)
    assert torch.allclose(again.metrics[f"signal/{name}"], whole.metrics[f"signal/{name}"], rtol=1e-10)


def test_the_loss_is_the_sum_of_the_signals_by_their_coefficients():
    model = small()
    config = AlgorithmConfig(name="ppo", kl=0.0, balance=0.0)
    signals = signals_of(reward=0.5, reference=0.25)
    rollout = taught(model, conversations(3, 3), signals)
    targets = targets_for(model, rollout, config, toy_critic(model), model)
    both, alone = (signal_step(model, rollout, targets, config, model, each)[0] for each in (signals, signals_of(reward=1.0)))
    assert torch.allclose(both.loss, 0.5 * alone.loss + 0.25 * both.metrics["signal/reference"], rtol=1e-12)


def test_the_reward_alone_changes_no_bit(tmp_path):
    settings = {"off": {"signals": {"reward": 1, "reference": 0}}, "default": {}, "on": {"signals": {"reward": 1, "reference": 0.5}}}
    trained = {name: trainer_in(tmp_path / name, **given) for name, given in settings.items()}
    for trainer in trained.values():
        trainer.train()
    assert same(weights(trained["off"].model), weights(trained["default"].model))
    assert not same(weights(trained["on"].model), weights(trained["default"].model))
    assert lines(trained["off"]) == lines(trained["default"])
    assert lines(trained["on"])[0]["signal/reference"] > 0
    assert "signal/reference" not in lines(trained["off"])[0]


def test_a_signal_that_the_data_has_nothing_for_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"'reference' needs reference answers, and scenario 'e0-2' has none"):
        trainer_in(tmp_path, source=EchoSource(), signals={"reward": 1, "reference": 0.5})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"referense": 1}, "Did you mean 'reference'"),
        ({"reward": 0}, "nothing would be learned"),
        ({"reference": -1}, "greater than or equal to 0|at least 0"),
        ({"reference": {"coefficient": 1, "options": {"bound": 3}}}, "has no options"),
    ],
)
def test_wrong_settings_are_refused(given, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        signals_of(**given)


def test_a_stage_has_signals_of_its_own(tmp_path):
    stages = [{"steps": 1, "iterations": 1}, {"steps": 2, "iterations": 1, "signals": {"reference": {"coefficient": 2.0}, "reward": 0.5}}]
    trainer = trainer_in(tmp_path, stages, signals={"reward": 1, "reference": {"coefficient": 0.4, "final": 0.0}})
    first, second = trainer.curriculum.stages
    trainer.learner.prepare(first, 0.5)
    assert trainer.learner.signals.others[0].coefficient == pytest.approx(0.2)
    trainer.learner.prepare(second, 0.5)
    assert (trainer.learner.signals.reward, trainer.learner.signals.others[0].coefficient) == (0.5, 2.0)
    check_signals(trainer.curriculum, trainer.config, trainer.episodes.source)
    with pytest.raises(ConfigError, match="signals of stage 'steps-2'"):
        trainer_in(tmp_path / "wrong", [{"steps": 2, "signals": {"refer": 1}}])
