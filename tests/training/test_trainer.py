"""The trainer: what a stage trains and freezes, what it collects from, and that a run can be stopped and gone on with."""

import copy
import importlib.machinery
import importlib.util
import json
import sys
import types
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from rxrl.algorithms import LossResult
from rxrl.envs import ConversationVectorEnv
from rxrl.errors import CheckpointError, ConfigError, ModelError, TrainingError
from rxrl.manifest import MANIFEST_FILE, write_manifest
from rxrl.models import ReactiveTransformer
from rxrl.runs.checkpoints import STATE_FILE, numbered
from rxrl.training import learner as learner_module
from rxrl.training.callbacks import Callback
from rxrl.training.episodes import split_count
from rxrl.types import Score
from tests.training.toy import ToySource, conversations, lines, same, tiny_model, trainer_in, weights

ALL_ON = {
    "entropy": 0.05,
    "kl": 0.1,
    "balance": 0.1,
    "memory_difference": 0.1,
    "memory_cosine": 0.1,
    "consistency": 0.1,
    "value_clip": 1.0,
}


class EachIteration(Callback):
    def __init__(self, do):
        self.on_iteration = do


def metrics(trainer):
    return (trainer.folder / "metrics.jsonl").read_text()


@pytest.mark.parametrize("name", ["ppo", "impo"])
@pytest.mark.parametrize("advantage", ["gae", "reward-value"])
def test_an_iteration_runs_with_every_coefficient_on(name, advantage, tmp_path):
    algorithm = {"name": name, "advantage": advantage, "epochs": 2, "minibatches": 3, "temperature": 0.9, **ALL_ON}
    trainer = trainer_in(tmp_path, [{"steps": 3, "iterations": 1}], algorithm=algorithm)
    before, reference = weights(trainer.model), weights(trainer.learner.reference)
    trainer.train()
    [line] = lines(trainer)
    assert not same(weights(trainer.model), before)
    assert same(weights(trainer.learner.reference), reference)
    assert same(reference, before)
    assert line["sampler_gap"] < 1e-4
    assert line["epochs"] == 2
    assert {"kl", "entropy", "balance", "value_loss", "explained_variance", "grad_norm", "retention"} <= line.keys()
    assert ({"memory_change", "consistency"} <= line.keys()) == (name == "impo")


def test_ratio_is_1_in_the_first_pass_and_is_not_later(tmp_path):
    first = trainer_in(tmp_path / "one", [{"steps": 2, "iterations": 1}], algorithm={"epochs": 1})
    first.train()
    assert lines(first)[0]["ratio_deviation"] == 0
    assert lines(first)[0]["approx_kl"] == 0
    second = trainer_in(tmp_path / "two", [{"steps": 2, "iterations": 1}], algorithm={"epochs": 3})
    second.train()
    assert lines(second)[0]["ratio_deviation"] > 0


def test_old_log_probabilities_of_every_minibatch_are_those_of_unchanged_weights(tmp_path, monkeypatch):
    """Those of the second epoch, by when all are known, are as each pass of the first computes them."""
    from rxrl.training import learner
    from rxrl.training.replay import policy_log_probs
    from rxrl.training.update import actor_loss, minibatches

    def recording(model, played, targets, *arguments):
        seen.append(targets.old_log_probs)
        return actor_loss(model, played, targets, *arguments)

    seen = []
    monkeypatch.setattr(learner, "actor_loss", recording)
    trainer = trainer_in(tmp_path, [{"steps": 3, "iterations": 1}], algorithm={"minibatches": 3, "epochs": 2})
    stage, algorithm = trainer.scheduler.stage, trainer.begin(trainer.scheduler.stage)
    rollout = trainer.collect(stage, algorithm)
    start = copy.deepcopy(trainer.model)
    targets, _ = trainer.learner.estimate(rollout, algorithm)
    trainer.learner.update(rollout, targets, algorithm)
    assert not same(weights(start), weights(trainer.model))
    first, second = (list(minibatches(rollout.batch, 3, trainer.config.seed, "minibatch", 0, epoch)) for epoch in (0, 1))
    old = torch.zeros_like(rollout.sampled_log_probs)
    for rows, found in zip(second, seen[3:], strict=True):
        old[:, rows] = found
    for rows in first:
        assert torch.equal(old[:, rows], policy_log_probs(start, rollout.rows(rows), algorithm))
    assert targets.old_log_probs[:, first[0]].eq(0).all()


def test_updates_stop_between_epochs_where_the_policy_has_moved_too_far(tmp_path):
    algorithm = {"epochs": 4, "minibatches": 2}
    for bound, expected in ((1e-12, 1), (1e9, 4)):
        trainer = trainer_in(tmp_path / str(expected), [{"steps": 2, "iterations": 1}], algorithm=algorithm | {"target_kl": bound})
        trainer.train()
        assert lines(trainer)[0]["epochs"] == expected


@pytest.mark.parametrize("trained", [["memory_attention"], ["encoder", "decoder_memory", "critic"], ["critic"]])
def test_frozen_groups_stay_bit_for_bit(trained, tmp_path):
    """Also after they were trained before, so that there is momentum and weight decay that could move them."""
    stages = [{"steps": 2, "iterations": 1, "name": "all"}, {"steps": 2, "iterations": 2, "name": "some", "train": trained}]
    moments = []
    often = {"every": 1, "conversations": 2}
    trainer = trainer_in(tmp_path, stages, evaluation=often, callbacks=[EachIteration(lambda progress: moments.append(snapshot()))])

    def snapshot():
        groups = trainer.learner.groups | {"critic": list(trainer.learner.critic.named_parameters())}
        return {group: {name: p.detach().clone() for name, p in named} for group, named in groups.items()}

    trainer.train()
    after_first, *_, after_last = moments
    assert len(moments) == 3
    for group in after_first:
        assert same(after_first[group], after_last[group]) == (group not in trained), group


def test_stages_have_their_own_learning_rates(tmp_path):
    stages = [{"steps": 1, "iterations": 1, "train": ["encoder", "critic"], "learning_rates": {"encoder": 0.5, "critic": 0.25}}]
    trainer = trainer_in(tmp_path, stages)
    trainer.begin(trainer.scheduler.stage)
    rates = {part["name"]: part["lr"] for part in trainer.learner.optimizer.param_groups}
    assert rates["encoder"] == 0.5
    assert rates["decoder"] == 0.01
    assert {part["lr"] for part in trainer.learner.critic_optimizer.param_groups} == {0.25 * 1e-3}


class BonusEnv(ConversationVectorEnv):
    """A user's environment with its own reward and a note of how often it was stepped."""

    stepped = 0

    def score(self, turns):
        return [Score(7.0, {"mine": 7.0}) for _ in turns]

    def step(self, actions):
        BonusEnv.stepped += 1
        return super().step(actions)


def test_a_subclass_of_the_environment_trains_unmodified(tmp_path):
    BonusEnv.stepped = 0
    trainer = trainer_in(tmp_path, [{"steps": 3, "iterations": 2}], env=BonusEnv)
    trainer.train()
    assert all(line["reward"] == 7.0 and line["reward/mine"] == 7.0 for line in lines(trainer))
    # Two iterations of three turns, and an evaluation before and after.
    assert BonusEnv.stepped == 12


def test_teacher_forcing_reaches_the_environment_and_evaluation_never_uses_it(tmp_path):
    made = []

    def factory(*arguments, **options):
        made.append(options["teacher_forcing"])
        return ConversationVectorEnv(*arguments, **options)

    trainer_in(tmp_path, [{"steps": 2, "iterations": 2, "teacher_forcing": True}], env=factory).train()
    assert made == [False, True, False]


def test_an_environment_that_cannot_be_made_is_named(tmp_path):
    def careless(conversations, memory):
        return None

    for env, message in ((careless, "careless' cannot be made, called with .*TypeError"), (lambda *a, **o: None, "gave a NoneType")):
        with pytest.raises(ConfigError, match=message):
            trainer_in(tmp_path, env=env).train()


def test_one_seed_gives_the_same_bytes_whatever_the_global_generator_did(tmp_path):
    stages = [{"steps": 2, "iterations": 2, "reset_ratio": 0.5}, {"steps": 3, "iterations": 2, "earlier_share": 0.5}]
    options = {"algorithm": {"name": "impo", "minibatches": 2}, "evaluation": {"every": 1, "conversations": 2}}
    runs = []
    for disturbance, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(disturbance)
        runs.append(trainer_in(tmp_path / str(len(runs)), stages, seed=seed, **options))
        runs[-1].train()
    one, two, other = runs
    assert metrics(one) == metrics(two)
    assert same(weights(one.model), weights(two.model))
    assert metrics(other) != metrics(one)


class Stop(Exception):
    """Ends a run from outside."""


@pytest.mark.parametrize("interrupted_at", [3, 4])
def test_a_resumed_run_is_bit_for_bit_the_one_that_was_never_stopped(interrupted_at, tmp_path):
    stages = [{"steps": 2, "iterations": 3, "reset_ratio": 0.3}, {"steps": 3, "iterations": 3, "earlier_share": 0.5, "reset_ratio": 0.3}]
    options = {
        "algorithm": {"name": "impo", "minibatches": 2, "epochs": 2},
        "evaluation": {"every": 3, "conversations": 2},
        "checkpoint_every": 2,
        "optimizer": {"learning_rate": 0.02, "learning_rates": {"encoder": 0.01}},
    }
    whole = trainer_in(tmp_path / "whole", stages, **options)
    whole.train()

    def stop(progress):
        if progress.iteration == interrupted_at:
            raise Stop

    cut = trainer_in(tmp_path / "cut", stages, callbacks=[EachIteration(stop)], **options)
    with pytest.raises(Stop):
        cut.train()
    # Nothing of the first process is left; a model that has been trained otherwise must not leak into the reference.
    resumed = trainer_in(tmp_path / "cut", stages, model=tiny_model(seed=5), **options)
    assert resumed.resume()
    assert resumed.state.iteration == 2
    assert metrics(resumed).count("\n") == 2
    resumed.train()
    assert metrics(resumed) == metrics(whole)
    assert same(weights(resumed.model), weights(whole.model))
    assert same(weights(resumed.learner.critic), weights(whole.learner.critic))
    assert same(weights(resumed.learner.reference), weights(whole.learner.reference))
    assert resumed.state.stages == whole.state.stages


def test_resuming_needs_the_same_configuration_and_curriculum(tmp_path):
    assert not trainer_in(tmp_path).resume()
    trainer_in(tmp_path).train()
    with pytest.raises(CheckpointError, match="another configuration"):
        trainer_in(tmp_path, episodes=5).resume()
    with pytest.raises(CheckpointError, match="another curriculum"):
        trainer_in(tmp_path, [{"steps": 2, "iterations": 3}]).resume()


def test_only_the_last_checkpoints_are_kept_and_they_are_whole(tmp_path):
    trainer = trainer_in(tmp_path, [{"steps": 1, "iterations": 5}], checkpoint_every=1, keep_checkpoints=2)
    trainer.train()
    found = numbered(tmp_path / "checkpoints")
    assert [path.name for path in found] == ["step-000004", "step-000005"]
    assert same(weights(ReactiveTransformer.from_pretrained(found[-1])), weights(trainer.model))


def test_carried_memory_is_that_of_the_last_rollout_and_ends_with_the_stage(tmp_path):
    first = {"steps": 2, "iterations": 4, "reset_ratio": 0.0, "reset_from_iteration": 2}
    stages = [first, {"steps": 3, "iterations": 1, "reset_ratio": 0.0}]
    trainer = trainer_in(tmp_path, stages, evaluation={"every": 4, "conversations": 2})
    seen, inner = [], trainer.collect

    def collecting(stage, algorithm):
        left = trainer.left
        rollout = inner(stage, algorithm)
        seen.append((left, rollout))
        return rollout

    trainer.collect = collecting
    trainer.train()
    carried = [bool((rollout.carried >= 0).all()) for _, rollout in seen]
    assert carried == [False, False, True, True, False]
    for (_, before), (left, rollout) in pairwise(seen[1:4]):
        assert torch.equal(left, before.left)
        assert torch.equal(rollout.stm0, before.left[:, rollout.carried])
    assert seen[4][0] is None


def test_the_reference_carries_its_own_memory_from_rollout_to_rollout(tmp_path, monkeypatch):
    given, ended, inner = [], [], learner_module.reference_pass

    def passing(reference, rollout, left=None):
        given.append(left)
        hidden, last = inner(reference, rollout, left)
        ended.append(last)
        return hidden, last

    monkeypatch.setattr(learner_module, "reference_pass", passing)
    stages = [{"steps": 2, "iterations": 2, "reset_ratio": 0.0}, {"steps": 3, "iterations": 1, "reset_ratio": 0.0}]
    trainer_in(tmp_path, stages).train()
    assert given[0] is None
    assert given[1] is ended[0]
    assert given[2] is None


def test_conversations_of_earlier_stages_are_mixed_in(tmp_path):
    stages = [{"steps": 1, "iterations": 1}, {"steps": 3, "iterations": 30, "earlier_share": 0.4}]
    trainer = trainer_in(tmp_path, stages, episodes=8)
    trainer.scheduler.stage_index = 1
    lengths = []
    for iteration in range(30):
        mixture = trainer.episodes.mixture(1, 8, iteration)
        assert sum(count for _, count in mixture) == 8
        lengths += [c.steps for c in trainer.episodes.conversations(1, 8, iteration, trainer.state.positions)]
    assert lengths.count(1) / len(lengths) == pytest.approx(0.4, abs=0.03)
    assert set(lengths) == {1, 3}
    assert trainer.state.positions == {"1:multi-step": lengths.count(1), "3:multi-step": lengths.count(3)}


def test_a_mix_of_strategies_plays_each_conversation_by_its_own(tmp_path):
    trainer = trainer_in(tmp_path, [{"steps": 2, "iterations": 1, "strategy": {"multi-step": 1, "long-range": 1}}], episodes=6)
    rollout = trainer.collect(trainer.scheduler.stage, trainer.begin(trainer.scheduler.stage))
    played = [turn.strategy for turn in rollout.scored_turns if turn.index == 1]
    assert sorted(played) == ["long-range"] * 3 + ["multi-step"] * 3


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_counts_are_split_in_proportion(count):
    shares = [0.8, 0.05, 0.15]
    parts = [split_count(count, shares, 0, "split", draw) for draw in range(400)]
    assert all(sum(part) == count and min(part) >= 0 for part in parts)
    for index, share in enumerate(shares):
        assert sum(part[index] for part in parts) / 400 == pytest.approx(share * count, abs=0.1)
    assert split_count(10, [1.0], 0, "alone") == [10]


def test_all_conversations_are_used_and_none_twice(tmp_path):
    trainer = trainer_in(tmp_path, [{"steps": 2, "iterations": 3}], episodes=5, algorithm={"minibatches": 2})
    seen, inner = [], trainer.episodes.source.take

    def taking(**given):
        found = inner(**given)
        seen.append((given["start"], given["count"]))
        return found

    trainer.episodes.source.take = taking
    trainer.train()
    taken = [start for start, count in seen if count == 5]
    assert taken == [0, 5, 10]


@pytest.mark.parametrize("advantage", ["reward-value", "gae"])
def test_the_critic_starts_from_the_mean_of_what_it_will_learn(advantage, tmp_path):
    """Every reward is 7: so is the mean of the rewards ahead, however many turns are."""
    trainer = trainer_in(tmp_path, env=BonusEnv, algorithm={"advantage": advantage})
    algorithm = trainer.begin(trainer.scheduler.stage)
    trainer.learner.estimate(trainer.collect(trainer.scheduler.stage, algorithm), algorithm)
    assert trainer.learner.critic.shift.item() == pytest.approx(7.0)


def test_a_query_that_fills_the_length_limit_is_cut_and_answered(tmp_path):
    class LongQueries(ToySource):
        def take(self, **given):
            long = " ".join(["and"] * 60)
            return [replace(c, follow_ups=tuple(replace(i, query=long) for i in c.follow_ups)) for c in super().take(**given)]

    trainer = trainer_in(tmp_path)
    trainer.episodes.source = LongQueries()
    rollout = trainer.collect(trainer.scheduler.stage, trainer.begin(trainer.scheduler.stage))
    assert rollout.turns.ids.shape[2] <= trainer.model.config.max_length
    assert rollout.answer.any(-1).equal(rollout.real)


def test_a_loss_that_is_not_a_number_ends_the_run_with_a_sentence(tmp_path):
    trainer = trainer_in(tmp_path, model=tiny_model())
    with pytest.raises(TrainingError, match="nan: lower the learning rate"):
        trainer.learner._backward(LossResult(torch.tensor(float("nan"), requires_grad=True), {}))


def test_wrong_algorithm_options_of_a_stage_name_the_stage(tmp_path):
    with pytest.raises(ConfigError, match=r"stage 'first'.*clip"):
        trainer_in(tmp_path, [{"steps": 1, "name": "first", "algorithm": {"cliq": 0.1}}])


def test_a_batch_of_one_trains(tmp_path):
    trainer = trainer_in(tmp_path, [{"steps": 1, "iterations": 1}], episodes=1, algorithm={"minibatches": 4, "name": "impo"})
    trainer.train()
    assert lines(trainer)[0]["iteration"] == 1


def test_evaluation_plays_the_steps_of_the_stage_and_every_conversation(tmp_path):
    trainer = trainer_in(tmp_path, [{"steps": 5, "iterations": 1}], evaluation={"every": 1, "conversations": 7})
    found = trainer.evaluate(trainer.scheduler.stage)
    assert {record.turn.index for record in found.records} == {1, 2, 3, 4, 5}
    assert {record.turn.conversation_id for record in found.records} == {c.id for c in conversations(7, 5)}


def test_a_new_run_keeps_out_of_the_folder_of_another(tmp_path):
    trainer_in(tmp_path).train()
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir()), (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(
        CheckpointError,
        match=r"holds the checkpoints of a run, but this one starts anew: go on with it \(--resume, in Python `resume\(\)`\)",
    ):
        trainer_in(tmp_path).train()
    assert before == (sorted(path.name for path in (tmp_path / "checkpoints").iterdir()), (tmp_path / "metrics.jsonl").read_bytes())
    again = trainer_in(tmp_path)
    assert again.resume()
    again.train()


def test_the_attention_of_a_run_is_that_of_its_model_reference_and_critic(tmp_path, monkeypatch):
    with monkeypatch.context() as absent:
        absent.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ModelError, match="flash-attn, which is not installed"):
            trainer_in(tmp_path, attention_backend="flash")
    monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))
    sys.modules["flash_attn"].__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
    for given, expected in ((None, "auto"), ("sdpa", "sdpa"), ("flash", "flash")):
        learner = trainer_in(tmp_path, attention_backend=given).learner
        parts = [each for part in (learner.model, learner.reference, learner.critic) for each in part.modules()]
        assert {each.backend for each in parts if hasattr(each, "backend")} == {expected}


@pytest.mark.parametrize(
    ("part", "value"),
    [("log", {"metrics.jsonl": [1]}), ("best", ["name"]), ("scheduler", {"history": "x"}), ("alarms", 3), ("trainer", {"iteration": []})],
)
def test_a_state_of_wrong_types_is_refused_in_one_sentence(part, value, tmp_path):
    trainer_in(tmp_path, checkpoint_every=1).train()
    newest = numbered(tmp_path / "checkpoints")[-1]
    state = json.loads((newest / STATE_FILE).read_text())
    state[part] = state[part] | value if isinstance(value, dict) else value
    (newest / STATE_FILE).write_text(json.dumps(state))
    write_manifest(newest, [file.name for file in newest.iterdir() if file.name != MANIFEST_FILE])
    with pytest.raises(CheckpointError, match=rf"{newest.name}.*use an older checkpoint") as caught:
        trainer_in(tmp_path, checkpoint_every=1).resume()
    assert "\n" not in str(caught.value)
