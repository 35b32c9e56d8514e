"""Trackers get every number; those that can go on with a run do; times stand apart."""

import json
import sys
import time
from typing import ClassVar

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from rxrl.errors import ConfigError, MissingExtraError
from rxrl.runs.trackers import Tracker, TrackingConfig, open_trackers
from rxrl.runs.tracking import Clock, MetricsLog
from rxrl.training.callbacks import Callback
from tests.training.resume_worker import trainer_in


class Kept(Tracker):
    name = "kept"

    def __init__(self):
        self.opened, self.lines, self.finished = [], [], 0

    def open(self, run_id=None):
        self.opened.append(run_id)
        self.id = run_id or "made-up"

    def log(self, metrics):
        self.lines.append(metrics)

    def finish(self):
        self.finished += 1


def test_a_resumed_run_goes_on_under_the_same_tracker_id(tmp_path, monkeypatch):
    class Stop(Callback):
        def on_update(self, metrics):
            self.seen = getattr(self, "seen", 0) + 1
            if self.seen == 4:
                raise RuntimeError

    first, second = Kept(), Kept()
    monkeypatch.setattr("rxrl.training.trainer.open_trackers", lambda *_: (first,))
    with pytest.raises(RuntimeError):
        trainer_in(tmp_path, callbacks=[Stop()]).train()
    monkeypatch.setattr("rxrl.training.trainer.open_trackers", lambda *_: (second,))
    trainer = trainer_in(tmp_path)
    assert trainer.resume()
    trainer.train()
    assert (first.opened, second.opened) == ([None], ["made-up"])
    assert (first.finished, second.finished) == (1, 1)
    assert [line["iteration"] for line in second.lines] == [3, 4, 5, 6, 7]
    assert "seconds/collect" in second.lines[0]
    assert "speed/tokens_per_second" in second.lines[0]
    assert not [key for key in second.lines[0] if key.startswith("seconds/") and "per_second" in key]


def test_tensorboard_holds_the_numbers(tmp_path):
    from tensorboard.backend.event_processing import event_accumulator as accumulator

    trainer_in(tmp_path, tracking={"tensorboard": True}, max_iterations=3).train()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = events.Scalars("mrl/reward")
    assert [event.step for event in found] == [1, 2, 3]
    assert [event.value for event in found] == pytest.approx([line["reward"] for line in lines])
    assert len(events.Scalars("mrl/seconds/update")) == 3


def test_a_missing_tensorboard_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rxrl\[tensorboard\]'"):
        trainer_in(tmp_path / "run", tracking={"tensorboard": True})
    assert not (tmp_path / "run").exists()


def test_wandb_is_handed_an_id_to_go_on_with(tmp_path, monkeypatch):
    class Fake:
        def init(self, **options):
            self.options = options
            return self

        def define_metric(self, *names, **options):
            pass

    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    [tracker] = open_trackers(TrackingConfig(wandb="online"), tmp_path, {})
    tracker.open()
    made = fake.options["id"]
    tracker.open(made)
    assert (fake.options["id"], fake.options["resume"], tracker.id) == (made, "allow", made)


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path):
    kept = Kept()
    log = MetricsLog(tmp_path / "run", (kept,), writes=False)
    assert log.write({"iteration": 1, "loss": 0.1234567891}) == {"iteration": 1, "loss": 0.123457}
    log.rewind()
    assert not (tmp_path / "run").exists()
    assert not kept.lines


def test_a_clock_adds_up_and_starts_anew():
    clock = Clock()
    for _ in range(2):
        with clock("outer"), clock("inner"):
            time.sleep(0.002)
    seconds = clock.take()
    assert seconds["outer"] >= seconds["inner"] >= 0.004
    assert clock.take() == {}


def test_a_clock_waits_for_what_a_gpu_has_still_to_do(monkeypatch):
    clock, waited = Clock(), []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(True))
    for begun in (False, True):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda begun=begun: begun)
        with clock("phase"):
            pass
    assert waited == [True]


def test_times_say_how_fast_and_where(tmp_path):
    trainer_in(tmp_path, max_iterations=2).train()
    first, second = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    phases = {"collect", "collect/generate", "estimate", "estimate/reference", "estimate/critic", "update", "evaluate"}
    assert phases <= first.keys() | second.keys()
    assert first["tokens_per_second"] > first["episodes_per_second"] > 0
    assert first["collect/generate"] <= first["collect"]


class FakeService:
    """A tracker as accelerate has them."""

    started: ClassVar[list] = []

    def __init__(self, project, **options):
        self.project, self.options, self.lines, self.settings = project, options, [], None
        self.started.append(self)

    def start(self):
        pass

    def store_init_configuration(self, settings):
        self.settings = settings

    def log(self, values, step=None):
        if step == 3:
            raise ConnectionError("gone")
        self.lines.append((step, values))

    def finish(self):
        self.lines.append("finished")


def test_any_service_that_accelerate_knows_gets_numbers_and_settings_and_may_fail(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(FakeService, "started", [])
    monkeypatch.setitem(sys.modules, "mlflow", sys)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "mlflow", FakeService)
    trainer_in(tmp_path, tracking={"services": ["mlflow"], "project": "mine"}, max_iterations=4).train()
    [service] = FakeService.started
    assert (service.project, service.settings["optimizer.learning_rate"]) == ("mine", 0.02)
    assert service.settings["tracking.services"] == "['mlflow']"
    assert [step for step, _ in service.lines] == [1, 2]
    assert all(isinstance(value, int | float) for _, values in service.lines for value in values.values())
    assert "mlflow fails and gets no more metrics; metrics.jsonl has them all. ConnectionError: gone." in caplog.text
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


def test_a_service_that_refuses_or_is_missing_is_one_sentence(tmp_path, monkeypatch):
    class Refusing(FakeService):
        def start(self):
            raise RuntimeError("No key\nwas found")

    with pytest.raises(ConfigError, match="Tracking with swanlab needs the package swanlab: install it"):
        open_trackers(TrackingConfig(services=("swanlab",)), tmp_path, {})
    monkeypatch.setitem(sys.modules, "mlflow", sys)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "mlflow", Refusing)
    with pytest.raises(ConfigError, match=r"mlflow does not start: RuntimeError: No key was found\. Set it up as it says"):
        trainer_in(tmp_path, tracking={"services": ["mlflow"]}).train()
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("mode", [None, "offline", "disabled"])
def test_wandb_without_a_key_is_one_sentence_whatever_its_variable_says(mode, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name, value in {"HOME": str(tmp_path), "WANDB_API_KEY": "", "WANDB_SILENT": "true", "NETRC": str(tmp_path / "netrc")}.items():
        monkeypatch.setenv(name, value)
    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    with pytest.raises(ConfigError, match=r"wandb does not start: UsageError: .*Set it up as it says, or leave it out"):
        trainer_in(tmp_path / "run", tracking={"wandb": "online"}).train()


def test_wandb_offline_takes_every_line(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    trainer_in(tmp_path, tracking={"wandb": "offline"}, max_iterations=2).train()
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
