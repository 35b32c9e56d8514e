"""Every key that a training logs is explained in docs/guides/metrics.md, and so is every alarm."""

import json
import re
from pathlib import Path

import pytest

from rxrl.algorithms import BUILT_IN
from rxrl.training.alarms import AlarmConfig
from tests.training.processes_worker import EVERYTHING
from tests.training.resume_worker import trainer_in
from tests.training.toy import MIXED, ToySource

PAGE = (Path(__file__).parents[2] / "docs/guides/metrics.md").read_text(encoding="utf-8")
EXPLAINED = set(re.findall(r"`([\w./-]+)`", PAGE))


def general(key):
    """A key as the page writes it."""
    return re.sub(r"^signal/[a-z]+", "signal/NAME", re.sub(r"^(reward\w*)/.*", r"\1/NAME", key))


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("critic", ["text", "shared"])
def test_every_key_is_explained(name, critic, tmp_path):
    algorithm = {"name": name, **EVERYTHING, "group_size": 2}
    algorithm["experimental"] = {**EVERYTHING["experimental"], "adaptive_kl": 0.1}
    source = MIXED if BUILT_IN[name].plays else ToySource()
    trainer_in(tmp_path, algorithm=algorithm, source=source, critic=critic, alarms={"gate": 0.49}, episodes=4, max_iterations=2).train()
    for file in ("metrics.jsonl", "timings.jsonl"):
        lines = [json.loads(line) for line in (tmp_path / file).read_text().splitlines()]
        keys = {general(key) for line in lines for key in line}
        assert len(keys) > 10
        assert keys <= EXPLAINED, keys - EXPLAINED


def test_the_keys_of_signals_are_explained(tmp_path):
    signals = {"reward": 1, "reference": 1, "imitation": {"options": {"above": 0.0}}}
    trainer_in(tmp_path, source=ToySource(), signals=signals, max_iterations=2).train()
    found = {general(key) for key in json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[1])}
    assert "signal/NAME" in found
    assert {key for key in found if key.startswith("signal/")} <= EXPLAINED


def test_every_alarm_is_explained():
    assert {f"alarms.{name}" for name in AlarmConfig.model_fields} <= {each.partition(":")[0] for each in EXPLAINED | {"alarms.stop"}}


def test_nothing_is_explained_that_is_not_a_setting():
    named = {each.removeprefix("alarms.") for each in EXPLAINED if each.startswith("alarms.")}
    assert named <= set(AlarmConfig.model_fields)
