"""Stages from start to end: what learns when, what a batch holds, validation, and going on after a stop."""

import copy
import os
import signal
from itertools import pairwise

import pytest
import torch

import rxrl
from rxrl.config import parse_config
from rxrl.data.batches import episode_batch
from rxrl.data.sources import RowsSource
from rxrl.errors import CheckpointError, ConfigError, DataError, Interrupted, TrainingError
from rxrl.models import ReactiveTransformer
from rxrl.runs.checkpoints import BEST, numbered
from rxrl.runs.optim import OptimizerConfig
from rxrl.stages.config import LanguageConfig, SmatConfig
from rxrl.stages.language_modelling import LanguageTask
from rxrl.stages.tasks import (
    SmatTask,
    answered_right,
    likeliest_answers,
    memory_health,
)
from rxrl.types import ANSWER, BOS, EOS, PARAMETER_GROUPS, QUERY
from scripts.learning import CODEC
from tests.stages.small import (
    COMMON,
    LENGTH,
    TASKS,
    Each,
    by_group,
    changed,
    lines,
    pretrain,
    runner_in,
    sentences,
    sft,
    smat,
    taken,
)
from tests.training.toy import ToySource, tiny_model

EXPECTED = {
    "pretrain": set(PARAMETER_GROUPS) - {"memory_attention"},
    "sft": set(PARAMETER_GROUPS) - {"memory_attention"},
    "reading": set(PARAMETER_GROUPS) - {"memory_attention"},
    "memory-attention": {"memory_attention"},
    "smat": set(PARAMETER_GROUPS),
}


@pytest.mark.parametrize("name", TASKS)
def test_each_stage_trains_its_groups_and_reports(name, tmp_path):
    runner = runner_in(tmp_path, name)
    before = by_group(copy.deepcopy(runner.model))
    validation = runner.train()
    assert changed(before, by_group(runner.model)) == EXPECTED[name]
    assert [line["iteration"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    assert all({"loss", "tokens", "learning_rate", "grad_norm"} <= line.keys() for line in lines(tmp_path))
    assert lines(tmp_path)[-1]["val_loss"] == pytest.approx(validation["loss"], rel=1e-5)
    assert "val_loss" not in lines(tmp_path)[0]
    if name == "smat":
        assert {"loss_true_memory", "loss_empty_memory", "loss_other_memory", "drift", "gate_openness"} <= validation.keys()


@pytest.mark.parametrize("name", TASKS)
def test_padding_is_a_metric_and_speed_a_timing(name, tmp_path):
    runner_in(tmp_path, name).train()
    batch = taken(TASKS[name](), 0)
    assert lines(tmp_path)[0]["padding_share"] == pytest.approx(1 - batch.tokens / batch.positions, abs=1e-5, rel=1e-5)
    run = rxrl.load_run(tmp_path)
    assert run.metrics.padding_share.between(0, 1, inclusive="left").all()
    assert (run.timings.tokens_per_second > 0).all()
    assert run.timings.model_share.between(0, 1).all()
    assert run.timings.iteration.tolist() == run.metrics.iteration.tolist()
    assert not {"tokens_per_second", "model_share"} & set(run.metrics.columns)


def test_a_stage_ends_on_tokens(tmp_path):
    shown = []
    linear = OptimizerConfig(learning_rate=0.01, schedule="linear", warmup=0, final=0)
    runner = runner_in(
        tmp_path,
        task=smat(((2, 10**6, None),), max_tokens=600, optimizer=linear),
        callbacks=[Each(lambda name, step, total, metrics: shown.append((step, total)))],
    )
    runner.train()
    *_, last = sizes = [after - before for before, after in pairwise([0, *(line["tokens"] for line in lines(tmp_path))])]
    assert 600 <= runner.tokens < 600 + last
    # The schedule ends where the tokens do, whatever a batch holds.
    done = [line["tokens"] - size for line, size in zip(lines(tmp_path), sizes, strict=True)]
    assert [line["learning_rate"] for line in lines(tmp_path)] == pytest.approx([0.01 * (1 - tokens / 600) for tokens in done], rel=1e-4)
    assert shown[-1] == (runner.step, runner.step)
    assert all(runner.step / 2 < total < runner.step * 2 for _, total in shown)


def test_iterations_of_smat_are_those_of_its_phases():
    with pytest.raises(ConfigError, match="iterations"):
        parse_config({"iterations": 9}, SmatConfig)
    assert smat(((1, 3, None), (2, 4, None))).config.most_iterations == 7


def test_few_conversations_validate_once_each(tmp_path):
    source = RowsSource(ToySource().take(steps=2, strategy="multi-step", start=0, count=3), seed=0)
    for count, names in ((3, {"true", "empty", "other"}), (1, {"true", "empty"})):
        few = RowsSource(source.take(steps=2, strategy="multi-step", start=0, count=count), seed=0)
        task = SmatTask(smat().config, ToySource(), few, CODEC, LENGTH)
        batch = task.held_out_batch(2)
        assert batch.real.shape[1] == count
        assert len({str(row.tolist()) for row in batch.turns.ids.transpose(0, 1)}) == count
        found = task.validate(tiny_model(initial_memory="learned"), 1.0)
        assert {f"loss_{name}_memory" for name in names} == {name for name in found if name.endswith("_memory")}


@pytest.mark.parametrize("name", TASKS)
def test_one_seed_gives_the_same_bytes(name, tmp_path):
    runs = []
    for index, disturbance in enumerate((1, 2)):
        torch.manual_seed(disturbance)
        runs.append(runner_in(tmp_path / str(index), name, model=tiny_model()))
        runs[-1].train()
    assert (tmp_path / "0" / "metrics.jsonl").read_bytes() == (tmp_path / "1" / "metrics.jsonl").read_bytes()
    assert not changed(by_group(runs[0].model), by_group(runs[1].model))
    other = runner_in(tmp_path / "2", name, model=tiny_model(), task=TASKS[name](seed=1))
    other.train()
    # Reading draws nothing itself: its batches are the source's.
    assert bool(changed(by_group(runs[0].model), by_group(other.model))) == (name != "reading")


class Stop(Exception):
    """Ends a run from outside."""


def stop_at(step):
    def observe(name, at, total, metrics):
        if at == step:
            raise Stop

    return observe


TO_RESUME = {**TASKS, "smat": lambda: smat(((1, 3, None), (3, 3, None)), unfreeze={"encoder": 0.5})}


@pytest.mark.parametrize("name", TO_RESUME)
def test_a_resumed_stage_is_bit_for_bit_the_one_that_was_never_stopped(name, tmp_path):
    whole = runner_in(tmp_path / "whole", name, task=TO_RESUME[name]())
    whole.train()
    cut = runner_in(tmp_path / "cut", name, task=TO_RESUME[name](), checkpoint_every=2, callbacks=[Each(stop_at(3))])
    with pytest.raises(Stop):
        cut.train()
    resumed = runner_in(tmp_path / "cut", name, model=tiny_model(seed=4, initial_memory="learned"), task=TO_RESUME[name]())
    assert resumed.resume()
    assert resumed.step == 2
    resumed.train()
    assert not changed(by_group(whole.model), by_group(resumed.model))
    assert resumed.tokens == whole.tokens
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_a_stage_that_was_done_stays_done(tmp_path):
    class Done(SmatTask):
        def validate(self, model, progress):
            return super().validate(model, progress) | {"asking_accuracy": 1.0}

    config = smat(((2, 50, 0.9),)).config
    task = Done(config, ToySource(), ToySource(), CODEC, LENGTH)
    runner = runner_in(tmp_path, task=task, checkpoint_every=2)
    runner.train()
    assert runner.step == 2
    resumed = runner_in(tmp_path, task=Done(config, ToySource(), ToySource(), CODEC, LENGTH))
    assert resumed.resume()
    resumed.train()
    assert resumed.step == 2


@pytest.mark.parametrize("finish", ["last", "best"])
def test_the_best_validation_is_kept_and_a_stage_can_end_with_it(finish, tmp_path):
    losses = iter([3.0, 1.0, 2.0, 1.5])
    weights = []

    class Scripted(SmatTask):
        def validate(self, model, progress):
            weights.append(by_group(copy.deepcopy(model)))
            return super().validate(model, progress) | {"loss": next(losses)}

    config = smat(((2, 4, None),), finish_with=finish, validate_every=1).config
    runner = runner_in(tmp_path, task=Scripted(config, ToySource(), ToySource(), CODEC, LENGTH), checkpoint_every=2)
    runner.train()
    assert [path.name for path in numbered(runner.checkpoints, BEST)] == ["best-000002"]
    assert not changed(by_group(ReactiveTransformer.from_pretrained(runner.checkpoints / "best-000002")), weights[1])
    assert not changed(by_group(runner.model), weights[1 if finish == "best" else -1])


def test_longer_conversations_count_before_a_lower_loss(tmp_path):
    runner = runner_in(tmp_path, checkpoint_every=2)
    for runner.step, steps, loss in ((1, 1, 0.5), (2, 4, 2.0), (3, 1, 0.1), (4, 4, 3.0)):
        runner._keep_best({"steps": steps, "loss": loss})
    assert runner.run.best == (4.0, -2.0)
    assert [path.name for path in numbered(runner.checkpoints, BEST)] == ["best-000002"]


def test_a_signal_ends_a_stage_after_a_checkpoint_that_it_goes_on_from(tmp_path):
    def terminate(name, at, total, metrics):
        if at == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    whole = runner_in(tmp_path / "whole")
    whole.train()
    said = []
    with pytest.raises(Interrupted, match=r"after step 3: wrote .*step-000003; go on with --resume") as stop:
        runner_in(tmp_path / "cut", callbacks=[Each(terminate)]).train(said.append)
    assert stop.value.exit_code == 143
    assert "finishing this step" in said[0]
    resumed = runner_in(tmp_path / "cut", model=tiny_model(seed=4, initial_memory="learned"))
    assert resumed.resume()
    resumed.train()
    assert not changed(by_group(whole.model), by_group(resumed.model))
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_resuming_needs_the_same_configuration(tmp_path):
    assert not runner_in(tmp_path).resume()
    runner = runner_in(tmp_path, checkpoint_every=4)
    runner.train()
    with pytest.raises(CheckpointError, match="another configuration"):
        runner_in(tmp_path, task=smat(seed=3)).resume()


def test_a_loss_that_is_not_a_number_ends_the_stage_with_a_sentence(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.decoder.head.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="stage smat at step 1 is nan: lower the learning rate"):
        runner_in(tmp_path, model=model).train()


# What batches hold


def test_texts_are_framed_and_cut():
    batch = pretrain().rows(0, 3)
    assert batch.rows()[2] == [BOS, *CODEC.encode("ann has cat bob has dog and owl"), EOS]
    short = LanguageTask.on_texts(LanguageConfig(**COMMON), sentences, sentences, CODEC, 6).rows(0, 3)
    assert short.rows()[2] == [BOS, *CODEC.encode("ann has cat bob"), EOS]


def test_interactions_beyond_the_model_are_refused_as_memory_aware_training_refuses_them():
    with pytest.raises(DataError, match=r"Conversation '.*', turn \d: the interaction has \d+ tokens, but 6 is the model's limit"):
        LanguageTask.on_interactions(LanguageConfig(**COMMON), ToySource(), ToySource(), 2, CODEC, 6)


def test_interactions_come_in_order_each_once():
    task = sft()
    whole = task.rows(0, 12).rows()
    parts = [row for start in range(0, 12, 4) for row in task.rows(start, 4).rows()]
    assert parts == whole
    conversations = ToySource().take(steps=2, strategy="multi-step", start=0, count=4)
    interactions = [i for c in conversations for i in c.interactions]
    assert whole == [[BOS, QUERY, *CODEC.encode(i.query), ANSWER, *CODEC.encode(i.answer), EOS] for i in interactions]


def test_batches_have_about_the_wanted_tokens():
    for name, make in TASKS.items():
        tokens = [taken(make(batch_tokens=300), step).tokens for step in range(3)]
        assert 150 < sum(tokens) / 3 < 450, name


def test_an_interaction_that_does_not_fit_is_an_error_with_its_place():
    task = SmatTask(smat().config, ToySource(), ToySource(), CODEC, 6)
    with pytest.raises(DataError, match="turn 0"):
        task.validate(tiny_model(), 1.0)


# Validation


def test_answers_are_right_where_every_token_is_the_likeliest():
    model, task = tiny_model(), smat()
    batch = task.batch(task.held_out, 2, "multi-step", 0, 4)
    stm0 = task.stm0(model, 4, "validation")
    right = answered_right(batch, likeliest_answers(model, stm0, batch))
    stm = stm0
    for turn in range(2):
        stm = model.write_memory(stm, batch.writes.ids[turn], batch.writes.mask[turn])
        likeliest = model.decode(batch.turns.ids[turn], batch.turns.mask[turn], stm).argmax(-1)[:, :-1]
        correct = (likeliest == batch.turns.ids[turn][:, 1:]) | ~batch.answer[turn][:, 1:]
        assert torch.equal(right[turn], correct.all(1))
    conversations = task.held_out.take(steps=2, strategy="multi-step", start=0, count=4)
    assert batch.asking.T.tolist() == [[bool(i.asks) for i in c.follow_ups] for c in conversations]


@torch.no_grad()
def test_memory_health_does_not_count_conversations_that_have_ended():
    model, task = tiny_model(double=True), smat()
    one = task.batch(task.held_out, 3, "multi-step", 0, 1)
    stm0 = task.stm0(model, 1, "validation")
    both = {}
    for steps in (3, 1):
        conversations = ToySource().take(steps=3, strategy="multi-step", start=0, count=1)
        conversations += ToySource().take(steps=steps, strategy="multi-step", start=7, count=1)
        both[steps] = memory_health(model, stm0.expand(-1, 2, -1, -1), episode_batch(conversations, CODEC, LENGTH))["drift"]
    alone = memory_health(model, stm0, one)["drift"]
    first = task.batch(ToySource(), 1, "multi-step", 7, 1)
    short = memory_health(model, stm0, first)["drift"]
    # Three writes of the long one and one of the short one.
    assert both[1] == pytest.approx((3 * alone + short) / 4, rel=1e-9)
    assert both[3] != pytest.approx(both[1])


def test_validation_changes_nothing(tmp_path):
    for name, make in TASKS.items():
        model, task = tiny_model(), make()
        before = by_group(model)
        assert task.validate(model, 0.5) == task.validate(model, 0.5), name
        assert not changed(before, by_group(model))
