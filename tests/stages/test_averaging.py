"""Moving averages of weights: their value by hand, what they are used for, and that they go on where they were cut."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

from rxrl.models import ReactiveTransformer
from rxrl.runs.averaging import MovingAverage
from rxrl.runs.checkpoints import BEST, numbered
from rxrl.stages.config import LanguageConfig
from tests.stages.small import TASKS, Each, by_group, changed, lines, memory_attention, pretrain, runner_in, smat
from tests.training.toy import tiny_model

AVERAGED = {**TASKS, "smat": partial(smat, ((1, 3, None), (3, 3, None)), unfreeze={"encoder": 0.5})}


def flat(weights):
    return torch.cat([each.detach().flatten() for each in weights])


def test_the_average_is_that_of_the_formula_and_the_weights_come_back_bit_for_bit():
    model = nn.Linear(3, 2).double()
    average, expected = MovingAverage(model, 0.5), flat(model.parameters())
    for number in range(1, 30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(number)
        decay = min(0.5, number / (9 + number))
        expected = decay * expected + (1 - decay) * flat(model.parameters())
    trained = flat(model.parameters())
    with average.in_place():
        torch.testing.assert_close(flat(model.parameters()), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(flat(model.parameters()), trained)
    average.take()
    torch.testing.assert_close(flat(model.parameters()), expected, rtol=1e-12, atol=1e-12)


def test_the_weights_come_back_where_a_validation_fails():
    model = nn.Linear(3, 2)
    average, trained = MovingAverage(model, 0.9), flat(model.parameters()) + 1
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    with pytest.raises(ZeroDivisionError), average.in_place():
        raise ZeroDivisionError
    assert torch.equal(flat(model.parameters()), trained)


def test_training_is_what_it_is_without_and_validation_and_end_are_those_of_the_average(tmp_path):
    """What each step leaves is averaged by hand; the last validation is that of the average."""
    steps = []
    plain = runner_in(tmp_path / "plain", "pretrain", model=tiny_model(), task=pretrain())
    expected = flat(plain.model.parameters()).clone()
    plain.callbacks = (Each(lambda *_: steps.append(flat(plain.model.parameters()).clone())),)
    plain.train()
    for number, weights in enumerate(steps, start=1):
        decay = min(0.6, number / (9 + number))
        expected = torch.lerp(expected, weights, 1 - decay)
    averaged = runner_in(tmp_path / "averaged", "pretrain", model=tiny_model(), task=pretrain(ema=0.6))
    validation = averaged.train()
    torch.testing.assert_close(flat(averaged.model.parameters()), expected)
    assert not torch.equal(expected, steps[-1])
    assert validation == averaged.task.validate(averaged.model.eval(), 1.0)
    one, two = lines(tmp_path / "plain"), lines(tmp_path / "averaged")
    assert [each["loss"] for each in one] == [each["loss"] for each in two]
    assert [each["val_loss"] for each in one if "val_loss" in each] != [each["val_loss"] for each in two if "val_loss" in each]


@pytest.mark.parametrize("name", AVERAGED)
def test_a_stage_that_was_cut_ends_with_the_same_average(name, tmp_path):
    whole = runner_in(tmp_path / "whole", name, task=AVERAGED[name](ema=0.6), checkpoint_every=2)
    whole.train()
    cut = runner_in(tmp_path / "cut", name, task=AVERAGED[name](ema=0.6), checkpoint_every=2)
    for _ in range(2):
        cut.take_step()
    cut.save_resumable()
    resumed = runner_in(tmp_path / "cut", name, task=AVERAGED[name](ema=0.6), checkpoint_every=2)
    assert resumed.resume()
    resumed.train()
    assert torch.equal(flat(whole.model.parameters()), flat(resumed.model.parameters()))


def test_the_trained_weights_stay_in_the_checkpoints_and_the_best_average_is_kept(tmp_path):
    runner = runner_in(tmp_path, "smat", task=smat(((2, 4, None),), validate_every=1, finish_with="best", ema=0.9), checkpoint_every=4)
    runner.train()
    best = ReactiveTransformer.from_pretrained(numbered(runner.checkpoints, BEST)[-1])
    trained = ReactiveTransformer.from_pretrained(numbered(runner.checkpoints)[-1])
    assert not changed(by_group(best), by_group(runner.model))
    assert changed(by_group(best), by_group(trained))
    losses = [line["val_loss"] for line in lines(tmp_path)]
    found = runner.task.validate(runner.model.eval(), 1.0)
    assert found["loss"] == pytest.approx(min(losses), rel=1e-5)


def test_what_is_frozen_does_not_move_by_one_bit(tmp_path):
    runner = runner_in(tmp_path, "memory-attention", task=memory_attention(ema=0.9))
    before = by_group(copy.deepcopy(runner.model))
    runner.train()
    assert changed(before, by_group(runner.model)) == {"memory_attention"}


@pytest.mark.parametrize("decay", [0.0, 1.0, math.nan])
def test_a_decay_that_makes_no_sense_is_refused(decay):
    with pytest.raises(ValueError, match="ema"):
        LanguageConfig(ema=decay)
