"""Defects that trainers of this kind have had, each with the test that shows that ours does not.

`COVERED` names the tests that stand elsewhere, and one test here looks that they still exist; what no other file shows follows below.
"""

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch

from rxrl.algorithms import AlgorithmConfig
from rxrl.config import parse_config
from rxrl.errors import ConfigError
from rxrl.policies import ModelPolicy
from rxrl.training import learner as learner_module
from rxrl.training.replay import policy_log_probs
from rxrl.training.targets import advantages_of
from rxrl.types import EOS, TokenBatch
from tests.training import toy
from tests.training.toy import conversations, play, tiny_model

TESTS = Path(__file__).parents[1]
COVERED = {
    "a fresh random memory at the update, not the one the rollout started from": (
        "training/test_replay.py::test_a_fresh_memory_at_the_update_would_show",
        "training/test_replay.py::test_the_ratio_is_exactly_1_before_the_first_step",
        "training/test_defects.py::test_every_epoch_replays_from_the_memory_that_the_rollout_started_from",
    ),
    "the reference pass uses another memory than the actor, or the actor's": (
        "training/test_replay.py::test_the_reference_runs_its_own_memory",
        "training/test_replay.py::test_the_reference_carries_its_own_memory_over",
        "training/test_trainer.py::test_the_reference_carries_its_own_memory_from_rollout_to_rollout",
    ),
    "gradients cut to one turn": (
        "training/test_memory_credit.py::test_gradients_reach_the_write_of_turn_1_from_the_answer_of_turn_8",
        "training/test_memory_credit.py::test_gradients_equal_finite_differences_through_four_turns_of_memory",
    ),
    "token ids cast to float without mixed precision": (
        "training/test_defects.py::test_tokens_stay_whole_numbers",
        "models/test_model.py::test_wrong_inputs_are_refused",
    ),
    "the last batch of an epoch is collected and never trained on": (
        "training/test_update.py::test_minibatches_use_every_row_once",
        "training/test_defects.py::test_every_epoch_trains_on_every_episode_once",
    ),
    "stored log-probabilities masked in place": ("training/test_defects.py::test_an_update_leaves_the_rollout_as_it_was",),
    "partial batches dropped, in training and in evaluation": (
        "training/test_rollout.py::test_every_row_of_a_partial_batch_is_used_and_padding_is_none",
        "training/test_trainer.py::test_all_conversations_are_used_and_none_twice",
        "evaluation/test_play.py::test_every_turn_of_every_conversation_is_recorded_once_and_in_order",
    ),
    "a batch of one broadcasts into a wrong shape": (
        "training/test_rollout.py::test_a_batch_of_one_has_the_shapes_of_a_batch",
        "training/test_update.py::test_minibatches_of_one_row_sum_to_the_whole_batch",
        "training/test_trainer.py::test_a_batch_of_one_trains",
    ),
    "KL estimated with ref.exp() on sampled tokens": (
        "training/test_token_statistics.py::test_kl_equals_enumeration",
        "algorithms/test_kl.py::test_expected_values_of_the_estimators",
        "algorithms/test_kl.py::test_expected_gradients_of_the_estimators",
    ),
    "entropy divided twice": ("algorithms/test_losses.py::test_entropy_bonus_pulls_towards_the_uniform_distribution_with_its_full_weight",),
    "evaluation under the training reset ratio, or of other steps than the stage's": (
        "evaluation/test_play.py::test_random_resets_of_training_are_not_used",
        "training/test_defects.py::test_evaluation_starts_from_fresh_memory_whatever_training_carries",
        "training/test_trainer.py::test_evaluation_plays_the_steps_of_the_stage_and_every_conversation",
    ),
    "groups formed across different conversations": (
        "training/test_algorithms.py::test_groups_are_samples_of_one_conversation_from_one_stm0",
        "training/test_rollout.py::test_a_group_has_one_conversation_and_one_stm0_and_answers_of_its_own",
        "algorithms/test_advantages.py::test_groups_do_not_see_each_other",
    ),
    "PPO, the default optimizer, training without mixed precision or on several processes cannot run at all": (
        "training/test_algorithms.py::test_every_algorithm_trains_with_every_option_on",
        "training/test_learning.py::test_reward_alone_teaches_to_recall_one_of_two_words",
        "training/test_distributed.py::test_gradients_and_weights_are_those_of_one_process_with_the_whole_batch",
    ),
    "sampling from a truncated or tempered distribution and comparing with raw logits": (
        "training/test_replay.py::test_cached_and_replayed_log_probabilities_agree",
        "training/test_replay.py::test_policy_and_reference_are_compared_at_one_temperature",
        "training/test_defects.py::test_truncated_sampling_is_no_option_of_training",
    ),
    "the answer marker is written into the caller's query": ("training/test_defects.py::test_a_policy_leaves_the_observation_as_it_was",),
    "collection and update write different memories": (
        "training/test_rollout.py::test_replaying_the_writes_gives_the_memory_of_the_environment",
    ),
    "episodes of different length cut to the shortest": (
        "training/test_rollout.py::test_every_row_of_a_partial_batch_is_used_and_padding_is_none",
        "envs/test_vector.py::test_rows_of_different_length_each_play_exactly_their_steps",
    ),
    "consistency pulls past the end of the previous answer": (
        "training/test_update.py::test_consistency_may_compare_position_by_position_with_the_answer_before",
    ),
    "terminal turns stay unnormalised in one advantage mode": ("training/test_defects.py::test_the_last_turn_is_whitened_with_the_others",),
    "load balancing over selected tokens only": (
        "models/test_layers.py::test_load_balance_is_1_when_balanced_and_up_to_the_number_of_experts",
        "models/test_model.py::test_padding_changes_no_memory_no_logit_and_no_router_count",
    ),
    "the topic-change reward forgets the smoothing": ("rewards/test_classic.py::test_topic_change",),
    "weights that sum to 1 in decimals are refused": (
        "rewards/test_classic.py::test_every_coefficient_is_an_option_and_weights_are_normalised",
    ),
    "top-p drops the token that crosses p": ("models/test_generation.py::test_truncation_keeps_what_it_names",),
    "a query that fills the length limit crashes": (
        "training/test_trainer.py::test_a_query_that_fills_the_length_limit_is_cut_and_answered",
    ),
    "the log-probability of a token that was not sampled": (
        "training/test_defects.py::test_log_probabilities_belong_to_the_sampled_tokens_empty_answers_included",
    ),
    "one memory used with a batch merges all users": ("models/test_model.py::test_wrong_inputs_are_refused",),
    "no resume": (
        "training/test_resume.py::test_killed_ten_times_at_random_moments",
        "training/test_trainer.py::test_a_resumed_run_is_bit_for_bit_the_one_that_was_never_stopped",
    ),
    "saving throws the live memory away": ("models/test_session.py::test_a_saved_memory_goes_on_exactly",),
    "keeping the last deletes a part of the best": (
        "training/test_trainer.py::test_only_the_last_checkpoints_are_kept_and_they_are_whole",
        "training/test_resume.py::test_the_best_weights_are_kept_and_a_later_stage_counts_before_a_better_number",
    ),
    "a checkpoint of shared parts reloads with a random embedding": ("models/test_checkpoint.py::test_a_saved_model_comes_back_exactly",),
    "a subset of a list loses its last item": ("data/test_sources.py::test_every_epoch_serves_each_conversation_once_in_a_new_order",),
    "replayed episodes replace fresh data": ("training/test_defects.py::test_self_imitation_adds_to_fresh_data_and_replaces_none",),
    "a misspelt option is accepted and ignored": ("cli/test_bad_input.py::test_wrong_options_of_a_training",),
}


@cache
def functions_of(file):
    return {node.name for node in ast.walk(ast.parse((TESTS / file).read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("defect", COVERED)
def test_the_tests_that_are_named_exist(defect):
    for place in COVERED[defect]:
        file, name = place.split("::")
        assert name in functions_of(file), place


def trainer_in(folder, algorithm, **changes):
    settings = {"episodes": 8, "evaluation": {"every": 1, "conversations": 3}, "algorithm": algorithm} | changes
    return toy.trainer_in(folder, [{"steps": 3, "iterations": 1}], **settings)


STILL = {"name": "sgd", "learning_rate": 1e-30, "weight_decay": 0.0}
"""Steps that change no weight."""


def test_every_epoch_replays_from_the_memory_that_the_rollout_started_from(tmp_path):
    """With weights that stand still every ratio stays 1 and the reference says the same, in all epochs, also from carried memories."""
    options = {"name": "impo", "epochs": 3, "minibatches": 2}
    trainer = trainer_in(tmp_path, options, optimizer=STILL)
    stage = trainer.scheduler.stage.model_copy(update={"reset_ratio": 0.5})
    for _ in range(2):
        algorithm = trainer.begin(stage)
        rollout = trainer.collect(stage, algorithm)
        targets, _ = trainer.learner.estimate(rollout, algorithm)
        metrics = trainer.learner.update(rollout, targets, algorithm)
        trainer.left = trainer.processes.rows(rollout.left, dim=1)
        # Minibatches of later epochs have other rows and other padding, hence other rounding.
        assert metrics["ratio_deviation"] < 1e-5
        assert abs(metrics["kl"]) < 1e-6
        assert metrics["epochs"] == 3
        trainer.state.iteration += 1
    assert (rollout.carried >= 0).any()


def test_tokens_stay_whole_numbers():
    rollout = play(tiny_model(double=True), conversations(3, 2))
    batches = (rollout.writes, rollout.turns, rollout.critic_tokens, rollout.after, rollout.after_query, rollout.unwritten)
    assert {batch.ids.dtype for batch in batches} == {torch.int64}
    assert {rollout.turn.dtype, rollout.steps.dtype, rollout.group.dtype} == {torch.int64}
    assert rollout.stm0.dtype == torch.float64


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_every_epoch_trains_on_every_episode_once(micro_batch, tmp_path, monkeypatch):
    inner, seen = learner_module.actor_loss, []

    def counting(model, rollout, *arguments, **options):
        if torch.is_grad_enabled():
            seen.extend(map(tuple, rollout.turns.ids.transpose(0, 1).flatten(1).tolist()))
        return inner(model, rollout, *arguments, **options)

    monkeypatch.setattr(learner_module, "actor_loss", counting)
    trainer = trainer_in(tmp_path, {"epochs": 2, "minibatches": 3}, episodes=7, micro_batch=micro_batch)
    stage = trainer.scheduler.stage
    algorithm = trainer.begin(stage)
    rollout = trainer.collect(stage, algorithm)
    targets, _ = trainer.learner.estimate(rollout, algorithm)
    trainer.learner.update(rollout, targets, algorithm)
    assert Counter(seen) == Counter(2 * list(map(tuple, rollout.turns.ids.transpose(0, 1).flatten(1).tolist())))


def test_an_update_leaves_the_rollout_as_it_was(tmp_path):
    trainer = trainer_in(tmp_path, {"name": "impo", "epochs": 2, "minibatches": 2})
    stage = trainer.scheduler.stage
    algorithm = trainer.begin(stage)
    rollout = trainer.collect(stage, algorithm)
    fields = ("sampled_log_probs", "rewards", "stm0", "answer", "scored", "real", "left")
    before = {name: getattr(rollout, name).clone() for name in fields}
    tokens = [rollout.turns.ids.clone(), rollout.writes.ids.clone(), rollout.critic_tokens.ids.clone()]
    targets, _ = trainer.learner.estimate(rollout, algorithm)
    advantages = targets.advantages.clone()
    trainer.learner.update(rollout, targets, algorithm)
    assert all(torch.equal(before[name], getattr(rollout, name)) for name in fields)
    assert all(torch.equal(a, b) for a, b in zip(tokens, (rollout.turns.ids, rollout.writes.ids, rollout.critic_tokens.ids), strict=True))
    assert torch.equal(advantages, targets.advantages)


def test_evaluation_starts_from_fresh_memory_whatever_training_carries(tmp_path):
    trainer = trainer_in(tmp_path, {})
    stage = trainer.scheduler.stage.model_copy(update={"reset_ratio": 0.0})
    fresh = trainer.evaluate(stage)
    trainer.left = 9 * torch.ones_like(trainer.model.init_memory(8))
    carrying = trainer.evaluate(stage)
    assert [record.turn.answer for record in fresh.records] == [record.turn.answer for record in carrying.records]


@pytest.mark.parametrize("option", ["top_k", "top_p"])
def test_truncated_sampling_is_no_option_of_training(option):
    with pytest.raises(ConfigError, match=option):
        parse_config({option: 0.5}, AlgorithmConfig)


def test_a_policy_leaves_the_observation_as_it_was():
    model = tiny_model()
    prompts = TokenBatch.pad([[1, 5, 8, 9, 6], [1, 5, 8, 6]])
    before = prompts.ids.clone(), prompts.mask.clone()
    memory = model.init_memory(2, torch.Generator().manual_seed(0))
    kept = memory.clone()
    ModelPolicy(model, 4).act(prompts, memory, [torch.Generator().manual_seed(row) for row in range(2)])
    assert torch.equal(prompts.ids, before[0])
    assert torch.equal(prompts.mask, before[1])
    assert torch.equal(memory, kept)


@pytest.mark.parametrize("form", ["gae", "reward-value", "return"])
def test_the_last_turn_is_whitened_with_the_others(form):
    """Also that of the episodes which end before the longest one."""
    rollout = play(tiny_model(), conversations(6, (4, 2)))
    values = torch.randn(rollout.rewards.shape, generator=torch.Generator().manual_seed(0))
    white, _ = advantages_of(rollout, values, AlgorithmConfig(advantage=form, whiten=True))
    raw, _ = advantages_of(rollout, values, AlgorithmConfig(advantage=form, whiten=False))
    counted = raw[rollout.real]
    expected = (raw - counted.mean()) / counted.std(unbiased=False)
    last = rollout.real.sum(0) - 1
    rows = torch.arange(6)
    assert torch.allclose(white[last, rows], expected[last, rows], atol=1e-4)


def test_log_probabilities_belong_to_the_sampled_tokens_empty_answers_included():
    """An empty answer is its end token, which was sampled like any other."""
    model = tiny_model(double=True)
    with torch.no_grad():
        model.decoder.head.bias[EOS] += 4
    rollout = play(model, conversations(8, 3))
    first = rollout.answer & (rollout.answer.cumsum(-1) == 1)
    empty = (rollout.turns.ids == EOS) & first
    assert empty.any()
    assert rollout.answer.any(-1).equal(rollout.real)
    assert rollout.sampled_log_probs[rollout.answer].lt(0).all()
    assert (policy_log_probs(model, rollout, AlgorithmConfig()) - rollout.sampled_log_probs)[empty].abs().max() < 1e-10


def test_self_imitation_adds_to_fresh_data_and_replaces_none(tmp_path):
    """The same conversations and answers are collected and the policy loss is the same; only a term comes on top."""
    lines = {}
    for coefficient in (0.0, 0.5):
        options = {"experimental": {"self_imitation": coefficient, "self_imitation_above": 0.1}, "kl": 0.0, "entropy": 0.0, "balance": 0.0}
        trainer = trainer_in(tmp_path / str(coefficient), options, optimizer=STILL)
        stage = trainer.scheduler.stage
        algorithm = trainer.begin(stage)
        rollout = trainer.collect(stage, algorithm)
        targets, _ = trainer.learner.estimate(rollout, algorithm)
        lines[coefficient] = trainer.learner.update(rollout, targets, algorithm), rollout
    (off, fresh), (on, same) = lines[0.0], lines[0.5]
    assert torch.equal(fresh.turns.ids, same.turns.ids)
    assert torch.allclose(off["policy_loss"], on["policy_loss"], atol=1e-7)
    assert on["self_imitation"] > 0
    assert float(on["loss"] - off["loss"]) == pytest.approx(0.5 * float(on["self_imitation"]), rel=1e-4)
