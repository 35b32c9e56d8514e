"""Alarms sound when their condition begins to hold, say what to do, go on after a resume, and can end a run."""

import json
import re

import pytest

from rxrl.errors import TrainingError
from rxrl.runs.checkpoints import numbered
from rxrl.training.alarms import AlarmConfig, Alarms
from rxrl.training.callbacks import Callback
from rxrl.training.config import MRLConfig
from tests.training.resume_worker import trainer_in

FINE = {
    "reward": 4.0,
    "sampler_gap": 1e-6,
    "kl": 0.1,
    "approx_kl": 0.01,
    "entropy": 0.5,
    "explained_variance": 0.3,
    "memory_drift": 0.1,
    "gate_openness": 0.3,
    "grad_norm": 2.0,
}
BAD = {
    "sampler_gap": {"sampler_gap": 0.1},
    "kl": {"kl": 3.0},
    "approx_kl": {"approx_kl": 1.0},
    "entropy": {"entropy": 0.001},
    "drift_growth": {"memory_drift": 5.0},
    "drift_floor": {"memory_drift": 0.0},
    "gate": {"gate_openness": 0.999},
    "grad_norm": {"grad_norm": 2e4},
}


def names(alarms):
    return [alarm.name for alarm in alarms]


@pytest.mark.parametrize("name", BAD)
def test_an_alarm_sounds_once_until_it_has_cleared(name):
    alarms = Alarms(AlarmConfig())
    assert names(alarms.observe(FINE)) == []
    assert names(alarms.observe(FINE | BAD[name])) == [name]
    assert names(alarms.observe(FINE | BAD[name])) == []
    assert alarms.active == {name}
    assert names(alarms.observe(FINE)) == []
    assert names(alarms.observe(FINE | BAD[name])) == [name]


@pytest.mark.parametrize("name", BAD)
def test_null_turns_an_alarm_off(name):
    alarms = Alarms(AlarmConfig(**{name: None}))
    alarms.observe(FINE)
    assert names(alarms.observe(FINE | BAD[name])) == []


def test_a_gate_that_is_shut_is_as_bad_as_one_that_is_open():
    assert names(Alarms(AlarmConfig()).observe(FINE | {"gate_openness": 0.001})) == ["gate"]


def test_low_entropy_is_mastery_where_the_reward_is_high():
    assert names(Alarms(AlarmConfig()).observe(FINE | {"entropy": 0.001, "reward": 9.0})) == []


def test_iterations_without_advantage_sound_where_they_go_on_at_a_low_reward():
    alarms = Alarms(AlarmConfig(without_advantage=3))
    stuck = FINE | {"without_advantage": 1.0, "reward": 0.0}
    rows = [stuck, stuck, FINE | {"without_advantage": 0.5}, stuck, stuck, stuck, stuck, FINE | {"without_advantage": 0.0}]
    assert [names(alarms.observe(row)) for row in rows] == [[], [], [], [], [], ["without_advantage"], [], []]
    mastered = Alarms(AlarmConfig(without_advantage=1))
    assert names(mastered.observe(FINE | {"without_advantage": 1.0, "reward": 10.0})) == []
    assert names(Alarms(AlarmConfig(without_advantage=None)).observe(stuck)) == []


def test_a_reward_that_scores_nothing_is_named_and_entropy_is_not_blamed():
    nothing = FINE | {"reward": None, "entropy": None, "kl": None, "approx_kl": None, "explained_variance": None, "without_advantage": 1.0}
    alarms = Alarms(AlarmConfig(without_advantage=1))
    [alarm] = alarms.observe(nothing | {"entropy": 0.0, "reward/held": None})
    assert alarm.name == "unscored"
    assert alarm.message.startswith("No turn was scored in 1 iteration:")
    assert names(alarms.observe(nothing)) == []
    assert names(alarms.observe(FINE)) == []
    patient = Alarms(AlarmConfig(unscored=2))
    assert names(patient.observe(nothing)) == []
    patient.load_state_dict(json.loads(json.dumps(patient.state_dict())))
    assert "in 2 iterations in a row" in patient.observe(nothing)[0].message
    assert names(Alarms(AlarmConfig(unscored=None)).observe(nothing)) == []


def test_iterations_without_advantage_are_counted_across_a_resume():
    stuck, before, after = FINE | {"without_advantage": 1.0}, *(Alarms(AlarmConfig(without_advantage=2)) for _ in range(2))
    assert names(before.observe(stuck)) == []
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert names(after.observe(stuck)) == ["without_advantage"]


def test_the_critic_has_time_to_learn():
    alarms = Alarms(AlarmConfig(patience=3))
    sounded = [names(alarms.observe(FINE | {"explained_variance": value})) for value in (-1.0, -1.0, -1.0, 0.9, 0.9, 0.9, -5.0)]
    assert sounded == [[], [], ["explained_variance"], [], [], [], ["explained_variance"]]


def evaluations(alarms, rewards, retentions):
    found = []
    for reward, retention in zip(rewards, retentions, strict=True):
        found += alarms.observe(FINE | {"reward": reward, "reward/form": reward, "reward/held": 5.0})
        found += alarms.observe(FINE | {"reward": reward, "reward/form": reward, "reward/held": 5.0, "retention": retention})
    return names(found)


def test_a_reward_term_that_rises_while_retention_falls_is_named():
    rising, falling = [3.0, 3.1, 4.0, 4.5], [0.8, 0.8, 0.6, 0.5]
    config = AlarmConfig(evaluations=4)
    assert evaluations(Alarms(config), rising, falling) == ["parting reward", "parting reward/form"]
    assert evaluations(Alarms(config), rising, falling[::-1]) == []
    assert evaluations(Alarms(config), rising[::-1], falling) == []


def test_the_state_goes_through_json():
    config = AlarmConfig(evaluations=4, patience=3)
    lines = [FINE | {"explained_variance": -1.0, "reward/form": value, "retention": 1 - value / 10} for value in (1.0, 2.0, 6.0, 7.0, 8.0)]
    whole, sounded = Alarms(config), []
    for line in lines:
        sounded.append(names(whole.observe(line)))
    for cut in range(len(lines)):
        first, second = Alarms(config), Alarms(config)
        found = [names(first.observe(line)) for line in lines[:cut]]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert found + [names(second.observe(line)) for line in lines[cut:]] == sounded
    assert any(sounded)


def test_advice_names_settings_that_exist():
    config, alarms = MRLConfig(), Alarms(AlarmConfig(evaluations=4, patience=2))
    found = alarms.observe(FINE | {"explained_variance": -1.0})
    for change in BAD.values():
        found += alarms.observe(FINE | {"explained_variance": -1.0} | change)
    for reward, retention in zip((1.0, 1.0, 5.0, 5.0), (0.9, 0.9, 0.1, 0.1), strict=True):
        found += alarms.observe(FINE | {"reward": reward, "retention": retention})
    assert {alarm.name for alarm in found} == {*BAD, "explained_variance", "parting reward"}
    named = {match for alarm in found for match in re.findall(r"\b(?:algorithm|optimizer|critic_optimizer|alarms)\.\w+", alarm.message)}
    assert len(named) > 5
    for path in named:
        part, field = path.split(".")
        assert hasattr(getattr(config, part), field), path


class Heard(Callback):
    def __init__(self):
        self.alarms = []

    def on_alarm(self, alarm):
        self.alarms.append(alarm.name)


def test_a_training_reports_alarms_and_goes_on(tmp_path):
    heard = Heard()
    trainer_in(tmp_path, callbacks=[heard], alarms={"gate": 0.49}, max_iterations=3).train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert heard.alarms == ["gate"]
    assert [line.get("alarms") for line in lines] == [["gate"]] * 3


def test_a_training_stops_on_an_alarm_after_a_checkpoint_and_can_go_on_without(tmp_path):
    with pytest.raises(TrainingError, match=r"alarm 'gate': .* Wrote .*step-000001"):
        trainer_in(tmp_path, alarms={"gate": 0.49, "stop": True}).train()
    assert [path.name for path in numbered(tmp_path / "checkpoints")] == ["step-000001"]
    trainer = trainer_in(tmp_path, alarms={"gate": None})
    assert trainer.resume()
    trainer.train()
    assert trainer.scheduler.finished
