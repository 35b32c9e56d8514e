"""Stages: what learns when, how the phases of SMAT follow one another, and when reading ends."""

from dataclasses import replace

import pytest
from torch.nn import functional

from rxrl.config import parse_config
from rxrl.errors import ConfigError
from rxrl.runs.optim import OptimizerConfig
from rxrl.stages.config import SmatConfig, SmatPhase
from rxrl.stages.losses import reading_loss
from rxrl.stages.runner import StageRunner
from rxrl.stages.tasks import (
    SmatTask,
)
from rxrl.types import PARAMETER_GROUPS, TokenBatch
from scripts.learning import CODEC, RecallSource
from tests.stages.small import COMMON, Each, by_group, changed, reading, runner_in, smat
from tests.training.toy import tiny_model


def test_smat_unfreezes_group_by_group(tmp_path):
    """The decoder first, then memory attention, then the encoder."""
    unfreeze = {"memory_attention": 0.25, "encoder": 0.5, "embedding": 0.5}
    seen = []
    runner = runner_in(
        tmp_path, task=smat(((2, 8, None),), unfreeze=unfreeze), callbacks=[Each(lambda *_: seen.append(by_group(runner.model)))]
    )
    start = by_group(runner.model)
    runner.train()
    decoder = {"decoder", "decoder_memory"}
    moved = [changed(a, b) for a, b in zip([start, *seen], seen, strict=False)]
    assert moved == [decoder] * 2 + [decoder | {"memory_attention"}] * 2 + [set(PARAMETER_GROUPS)] * 4


@pytest.mark.parametrize(
    ("unfreeze", "reason"),
    [
        ({"encodr": 0.5}, "encod"),
        ({"encoder": 1.5}, "less than 1"),
        (dict.fromkeys(PARAMETER_GROUPS, 0.5), "no group is trained at the start"),
    ],
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
    runner.train()
    assert [steps for steps, _, _ in lengths] == [1, 1, 3, 3, 3]
    # Every conversation of the sequence is used once.
    position = 0
    for _, start, count in lengths:
        assert start == position
        position += count


def test_validations_without_an_accuracy_are_refused():
    with pytest.raises(ConfigError, match=r"phases.0.validations: give `accuracy` too"):
        parse_config({"phases": [{"steps": 1, "iterations": 9, "validations": 3}]}, SmatConfig)


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
    runner = StageRunner(
        "smat", model, CODEC, task, config, tmp_path, callbacks=[Each(lambda *given: steps.append(given[3].get("val_steps")))]
    )
    for _ in range(60):
        runner.take_step()
        if runner.step % 5 == 0 and not task.phase_done(task.validate(model, 0.5)) and task.phase == 1:
            break
    assert task.phase == 1
    assert task.phase_start == runner.step < 60
    assert not task.phase_done({"asking_accuracy": 1.0})


def test_reading_answers_from_the_interaction_before_and_ends_once_it_can():
    model, task = tiny_model(), reading(accuracy=0.75)
    batch = task.batch(task.source, 1, "multi-step", 0, 6)
    result, likeliest = reading_loss(model, batch)
    assert likeliest.shape == batch.turns.ids[batch.answer].shape
    result.loss.backward()
    reached = {group: any(p.grad is not None and p.grad.any() for _, p in named) for group, named in model.group_parameters().items()}
    assert reached == {group: group != "memory_attention" for group in PARAMETER_GROUPS}
    other = replace(batch, writes=TokenBatch(batch.writes.ids.roll(1, dims=1), batch.writes.mask.roll(1, dims=1)))
    assert reading_loss(model, other)[0].loss != result.loss
    padded = TokenBatch(functional.pad(batch.writes.ids, (0, 3), value=9), functional.pad(batch.writes.mask, (0, 3)))
    assert reading_loss(model, replace(batch, writes=padded))[0].loss.item() == pytest.approx(result.loss.item(), abs=1e-5)
    assert [task.phase_done({"asking_accuracy": accuracy}) for accuracy in (0.7, 0.8)] == [False, True]
    assert not reading().phase_done({"asking_accuracy": 1.0})


@pytest.mark.parametrize(("accuracy", "reached", "says"), [(0.9, 0.5, True), (0.9, 0.95, False), (None, 0.5, False)])
def test_reading_says_that_it_ended_short_of_its_accuracy(tmp_path, monkeypatch, accuracy, reached, says):
    task = reading(accuracy=accuracy, iterations=2, validate_every=1)
    monkeypatch.setattr(type(task), "validate", lambda *_: {"loss": 1.0, "asking_accuracy": reached})
    said = []
    runner_in(tmp_path, task=task).train(said.append)
    assert [("0.500 of the validation answers right" in text, "Raise its iterations" in text) for text in said] == [(True, True)] * says


def test_a_last_phase_that_is_learned_ends_the_stage():
    task = smat(((2, 50, 0.9),))
    assert not task.phase_done({"asking_accuracy": 0.89})
    assert not task.phase_done({})
    assert task.phase_done({"asking_accuracy": 0.9})
