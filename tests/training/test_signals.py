"""Signals: each is the loss that it says it is, over the one memory that own answers have written."""

import copy
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional as F

from rxrl.algorithms import AlgorithmConfig
from rxrl.config import parse_config
from rxrl.data.batches import episode_batch
from rxrl.errors import ConfigError
from rxrl.models.trajectory import answer_hidden
from rxrl.stages.losses import smat_loss
from rxrl.training.config import MRLConfig
from rxrl.training.gradients import SignalGradients
from rxrl.training.lessons import Lesson
from rxrl.training.replay import trajectory
from rxrl.training.rules import check_signals
from rxrl.training.signals import reference, teacher
from rxrl.training.signals.imitation import ImitationOptions, KeptEpisodes, imitation_losses
from rxrl.training.signals.questions import fitting, phrasings, with_value
from rxrl.training.signals.registry import BUILT_IN
from rxrl.training.signals.signal import SignalInputs
from rxrl.training.token_statistics import LazyLogits
from rxrl.training.update import actor_loss, totals_of
from rxrl.types import EOS, SPECIAL_TOKENS, Conversation, Interaction, TokenBatch, interaction_ids, prompt_ids
from scripts.learning import CODEC
from tests.training.lessons import signal_step, signals_of, taught, with_lessons
from tests.training.steps import moved
from tests.training.test_memory_credit import slope
from tests.training.toy import (
    EchoSource,
    conversation,
    conversations,
    lines,
    lively,
    play,
    same,
    targets_for,
    tiny_model,
    toy_critic,
    trainer_in,
    weights,
)

TEACHING = ["reference", "probes", "teacher", "keep"]
"""Signals that are learned from besides the reward."""
PAGE = (Path(__file__).parents[2] / "docs/guides/signals.md").read_text(encoding="utf-8")
QUIET = {"gradient_growth": None, "entropy": 0.0, "kl": 0.0, "balance": 0.0, "memory_difference": 0.0}


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


def test_a_turn_may_say_that_its_answer_is_not_taught():
    model, signals, number = small(), signals_of(reference=1.0), 1
    chosen = conversations(3, 3)
    silent = [
        replace(each, follow_ups=tuple(replace(turn, extra={"taught": i != number}) for i, turn in enumerate(each.follow_ups)))
        for each in chosen
    ]
    plain, rollout = (taught(model, each, signals) for each in (chosen, silent))
    counts = plain.lessons["reference"].weights.clone()
    assert (counts > 0).all()
    counts[number] = 0
    assert torch.equal(rollout.lessons["reference"].weights, counts)
    for part in ("rewards", "scored"):
        assert torch.equal(getattr(rollout, part), getattr(plain, part)), "rewards see the turn all the same"


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


def test_probes_are_asked_of_the_memory_after_each_write():
    """And of facts in force: none is asked before it is told, none with a value that was overwritten."""
    model, chosen = small(), conversations(4, (4, 2))
    signals = signals_of(probes={"coefficient": 1.0, "options": {"per_write": 2}})
    rollout, losses = taught(model, chosen, signals), []
    tokens = rollout.lessons["probes"].tokens
    stms = trajectory(model, rollout)
    for row, each in enumerate(chosen):
        told = {}
        for turn in range(each.steps):
            told |= dict(each.interactions[turn].facts)
            asked = [CODEC.decode(ids[mask].tolist()) for ids, mask in zip(tokens.ids[turn, row], tokens.mask[turn, row], strict=True)]
            assert len([text for text in asked if text]) == min(2, len(told))
            for text in filter(None, asked):
                person, _, answer = text.partition(" ? ")
                assert answer in (told[f"{person}.pet"], f"{person} has {told[f'{person}.pet']}")
                losses.append(surprise(model, stms[:, turn, row : row + 1], CODEC.encode(f"{person} ?"), CODEC.encode(answer)))
    found = loss_of(model, rollout, AlgorithmConfig(**QUIET), signals)
    assert torch.allclose(found.loss, torch.cat(losses).mean(), rtol=1e-10)


def test_memory_is_to_stay_where_nothing_is_told_and_only_there():
    """Tell, ask, small talk, overwrite, ask: the writes of the second, third and fifth interaction told nothing."""
    model, signals = small(), signals_of(keep=1.0)
    tell, *_, ask = conversation(0, 4).interactions
    other = replace(tell, facts=tuple((key, "another") for key, _ in tell.facts))
    chat = replace(ask, asks=(), kind="distract")
    told = Conversation("told", tell, (ask, chat, other, ask, ask))
    silent = Conversation("silent", chat, (chat, chat))
    rollout = taught(model, [told, silent], signals)
    weights = rollout.lessons["keep"].weights
    assert weights.T.tolist() == [[0, 1, 1, 0, 1], [0, 0, 0, 0, 0]]
    stms = trajectory(model, rollout)
    angles = [1 - F.cosine_similarity(stms[:, turn - 1, 0], stms[:, turn, 0], dim=-1).mean() for turn in (1, 2, 4)]
    found = loss_of(model, rollout, AlgorithmConfig(**QUIET), signals)
    assert torch.allclose(found.loss, torch.stack(angles).mean(), rtol=1e-10)
    assert found.loss > 0.001


def test_what_teaches_never_enters_an_observation():
    """Answers, memory and rewards of a rollout are those of a rollout without lessons, bit for bit."""
    model, chosen = small(), conversations(4, 3)
    rollout = taught(model, chosen, signals_of(reference=1, probes=1, teacher=1))
    plain = play(model, chosen)
    for one, two in ((rollout.turns, plain.turns), (rollout.writes, plain.writes), (rollout.critic_tokens, plain.critic_tokens)):
        assert torch.equal(one.ids, two.ids)
    assert torch.equal(rollout.rewards, plain.rewards)
    assert torch.equal(rollout.left, plain.left)
    assert not plain.lessons


def test_the_teacher_reads_what_holds_the_answer_uncompressed():
    model, chosen = small(), conversations(4, 4)
    signals = signals_of(teacher=1.0)
    rollout, losses = taught(model, chosen, signals), []
    stms = trajectory(model, rollout)
    for number, row in enumerate(rollout.turn_grid()):
        for at, turn in enumerate(row):
            if not turn.asking:
                continue
            read = [torch.tensor([interaction_ids(each.query_ids, each.answer_ids)]) for each in turn.saved]
            memory = torch.cat([model.encode(ids, torch.ones_like(ids, dtype=torch.bool)) for ids in read], dim=2)
            answer = rollout.turns.ids[number, at][rollout.answer[number, at]].tolist()
            own, theirs = (_distributions(model, stm, turn.query_ids, answer) for stm in (stms[:, number, at : at + 1], memory))
            losses.append((own.exp() * (own - theirs)).nan_to_num().sum(-1))
    found = loss_of(model, rollout, AlgorithmConfig(**QUIET), signals)
    assert torch.allclose(found.loss, torch.cat(losses).mean(), rtol=1e-9)
    start = replace(signals_of(teacher={"coefficient": 1.0, "options": {"by": "start"}}), start=small(7))
    frozen = loss_of(model, with_lessons(rollout, chosen, start, model), AlgorithmConfig(**QUIET), start)
    assert not torch.allclose(frozen.loss, found.loss, rtol=1e-3)
    wrong = signals_of(teacher={"coefficient": 1.0, "options": {"context": "other"}})
    other = loss_of(model, with_lessons(rollout, chosen, wrong, model), AlgorithmConfig(**QUIET), wrong)
    assert not torch.allclose(other.loss, found.loss, rtol=1e-3)


def _distributions(model, stm, query, answer):
    """Log-probabilities over the vocabulary at each token of an answer."""
    ids = torch.tensor([[*prompt_ids(query), *answer]])
    hidden = model.decode_hidden(ids, torch.ones_like(ids, dtype=torch.bool), stm)[0, len(prompt_ids(query)) - 1 : -1]
    logits = LazyLogits.of(model.decoder.head, hidden)
    return F.linear(logits.hidden, logits.weight, logits.bias).log_softmax(-1)


def test_references_that_the_model_said_itself_take_its_own_pass():
    model, config = small(), AlgorithmConfig()
    rollout = play(model, conversations(4, (3, 1, 4, 2)))
    ids, even = rollout.turns.ids.clone(), torch.arange(4) % 2 == 0
    ids[:, even] = ids[:, even].where(~rollout.answer[:, even] | (ids[:, even] == EOS), len(SPECIAL_TOKENS))
    tokens = TokenBatch(F.pad(ids, (0, 3)).unsqueeze(2), F.pad(rollout.turns.mask, (0, 3)).unsqueeze(2))
    lesson = Lesson(tokens, F.pad(rollout.answer, (0, 3)).unsqueeze(2), rollout.real.double())
    memory = trajectory(model, rollout, config)
    hidden = answer_hidden(model, memory, rollout.turns, rollout.answer)
    inputs = SignalInputs(model, memory, memory, rollout, hidden, lesson)
    assert torch.equal(reference.said_themselves(rollout, lesson)[:, ~even], rollout.real[:, ~even])
    assert not reference.said_themselves(rollout, lesson)[:, even].all(0).any()
    found, expected = reference.loss(inputs), -inputs.log_probs().sum(-1)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    parameters = list(model.parameters())
    slopes = [torch.autograd.grad(each.sum(), parameters, retain_graph=True, allow_unused=True) for each in (found, expected)]
    for one, other in zip(*slopes, strict=True):
        assert (one is None) == (other is None)
        assert one is None or (one - other).abs().max() < 1e-10


def test_a_gate_leaves_turns_that_fail_to_the_reference_and_the_others_to_the_reward():
    model, config = small(), AlgorithmConfig(name="grpo", kl=0.0, balance=0.0, entropy=0.0)
    signals = signals_of(reward=1, reference={"coefficient": 1, "options": {"gate": 5.0}})
    rollout = taught(model, conversations(3, 3), signals, group_size=4)
    means = rollout.rewards.unflatten(1, (3, 4)).mean(2).repeat_interleave(4, dim=1)
    failed = means < 5
    assert 0 < int(failed.sum()) < failed.numel()
    assert torch.equal(rollout.lessons["reference"].weights > 0, failed)
    targets = targets_for(model, rollout, config, toy_critic(model), model)
    found = signal_step(model, rollout, targets, config, model, signals)[0]
    free = replace(rollout, scored=rollout.scored & ~failed, lessons={})
    alone = signal_step(model, free, targets, config, model)[0]
    assert torch.allclose(found.metrics["policy_loss"], alone.metrics["policy_loss"], rtol=1e-12)


@pytest.mark.parametrize("critic", ["text", "shared"])
def test_gradients_of_signals_are_compared(critic, tmp_path):
    trainer = trainer_in(tmp_path, signals={"reward": 1, "reference": 0.5}, compare_signals_every=2, micro_batch=3, critic=critic)
    trainer.train()
    first, second = lines(trainer)
    assert first["signal/reward_grad_norm"] > 0
    assert first["signal/reference_grad_norm"] > 0
    assert -1 <= first["signal/reference_cosine"] <= 1
    assert "signal/reference_cosine" not in second


def test_where_the_critic_alone_learns_no_gradients_of_signals_are_compared(tmp_path):
    trainer = trainer_in(tmp_path, [{"steps": 1, "iterations": 1, "train": ["critic"]}], signals={"reward": 1, "reference": 0.5})
    trainer.train()
    assert lines(trainer)[0]["signal/reference"] > 0
    assert "signal/reference_cosine" not in lines(trainer)[0]


def test_compared_gradients_are_those_of_the_terms():
    model, signals = small(), signals_of(reward=0.5, reference=2.0)
    config = AlgorithmConfig(name="ppo", kl=0.0, balance=0.0)
    rollout = taught(model, conversations(3, 3), signals)
    targets = targets_for(model, rollout, config, toy_critic(model), model)
    parts = {}
    for name, each in (("reward", signals_of(reward=0.5)), ("reference", signals_of(reference=2.0))):
        _, found = signal_step(model, rollout, targets, config, model, each)
        parts[name] = torch.cat([found.get(key, torch.zeros_like(p)).flatten() for key, p in model.named_parameters()])
    gradients = SignalGradients(signals, list(model.parameters()))
    gradients.add(actor_loss(model, rollout, targets, config, model.decoder.head, signals=signals)[0].terms)
    found = gradients.metrics(lambda value: value)
    assert torch.allclose(found["signal/reward_grad_norm"], parts["reward"].norm())
    assert torch.allclose(found["signal/reference_grad_norm"], parts["reference"].norm())
    assert torch.allclose(found["signal/reference_cosine"], torch.cosine_similarity(*parts.values(), dim=0))


@pytest.mark.parametrize(
    ("text", "old", "new", "expected"),
    [
        ("Iris likes brown.", "brown", "red", "Iris likes red."),
        ("Zoe is it.", "zoe", "max", "Max is it."),
        ("She has an owl.", "owl", "cat", "She has a cat."),
        ("A cat!", "cat", "owl", "An owl!"),
        ("red is red", "red", "blue", None),
        ("nothing", "red", "blue", None),
    ],
)
def test_a_sentence_takes_another_value(text, old, new, expected):
    assert with_value(text, old, new) == expected


def test_where_answers_are_missing_a_written_one_serves_with_another_value():
    asked, value = Interaction("pet of mia ?", "mia has a cat .", asks=("mia.pet",)), ("mia.pet", "cat")
    written = Conversation("a", Interaction("mia has cat .", "ok .", facts=(value,)), (asked,))
    missing = replace(written, id="b", follow_ups=(replace(asked, answer=""),))
    assert fitting(phrasings([missing]), *value) == []
    found = phrasings([missing, written])
    assert fitting(found, *value) == [("pet of mia ?", "mia has a cat .")]
    assert fitting(found, "mia.pet", "dog") == [("pet of mia ?", "mia has a dog .")]


@pytest.mark.parametrize("name", TEACHING)
@pytest.mark.parametrize("again", [False, True])
def test_gradients_equal_finite_differences_through_four_turns_of_memory(name, again, monkeypatch):
    model, signals = small(), signals_of(**{name: 0.7})
    config = AlgorithmConfig(**QUIET, checkpoint_turns=again)
    rollout, actor = taught(model, conversations(2, 4), signals), moved(model)
    targets = targets_for(model, rollout, config, toy_critic(model), model)

    def loss():
        return actor_loss(actor, rollout, targets, config, model.decoder.head, signals=signals)[0].loss

    if name == "teacher":
        # What is held constant must not move with the weights.
        held, logits = copy.deepcopy(actor), teacher.teacher_logits
        monkeypatch.setattr(teacher, "teacher_logits", lambda inputs, flags: logits(replace(inputs, model=held), flags))
    signal_step(actor, rollout, targets, config, model, signals)
    generator = torch.Generator().manual_seed(0)
    for group, named in actor.group_parameters().items():
        trained = [p for _, p in named if p.grad is not None and p.grad.abs().max() > 0]
        # `keep` looks at memory alone, so the decoder gets no gradient.
        assert trained or (name == "keep" and group.startswith("decoder")), group
        if not trained:
            continue
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
        ({"reference": {"coefficient": 1, "options": {"bound": 3}}}, "Unknown key 'bound'; known: gate"),
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


def test_small_talk_is_inserted_into_a_share_of_what_is_trained_on_and_not_of_what_is_evaluated(tmp_path):
    def talk(folder, **settings):
        return trainer_in(tmp_path / folder, [{"steps": 2, "iterations": 1}], small_talk=settings)

    trainer = talk("half", share=0.5, turns=3)
    stage = trainer.curriculum.stages[0]
    taken = trainer.episodes.conversations(0, 200, 0, {})
    plain = talk("none").episodes.conversations(0, 200, 0, {})
    extra = [len(each.follow_ups) - len(own.follow_ups) for each, own in zip(taken, plain, strict=True)]
    assert 70 < sum(map(bool, extra)) < 130
    assert {number for number in extra if number} == {1, 2, 3}
    for each, own in zip(taken, plain, strict=True):
        assert [turn for turn in each.follow_ups if turn.kind != "distract"] == list(own.follow_ups)
        assert all(turn.extra == {"taught": False} for turn in each.follow_ups if turn.kind == "distract")
    also = talk("taught", share=0.5, turns=3, taught=True).episodes.conversations(0, 200, 0, {})
    assert not any(turn.extra for each in also for turn in each.follow_ups), (
        "what the data says is taught, and so is small talk where that is asked for"
    )
    assert all(each.steps == 2 for each in trainer.episodes.to_evaluate(stage, 20))
    assert [each.id for each in taken] == [each.id for each in plain]
    again = trainer.episodes.conversations(0, 200, 0, {})
    assert again == taken
    assert trainer.episodes.conversations(0, 200, 1, {}) != taken


def test_the_signal_of_the_page_trains(tmp_path):
    [source] = re.findall(r"```python\n# my_package.py\n(.*?)```", PAGE, re.S)
    (tmp_path / "spreading.py").write_text(source)
    trainer = trainer_in(
        tmp_path / "run", [{"steps": 4, "iterations": 1}], signals={"reward": 1, f"{tmp_path / 'spreading.py'}:spread": 0.5}
    )
    trainer.train()
    assert lines(trainer)[0]["signal/spread"] > 0
    assert lines(trainer)[0]["signal/spread_grad_norm"] > 0


def test_good_episodes_are_imitated_for_some_iterations_with_their_own_memory(tmp_path):
    signals = {"reward": 1, "imitation": {"coefficient": 0.5, "options": {"above": 4.0, "iterations": 2, "most": 3}}}
    trainer = trainer_in(tmp_path, [{"steps": 3, "iterations": 4}], reward=lively, signals=signals, episodes=6, checkpoint_every=2)
    trainer.train()
    losses = [line["signal/imitation"] for line in lines(trainer)]
    assert losses[0] == 0
    assert all(value > 0 for value in losses[1:])
    kept = trainer.learner.kept.share(0, 1)
    assert {each.iteration for each in kept} == {2, 3}
    for each in kept:
        assert each.batch <= 3
        assert ((each.rewards.sum(0) / each.scored.sum(0)) >= 4).all()
    again = trainer_in(tmp_path, [{"steps": 3, "iterations": 4}], reward=lively, signals=signals, episodes=6, checkpoint_every=2)
    assert again.resume(tmp_path / "checkpoints/step-000002", rewind=False)
    again.train()
    assert same(weights(again.model), weights(trainer.model))


def test_imitation_is_the_likelihood_of_kept_answers():
    model, chosen = small(), conversations(3, (4, 2))
    rollout, kept = play(model, chosen), KeptEpisodes()
    kept.take(rollout, ImitationOptions(above=0.0, most=2), list)
    [piece], losses = kept.share(0, 1), []
    best = (rollout.rewards.sum(0) / rollout.scored.sum(0)).topk(2).indices.sort().values
    actor = moved(model)
    stms, grid = trajectory(actor, rollout), rollout.turn_grid()
    for row in best.tolist():
        for number in range(chosen[row].steps):
            ids = rollout.turns.ids[number, row][rollout.answer[number, row]].tolist()
            said = _distributions(actor, stms[:, number, row : row + 1], grid[number][row].query_ids, ids)
            losses.append(-said.gather(1, torch.tensor(ids)[:, None]))
    [found] = imitation_losses(actor, [piece], AlgorithmConfig(), lambda value: value)
    assert torch.allclose(found(), torch.cat(losses).mean(), rtol=1e-9)


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", PAGE, re.S))
def test_the_settings_of_the_page_are_settings(block):
    parse_config(yaml.safe_load(block), MRLConfig)


def test_the_page_names_every_signal_and_option():
    named = set(re.findall(r"^\| `(\w+)`", PAGE, re.M))
    assert named >= set(BUILT_IN)
    listed = PAGE + (Path(__file__).parents[2] / "docs/guides/algorithms/dmpo.md").read_text(encoding="utf-8")
    options = {name for each in BUILT_IN.values() if each.options for name in each.options.model_fields}
    assert all(f"`{name}`" in listed for name in options)
