"""Stages from start to end: what learns when, what a batch holds, validation, and going on after a stop."""

import copy
import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from rxrl.config import parse_config
from rxrl.data.batches import episode_batch
from rxrl.errors import CheckpointError, ConfigError, DataError, Interrupted, TrainingError
from rxrl.models import ReactiveTransformer
from rxrl.stages.config import GROUPS, JointConfig, MemoryAttentionStageConfig, ReadingConfig, SmatConfig, SmatPhase
from rxrl.stages.losses import reading_loss
from rxrl.stages.runner import StageRunner
from rxrl.stages.tasks import (
    JointTask,
    MemoryAttentionTask,
    ReadingTask,
    SmatTask,
    answered_right,
    asks_something,
    likeliest_answers,
    memory_health,
)
from rxrl.training.checkpoints import BEST, numbered
from rxrl.training.optim import OptimizerConfig
from rxrl.types import ANSWER, BOS, EOS, QUERY, TokenBatch
from scripts.learning import CODEC, RecallSource
from tests.training.toy import ToySource, tiny_model

LENGTH = 32
COMMON = {"batch_tokens": 60, "validation_rows": 6, "validate_every": 2, "log_every": 1, "optimizer": OptimizerConfig(learning_rate=0.01)}


def sentences(start, count):
    return [" ".join(["ann has cat", "bob has dog and", "owl"][: 1 + index % 3]) for index in range(start, start + count)]


def pretrain(**changes):
    return JointTask.on_texts(JointConfig(**COMMON | {"iterations": 4} | changes), sentences, sentences, CODEC, LENGTH)


def sft(**changes):
    return JointTask.on_interactions(JointConfig(**COMMON | {"iterations": 4} | changes), ToySource(), ToySource(), 2, CODEC, LENGTH)


def memory_attention(**changes):
    config = MemoryAttentionStageConfig(**COMMON | {"iterations": 4, "steps": 2} | changes)
    return MemoryAttentionTask(config, ToySource(), ToySource(), CODEC, LENGTH)


def reading(**changes):
    return ReadingTask(ReadingConfig(**COMMON | {"iterations": 4} | changes), ToySource(), ToySource(), CODEC, LENGTH)


def smat(phases=((2, 4, None),), **changes):
    steps = tuple(SmatPhase(steps=s, iterations=i, accuracy=a) for s, i, a in phases)
    return SmatTask(SmatConfig(**COMMON | {"phases": steps} | changes), ToySource(), ToySource(), CODEC, LENGTH)


TASKS = {"pretrain": pretrain, "sft": sft, "reading": reading, "memory-attention": memory_attention, "smat": smat}


def runner_in(folder, name="smat", model=None, task=None, **options):
    task = task or TASKS[name]()
    return StageRunner(name, model or tiny_model(initial_memory="learned"), CODEC, task, task.config, folder, **options)


def by_group(model):
    return {group: torch.cat([p.detach().flatten() for _, p in named]) for group, named in model.group_parameters().items()}


def changed(before, after):
    return {group for group in before if not torch.equal(before[group], after[group])}


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


EXPECTED = {
    "pretrain": set(GROUPS) - {"memory_attention"},
    "sft": set(GROUPS) - {"memory_attention"},
    "reading": set(GROUPS) - {"memory_attention"},
    "memory-attention": {"memory_attention"},
    "smat": set(GROUPS),
}


@pytest.mark.parametrize("name", TASKS)
def test_each_stage_trains_its_groups_and_reports(name, tmp_path):
    runner = runner_in(tmp_path, name)
    before = by_group(copy.deepcopy(runner.model))
    validation = runner.run()
    assert changed(before, by_group(runner.model)) == EXPECTED[name]
    assert [line["iteration"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    assert all({"loss", "tokens", "learning_rate", "grad_norm"} <= line.keys() for line in lines(tmp_path))
    assert lines(tmp_path)[-1]["val_loss"] == pytest.approx(validation["loss"], rel=1e-5)
    assert "val_loss" not in lines(tmp_path)[0]
    if name == "smat":
        assert {"loss_true_memory", "loss_empty_memory", "loss_other_memory", "drift", "gate_openness"} <= validation.keys()


def test_smat_unfreezes_group_by_group(tmp_path):
    """The decoder first, then memory attention, then the encoder."""
    unfreeze = {"memory_attention": 0.25, "encoder": 0.5, "embedding": 0.5}
    seen = []
    runner = runner_in(tmp_path, task=smat(((2, 8, None),), unfreeze=unfreeze), observers=(lambda *_: seen.append(by_group(runner.model)),))
    start = by_group(runner.model)
    runner.run()
    decoder = {"decoder", "decoder_memory"}
    moved = [changed(a, b) for a, b in zip([start, *seen], seen, strict=False)]
    assert moved == [decoder] * 2 + [decoder | {"memory_attention"}] * 2 + [set(GROUPS)] * 4


@pytest.mark.parametrize(
    ("unfreeze", "reason"),
    [({"encodr": 0.5}, "encod"), ({"encoder": 1.5}, "less than 1"), (dict.fromkeys(GROUPS, 0.5), "no group is trained at the start")],
)
def test_an_unfreezing_that_makes_no_sense_is_refused(unfreeze, reason):
    with pytest.raises(ConfigError, match=reason):
        parse_config({"unfreeze": unfreeze}, SmatConfig)


def test_phases_follow_one_another(tmp_path):
    task = smat(((1, 2, None), (3, 3, None)))
    runner = runner_in(tmp_path, task=task)
    lengths, inner = [], task.source.take

    def taking(**given):
        if given["start"] or not lengths:
            lengths.append((given["steps"], given["start"], given["count"]))
        return inner(**given)

    task.source.take = taking
    runner.run()
    assert [steps for steps, _, _ in lengths] == [1, 1, 3, 3, 3]
    # Every conversation of the sequence is used once.
    position = 0
    for _, start, count in lengths:
        assert start == position
        position += count


def test_a_phase_may_ask_for_several_good_validations_in_a_row():
    task = smat()
    phases = (SmatPhase(steps=1, iterations=9, accuracy=0.9, validations=3), SmatPhase(steps=2, iterations=3))
    task.config = SmatConfig(phases=phases, **COMMON)
    for accuracy in (1.0, 0.95, 0.8, 0.9, 0.9):
        assert not task.phase_done({"asking_accuracy": accuracy})
        assert task.phase == 0
    again = smat()
    again.config = task.config
    again.restore(task.state())
    assert not again.phase_done({"asking_accuracy": 0.9})
    assert (again.phase, again.reached) == (1, 0)


def test_a_phase_ends_early_once_it_is_learned(tmp_path):
    phases = (SmatPhase(steps=1, iterations=150, accuracy=0.9), SmatPhase(steps=2, iterations=3))
    config = SmatConfig(phases=phases, batch_tokens=160, validate_every=5, optimizer=OptimizerConfig(learning_rate=0.02))
    task = SmatTask(config, RecallSource(2), RecallSource(2), CODEC, 16)
    steps = []
    model = tiny_model(awake=False, dim=32, layers=1, slots=4, max_length=16, initial_memory="learned")
    runner = StageRunner("smat", model, CODEC, task, config, tmp_path, observers=(lambda *given: steps.append(given[3].get("val_steps")),))
    for _ in range(60):
        runner._step()
        if runner.step % 5 == 0 and not task.phase_done(task.validate(model)) and task.phase == 1:
            break
    assert task.phase == 1
    assert task.phase_start == runner.step < 60
    assert not task.phase_done({"asking_accuracy": 1.0})


def test_reading_answers_from_the_interaction_before_and_ends_once_it_can():
    model, task = tiny_model(), reading(accuracy=0.75)
    batch, _ = task.batch(task.source, 1, "multi-step", 0, 6)
    result, likeliest = reading_loss(model, batch)
    assert likeliest.shape == batch.turns.ids[batch.answer].shape
    result.loss.backward()
    reached = {group: any(p.grad is not None and p.grad.any() for _, p in named) for group, named in model.group_parameters().items()}
    assert reached == {group: group != "memory_attention" for group in GROUPS}
    other = replace(batch, writes=TokenBatch(batch.writes.ids.roll(1, dims=1), batch.writes.mask.roll(1, dims=1)))
    assert reading_loss(model, other)[0].loss != result.loss
    padded = TokenBatch(functional.pad(batch.writes.ids, (0, 3), value=9), functional.pad(batch.writes.mask, (0, 3)))
    assert reading_loss(model, replace(batch, writes=padded))[0].loss.item() == pytest.approx(result.loss.item(), abs=1e-5)
    assert [task.phase_done({"asking_accuracy": accuracy}) for accuracy in (0.7, 0.8)] == [False, True]
    assert not reading().phase_done({"asking_accuracy": 1.0})


def test_a_last_phase_that_is_learned_ends_the_stage():
    task = smat(((2, 50, 0.9),))
    assert not task.phase_done({"asking_accuracy": 0.89})
    assert not task.phase_done({})
    assert task.phase_done({"asking_accuracy": 0.9})


def test_a_stage_ends_on_tokens(tmp_path):
    runner = runner_in(tmp_path, task=smat(((2, 100, None),), max_tokens=150))
    runner.run()
    assert 150 <= runner.tokens < 300
    assert runner.step < 10


@pytest.mark.parametrize("name", TASKS)
def test_one_seed_gives_the_same_bytes(name, tmp_path):
    runs = []
    for index, disturbance in enumerate((1, 2)):
        torch.manual_seed(disturbance)
        runs.append(runner_in(tmp_path / str(index), name, model=tiny_model()))
        runs[-1].run()
    assert (tmp_path / "0" / "metrics.jsonl").read_bytes() == (tmp_path / "1" / "metrics.jsonl").read_bytes()
    assert not changed(by_group(runs[0].model), by_group(runs[1].model))
    other = runner_in(tmp_path / "2", name, model=tiny_model(), task=TASKS[name](seed=1))
    other.run()
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
    whole.run()
    cut = runner_in(tmp_path / "cut", name, task=TO_RESUME[name](), checkpoint_every=2, observers=(stop_at(3),))
    with pytest.raises(Stop):
        cut.run()
    resumed = runner_in(tmp_path / "cut", name, model=tiny_model(seed=4, initial_memory="learned"), task=TO_RESUME[name]())
    assert resumed.resume()
    assert resumed.step == 2
    resumed.run()
    assert not changed(by_group(whole.model), by_group(resumed.model))
    assert resumed.tokens == whole.tokens
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_a_stage_that_was_done_stays_done(tmp_path):
    class Done(SmatTask):
        def validate(self, model):
            return super().validate(model) | {"asking_accuracy": 1.0}

    config = smat(((2, 50, 0.9),)).config
    task = Done(config, ToySource(), ToySource(), CODEC, LENGTH)
    runner = runner_in(tmp_path, task=task, checkpoint_every=2)
    runner.run()
    assert runner.step == 2
    resumed = runner_in(tmp_path, task=Done(config, ToySource(), ToySource(), CODEC, LENGTH))
    assert resumed.resume()
    resumed.run()
    assert resumed.step == 2


@pytest.mark.parametrize("finish", ["last", "best"])
def test_the_best_validation_is_kept_and_a_stage_can_end_with_it(finish, tmp_path):
    losses = iter([3.0, 1.0, 2.0, 1.5])
    weights = []

    class Scripted(SmatTask):
        def validate(self, model):
            weights.append(by_group(copy.deepcopy(model)))
            return super().validate(model) | {"loss": next(losses)}

    config = smat(((2, 4, None),), finish_with=finish, validate_every=1).config
    runner = runner_in(tmp_path, task=Scripted(config, ToySource(), ToySource(), CODEC, LENGTH), checkpoint_every=2)
    runner.run()
    assert [path.name for path in numbered(runner.checkpoints, BEST)] == ["best-000002"]
    assert not changed(by_group(ReactiveTransformer.from_pretrained(runner.checkpoints / "best-000002")), weights[1])
    assert not changed(by_group(runner.model), weights[1 if finish == "best" else -1])


def test_longer_conversations_count_before_a_lower_loss(tmp_path):
    runner = runner_in(tmp_path, checkpoint_every=2)
    for runner.step, steps, loss in ((1, 1, 0.5), (2, 4, 2.0), (3, 1, 0.1), (4, 4, 3.0)):
        runner._keep_best({"steps": steps, "loss": loss})
    assert runner.best == (4.0, -2.0)
    assert [path.name for path in numbered(runner.checkpoints, BEST)] == ["best-000002"]


def test_a_signal_ends_a_stage_after_a_checkpoint_that_it_goes_on_from(tmp_path):
    def terminate(name, at, total, metrics):
        if at == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    whole = runner_in(tmp_path / "whole")
    whole.run()
    said = []
    with pytest.raises(Interrupted, match=r"after step 3: wrote .*step-000003; go on with --resume") as stop:
        runner_in(tmp_path / "cut", observers=(terminate,)).run(said.append)
    assert stop.value.exit_code == 143
    assert "finishing this step" in said[0]
    resumed = runner_in(tmp_path / "cut", model=tiny_model(seed=4, initial_memory="learned"))
    assert resumed.resume()
    resumed.run()
    assert not changed(by_group(whole.model), by_group(resumed.model))
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_resuming_needs_the_same_configuration(tmp_path):
    assert not runner_in(tmp_path).resume()
    runner = runner_in(tmp_path, checkpoint_every=4)
    runner.run()
    with pytest.raises(CheckpointError, match="another configuration"):
        runner_in(tmp_path, task=smat(seed=3)).resume()


def test_a_loss_that_is_not_a_number_ends_the_stage_with_a_sentence(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.decoder.head.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="stage smat is nan at step 1: lower the learning rate"):
        runner_in(tmp_path, model=model).run()


# What batches hold


def test_texts_are_framed_and_cut():
    batch = pretrain().rows(0, 3)
    assert batch.rows()[2] == [BOS, *CODEC.encode("ann has cat bob has dog and owl"), EOS]
    short = JointTask.on_texts(JointConfig(**COMMON), sentences, sentences, CODEC, 6).rows(0, 3)
    assert short.rows()[2] == [BOS, *CODEC.encode("ann has cat bob"), EOS]


def test_interactions_come_in_order_each_once():
    task = sft()
    whole = task.rows(0, 12).rows()
    parts = [row for start in range(0, 12, 4) for row in task.rows(start, 4).rows()]
    assert parts == whole
    conversations = ToySource().take(steps=2, strategy="multi-step", start=0, count=4)
    interactions = [i for c in conversations for i in c.interactions]
    assert whole == [[BOS, QUERY, *CODEC.encode(i.query), ANSWER, *CODEC.encode(i.answer), EOS] for i in interactions]


def test_batches_have_about_the_wanted_tokens():
    model = tiny_model()
    for name, make in TASKS.items():
        tokens = [make(batch_tokens=300).loss(model, step)[1] for step in range(3)]
        assert 150 < sum(tokens) / 3 < 450, name


def test_an_interaction_that_does_not_fit_is_an_error_with_its_place():
    task = SmatTask(smat().config, ToySource(), ToySource(), CODEC, 6)
    with pytest.raises(DataError, match="turn 0"):
        task.validate(tiny_model())


# Validation


def test_answers_are_right_where_every_token_is_the_likeliest():
    model, task = tiny_model(), smat()
    batch, conversations = task.batch(task.held_out, 2, "multi-step", 0, 4)
    stm0 = task.stm0(model, 4, "validation")
    right = answered_right(batch, likeliest_answers(model, stm0, batch))
    stm = stm0
    for turn in range(2):
        stm = model.write_memory(stm, batch.writes.ids[turn], batch.writes.mask[turn])
        likeliest = model.decode(batch.turns.ids[turn], batch.turns.mask[turn], stm).argmax(-1)[:, :-1]
        correct = (likeliest == batch.turns.ids[turn][:, 1:]) | ~batch.answer[turn][:, 1:]
        assert torch.equal(right[turn], correct.all(1))
    asking = asks_something(conversations, 3)
    assert asking[:2].T.tolist() == [[bool(i.asks) for i in c.follow_ups] for c in conversations]
    assert not asking[2].any()


@torch.no_grad()
def test_memory_health_does_not_count_conversations_that_have_ended():
    model, task = tiny_model(double=True), smat()
    one, _ = task.batch(task.held_out, 3, "multi-step", 0, 1)
    stm0 = task.stm0(model, 1, "validation")
    both = {}
    for steps in (3, 1):
        conversations = ToySource().take(steps=3, strategy="multi-step", start=0, count=1)
        conversations += ToySource().take(steps=steps, strategy="multi-step", start=7, count=1)
        both[steps] = memory_health(model, stm0.expand(-1, 2, -1, -1), episode_batch(conversations, CODEC, LENGTH))["drift"]
    alone = memory_health(model, stm0, one)["drift"]
    first, _ = task.batch(ToySource(), 1, "multi-step", 7, 1)
    short = memory_health(model, stm0, first)["drift"]
    # Three writes of the long one and one of the short one.
    assert both[1] == pytest.approx((3 * alone + short) / 4, rel=1e-9)
    assert both[3] != pytest.approx(both[1])


def test_validation_changes_nothing(tmp_path):
    for name, make in TASKS.items():
        model, task = tiny_model(), make()
        before = by_group(model)
        assert task.validate(model) == task.validate(model), name
        assert not changed(before, by_group(model))
