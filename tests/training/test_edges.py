"""What is rare in a training: equal groups, unscored minibatches, episodes that are cut, other critics, second tries, odd settings."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from accelerate.state import AcceleratorState

from rxrl.algorithms import AlgorithmConfig
from rxrl.curricula import Curriculum
from rxrl.errors import CheckpointError, ConfigError, TrainingError
from rxrl.policies import ModelPolicy
from rxrl.runs.checkpoints import CRITIC_FILE, load_critic, numbered
from rxrl.runs.optim import OptimizerConfig
from rxrl.runs.processes import Processes, Share
from rxrl.training.alarms import AlarmConfig, Alarms
from rxrl.training.config import MRLConfig
from rxrl.training.critics import critic_values, make_critic
from rxrl.training.rollout import collect
from rxrl.training.rules import check_stages
from rxrl.training.state import mean_min_max
from rxrl.training.targets import Targets, advantages_of
from rxrl.training.update import has_advantage
from rxrl.types import TokenBatch, interaction_ids
from tests.algorithms.options import configured
from tests.training import toy
from tests.training.test_alarms import FINE, names
from tests.training.toy import conversation, conversations, lines, make_env, play, recall, tiny_model, toy_critic

trainer_in = partial(toy.trainer_in, evaluation={"every": 100, "conversations": 3}, optimizer={}, checkpoint_every=1)


@pytest.mark.parametrize("per", ["turn", "token"])
def test_a_group_that_earned_the_same_teaches_nothing_whatever_its_tokens_cost(per):
    model = tiny_model()
    rollout = play(model, conversations(2, 2), group_size=2)
    # The second sample of each group is the first one once more.
    rollout = replace(rollout.rows(torch.tensor([0, 0, 2, 2])), group=torch.tensor([0, 0, 1, 1]))
    config = configured(name="grpo", group_size=2, kl_in="reward", advantage_per=per)
    costs = 0.01 * rollout.answer
    values = torch.zeros_like(rollout.rewards)
    advantages, returns = advantages_of(rollout, values, config, penalties=costs)
    assert advantages.eq(0).all()
    assert not has_advantage(rollout, Targets(advantages, returns, values, rollout.sampled_log_probs, None), config)


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_nothing_is_said_of_a_balance_that_does_not_count(micro_batch, tmp_path):
    for coefficient in (0.0, 0.1):
        trainer = trainer_in(tmp_path / str(coefficient), algorithm={"balance": coefficient}, micro_batch=micro_batch)
        trainer.train()
        assert ["balance" in line for line in lines(trainer)] == [coefficient > 0] * 2


def test_a_critic_that_never_learned_is_not_kept(tmp_path):
    first = trainer_in(tmp_path / "first", algorithm={"name": "rloo", "group_size": 2})
    first.train()
    [*_, checkpoint] = numbered(tmp_path / "first" / "checkpoints")
    assert not (checkpoint / CRITIC_FILE).exists()
    again = trainer_in(tmp_path / "again", start=checkpoint)
    fresh = trainer_in(tmp_path / "fresh")
    for trainer in (again, fresh):
        assert not trainer.learner.critic_ready
        trainer.train()
    assert lines(again)[0]["value"] > 0.5
    [*_, trained] = numbered(tmp_path / "again" / "checkpoints")
    assert load_critic(trained, toy_critic(tiny_model()))


def test_a_run_whose_critic_is_gone_does_not_go_on(tmp_path):
    trainer_in(tmp_path).train()
    [*_, checkpoint] = numbered(tmp_path / "checkpoints")
    (checkpoint / CRITIC_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"critic\.safetensors is missing"):
        trainer_in(tmp_path).resume()


def test_a_conversation_that_comes_twice_is_answered_in_two_ways_by_any_number_of_processes():
    model, script = tiny_model(), conversation(3, 3)

    def played(count, share=None, group_size=1):
        env = make_env(model, count * group_size)
        found = collect(env, ModelPolicy(model, 5), [script] * count, seed=1, iteration=0, group_size=group_size, share=share)
        return [found.turns.ids[:, row][found.answer[:, row]].tolist() for row in range(found.batch)]

    one, two = played(2)
    assert one != two
    assert played(1) == [one]
    assert played(2, Share(1, 2, 2)) == [two]
    assert played(2, group_size=2)[2:] == played(2, Share(1, 2, 2), group_size=2)


@pytest.mark.parametrize("kind", ["text", "shared"])
def test_critics_read_more_than_one_interaction_may_be_long(kind):
    model = tiny_model()
    rollout = play(model, conversations(2, 2))
    turns, rows, _ = rollout.critic_tokens.ids.shape
    longer = torch.ones(turns, rows, model.config.max_length + 8, dtype=torch.int64)
    critic = make_critic(kind, model, 1)
    values = critic_values(critic, replace(rollout, critic_tokens=TokenBatch(longer, torch.ones_like(longer, dtype=torch.bool))), model)
    assert values.isfinite().all()


@pytest.mark.parametrize("name", ["impo", "grpo"])
def test_a_reward_that_scores_no_turn_is_said_to(name, tmp_path):
    """The means over scored turns are null, what is over all turns stays a number, and the coefficient that follows the KL rests."""
    algorithm = {"name": name, "minibatches": 2, "memory_cosine": 0.1, "kl": 0.1, "experimental": {"adaptive_kl": 0.1}}
    options = {"folder": tmp_path, "reward": lambda turns: [None] * len(turns), "algorithm": algorithm}
    trainer = trainer_in(**options, alarms={"stop": True, "gate": None}, episodes=8)
    with pytest.raises(TrainingError, match="alarm 'unscored': No turn was scored"):
        trainer.train()
    [line] = lines(trainer)
    nothing = {"reward", "reward_std", "policy_loss", "entropy", "kl", "ratio", "ratio_deviation", "first_ratio_deviation", "approx_kl"}
    nothing |= {"value", "value_loss", "explained_variance"} if name == "impo" else set()
    assert {key for key in nothing if line[key] is not None} == set()
    over_all = {"loss", "grad_norm", "answer_tokens", "balance", "without_advantage"} | ({"memory_change"} if name == "impo" else set())
    assert all(isinstance(line[key], float) for key in over_all)
    assert (line["kl_coefficient"], line["alarms"]) == (0.1, ["unscored"])
    assert trainer.state.kl_coefficient == 0.1
    assert mean_min_max(trainer.state.stage_rewards) == {"min": None, "mean": None, "max": None}


def test_minibatches_without_a_score_do_not_thin_out_metrics(tmp_path):
    def some(turns):
        return [
            None if int(turn.conversation_id[1:].partition("-")[0]) % 2 else score for turn, score in zip(turns, recall(turns), strict=True)
        ]

    trainer = trainer_in(tmp_path, reward=some, algorithm={"minibatches": 4}, optimizer={"learning_rate": 1e-12})
    trainer.train()
    assert all(line["ratio"] == pytest.approx(1, abs=1e-4) for line in lines(trainer))


@pytest.mark.parametrize(
    ("stages", "changes", "processes", "message"),
    [
        (
            [{"steps": 4}, {"steps": 2}],
            {"algorithm": {"experimental": {"burn_in": 2}}},
            1,
            "'steps-2' has 2 steps.*burn_in leaves the first 2 untrained",
        ),
        ([{"steps": 2}, {"steps": 4, "episodes": 2}], {}, 3, "'steps-4': 2 conversations an iteration cannot be shared by 3 processes"),
        ([{"steps": 2}], {"evaluation": {"conversations": 2}}, 3, "2 conversations of an evaluation cannot be shared by 3 processes"),
        ([{"steps": 2}], {"algorithm": {"name": "grpo", "group_size": 5}}, 1, "cannot be played as groups of 5"),
    ],
)
def test_stages_that_cannot_be_trained_are_refused_before_the_first(stages, changes, processes, message):
    with pytest.raises(ConfigError, match=message):
        check_stages(Curriculum.custom(stages), MRLConfig(**{"episodes": 4} | changes), processes)


@pytest.mark.parametrize("settings", [{"betas": (1.0, 0.98)}, {"betas": (0.9, 1.0)}, {"learning_rates": {"encoder": -1.0}}])
def test_optimizers_that_cannot_work_are_refused(settings):
    with pytest.raises(ValueError, match=r"less than 1|greater than or equal to 0"):
        OptimizerConfig(**settings)


def test_target_kl_needs_further_epochs_to_stop():
    with pytest.raises(ValueError, match="set epochs above 1"):
        AlgorithmConfig(target_kl=0.1)
    assert AlgorithmConfig(target_kl=0.1, epochs=2).target_kl == 0.1


def test_precisions_that_need_scaled_losses_are_refused(monkeypatch):
    monkeypatch.setattr("rxrl.runs.processes.Accelerator", lambda mixed_precision: type("A", (), {"mixed_precision": "fp16"})())
    with pytest.raises(ConfigError, match="float32 or bf16, but accelerate is configured for fp16"):
        Processes()
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_stage_begins_with_its_own_coefficient_of_the_kl(tmp_path):
    stages = [{"steps": 1, "iterations": 2}, {"steps": 2, "iterations": 2, "algorithm": {"kl": 5.0}}, {"steps": 3, "iterations": 1}]
    trainer = trainer_in(tmp_path, stages, algorithm={"experimental": {"adaptive_kl": 1e-6, "adaptive_rate": 1.0}, "kl": 0.1})
    trainer.train()
    first, second, third, fourth, fifth = (line["kl_coefficient"] for line in lines(trainer))
    assert (first, third) == (0.1, 5.0)
    assert second != first
    assert fourth != third
    assert fifth != 0.1


def test_a_limit_beyond_the_curriculum_does_not_stretch_the_schedule(tmp_path):
    rates = []
    for limit in (None, 400):
        trainer = trainer_in(tmp_path / str(limit), max_iterations=limit)
        trainer.train()
        assert trainer.total == 2
        rates.append([line["learning_rate"] for line in lines(trainer)])
    assert rates[0] == rates[1]


def test_a_second_try_from_an_older_checkpoint_sets_the_later_ones_aside(tmp_path):
    stages = [{"steps": 1, "iterations": 4}]
    trainer_in(tmp_path, stages, keep_checkpoints=3).train()
    folder = tmp_path / "checkpoints"
    assert [path.name for path in numbered(folder)] == ["step-000002", "step-000003", "step-000004"]
    second = trainer_in(tmp_path, stages, keep_checkpoints=1, max_iterations=3)
    with pytest.raises(CheckpointError, match="another configuration"):
        second.resume(folder / "step-000002")
    again = trainer_in(tmp_path, stages, keep_checkpoints=1)
    assert again.resume(folder / "step-000002")
    assert [path.name for path in numbered(folder)] == ["step-000002"]
    assert {path.name for path in folder.glob("abandoned-step-*")} == {"abandoned-step-000003", "abandoned-step-000004"}
    kept = len([*folder.glob("abandoned-*")])
    again.train()
    assert [path.name for path in numbered(folder)] == ["step-000004"]
    assert trainer_in(tmp_path, stages).resume()
    assert len([*folder.glob("abandoned-*")]) == kept
    assert [line["iteration"] for line in lines(again)] == [1, 2, 3, 4]
    assert trainer_in(tmp_path, stages).resume(folder / "abandoned-step-000003")
    assert (folder / "abandoned-step-000004-2").exists()
    assert (folder / "abandoned-step-000004").exists()


def test_what_earlier_stages_gave_is_no_sign_of_a_gamed_reward():
    alarms = Alarms(AlarmConfig(evaluations=4))
    for stage, form, retention in [("short", 5.0, 0.9)] * 2 + [("long", 7.0, 0.5)] * 4:
        line = FINE | {"stage": stage, "reward/form": form, "retention": retention}
        assert names(alarms.observe(line)) == []
    restored = Alarms(AlarmConfig(evaluations=4))
    restored.load_state_dict(json.loads(json.dumps(alarms.state_dict())))
    assert names(restored.observe(FINE | {"stage": "long", "reward/form": 9.0, "retention": 0.1})) == ["parting reward/form"]


@pytest.mark.parametrize("forced", [False, True])
def test_what_would_have_been_written_after_a_cut_is_what_the_environment_writes(forced):
    model, script = tiny_model(), conversation(3, 3)
    rollout = play(model, [script], max_turns=1, teacher_forcing=forced, max_interaction_tokens=8)
    assert rollout.truncated.all()
    [turn] = rollout.scored_turns
    answer = turn.reference_ids if forced else turn.answer_ids
    room = 8 - 4 - len(turn.query_ids)
    assert rollout.unwritten.rows() == [interaction_ids(turn.query_ids, answer[:room])]
    assert len(rollout.unwritten.rows()[0]) <= 8
