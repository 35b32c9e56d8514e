"""Supervised stages on a GPU: they train what they should, go on after a stop, and begin with the loss of a CPU."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from tests.gpu.parts import gap
from tests.stages.small import TASKS, Each, lines, runner_in
from tests.training.toy import tiny_model


def model():
    return tiny_model(initial_memory="learned")


@pytest.mark.parametrize("name", TASKS)
def test_a_stage_begins_with_the_loss_of_a_cpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here = runner_in(tmp_path / "gpu", name, model=model())
    assert here.processes.device.type == here.model.device.type == "cuda"
    validation = here.train()
    assert all(math.isfinite(value) for value in validation.values())
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    there = runner_in(tmp_path / "cpu", name, model=model())
    assert there.model.device.type == "cpu"
    expected = there.train()
    found, wanted = lines(tmp_path / "gpu"), lines(tmp_path / "cpu")
    assert len(found) == len(wanted) == 4
    assert found[0]["loss"] == pytest.approx(wanted[0]["loss"], rel=1e-4)
    assert found[0]["grad_norm"] == pytest.approx(wanted[0]["grad_norm"], rel=1e-3)
    assert validation["loss"] == pytest.approx(expected["loss"], rel=0.02)


@pytest.mark.parametrize("name", TASKS)
def test_a_stage_trains_in_mixed_precision(name: str, tmp_path: Path):
    Accelerator(mixed_precision="bf16")
    runner = runner_in(tmp_path, name, model=model())
    assert runner.processes.accelerator.mixed_precision == "bf16"
    runner.train()
    assert all(math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"]) for line in lines(tmp_path))


class Stop(Exception):
    """Ends a run from outside."""


def stop(name: str, step: int, total: int, metrics: object) -> None:
    if step == 3:
        raise Stop


def test_a_resumed_stage_ends_where_one_that_was_never_stopped_does(tmp_path: Path):
    whole = runner_in(tmp_path / "whole", model=model())
    whole.train()
    with pytest.raises(Stop):
        runner_in(tmp_path / "cut", model=model(), checkpoint_every=2, callbacks=[Each(stop)]).train()
    again = runner_in(tmp_path / "cut", model=tiny_model(seed=4, initial_memory="learned"))
    assert again.resume()
    assert again.step == 2
    again.train()
    found, expected = ({name: value for name, value in each.model.state_dict().items() if value.any()} for each in (again, whole))
    assert found.keys() == expected.keys()
    assert all(gap(value, expected[name]) < 1e-3 for name, value in found.items())
