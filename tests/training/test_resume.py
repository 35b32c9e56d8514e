"""Runs that are killed or interrupted anywhere and go on leave the bytes of a run that never stopped."""

import itertools
import json
import multiprocessing
import os
import random
import signal
from collections.abc import Iterator

import pytest
import torch

from rxrl import writing
from rxrl.envs import ConversationVectorEnv
from rxrl.errors import CheckpointError, Interrupted, WriteError
from rxrl.manifest import write_manifest
from rxrl.runs import run as run_module
from rxrl.runs import signals
from rxrl.runs.checkpoints import BEST, STATE_FILE, load_state, numbered
from rxrl.training import trainer as trainer_module
from rxrl.training.callbacks import Callback
from rxrl.training.learner import Learner
from rxrl.training.step_back import Guard
from tests.training.resume_worker import run, trainer_in, weights_of
from tests.training.toy import MIXED, ToySource, earned, recall

pytestmark = pytest.mark.slow

KILLS = 10


@pytest.fixture(scope="module")
def server():
    """Processes that begin with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.resume_worker"])
    return context


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    trainer = trainer_in(folder)
    trainer.train()
    return trainer


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def assert_same(folder, found, whole):
    assert (folder / "metrics.jsonl").read_bytes() == (whole.folder / "metrics.jsonl").read_bytes()
    assert same(found["weights"], weights_of(whole))
    assert found["stages"] == whole.state.stages
    names = [[path.name for path in numbered(each / "checkpoints", kind)] for each in (folder, whole.folder) for kind in ("step", BEST)]
    assert names[:2] == names[2:]


def test_killed_ten_times_at_random_moments(server, whole, tmp_path):
    """The kernel ends the process, after a random time of computing: in a write, in an update, in an evaluation, at a stage's border."""

    def child(folder, seconds):
        process = server.Process(target=run, args=(str(folder), seconds))
        process.start()
        process.join()
        return process.exitcode

    assert child(tmp_path / "first", None) == 0
    length = torch.load(tmp_path / "first" / "end.pt", weights_only=False)["seconds"]
    draws, kills = random.Random(5), 0
    for attempt in itertools.count():
        folder = tmp_path / str(attempt)
        while (code := child(folder, draws.uniform(0.02, 0.7) * length if kills < KILLS else None)) != 0:
            assert code == -signal.SIGPROF
            kills += 1
        assert_same(folder, torch.load(folder / "end.pt", weights_only=False), whole)
        if kills >= KILLS:
            break


class Stop(Exception):
    """Ends a run from outside."""


def at_call(number, function, before=True):
    """The function, but its `number`-th call raises, before or after it has done its work."""
    calls = itertools.count(1)

    def stopping(*arguments, **named):
        last = next(calls) == number
        if last and before:
            raise Stop
        result = function(*arguments, **named)
        if last:
            raise Stop
        return result

    return stopping


MOMENTS = {
    "in the middle of an evaluation": (ConversationVectorEnv, "step", 9),
    "in the first evaluation of the second stage": (trainer_module, "play_conditions", 5),
    "between the two halves of an update": (Learner, "_step_critic", 7),
    "in an epoch": (Learner, "_step_actor", 14),
    "before a stage border is decided": (trainer_module.StepScheduler, "observe", 2),
    "at the first checkpoint": (run_module, "save_checkpoint", 2),
    "when old checkpoints are dropped": (run_module, "prune", 3),
    "while files of a checkpoint are written": (writing, "flush", 4),
    "before a checkpoint gets its name": (writing.Path, "rename", 3),
}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("moment", MOMENTS)
def test_stopped_at_a_chosen_moment(moment, before, whole, tmp_path, monkeypatch):
    owner, name, number = MOMENTS[moment]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, at_call(number, getattr(owner, name), before))
        with pytest.raises(Stop):
            trainer_in(tmp_path).train()
    run(str(tmp_path))
    assert_same(tmp_path, torch.load(tmp_path / "end.pt", weights_only=False), whole)


class SignalAt(Callback):
    """Sends this process a signal after an iteration's update, so that it is in the middle of things."""

    def __init__(self, number, iteration, times=1):
        self.number, self.left, self.times = number, iteration, times

    def on_update(self, metrics):
        self.left -= 1
        for _ in range(self.times if self.left == 0 else 0):
            os.kill(os.getpid(), self.number)


@pytest.fixture
def foreground() -> Iterator[None]:
    """Ctrl-C works as in a terminal, also where the tests run in the background and a shell had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_iteration_writes_a_checkpoint_and_says_so(number, code, whole, tmp_path):
    said = []
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match=r"Interrupted after iteration 3: wrote .*step-000003; go on with --resume") as stop:
        trainer_in(tmp_path, callbacks=[SignalAt(number, 3)]).train(said.append)
    assert stop.value.exit_code == code
    assert len(said) == 1
    assert "finishing this iteration" in said[0]
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    run(str(tmp_path))
    found = torch.load(tmp_path / "end.pt", weights_only=False)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole.folder / "metrics.jsonl").read_bytes()
    assert same(found["weights"], weights_of(whole))


@pytest.mark.usefixtures("foreground")
def test_a_second_signal_leaves_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "SAME", 0.0)
    with pytest.raises(Interrupted, match="at once"):
        trainer_in(tmp_path, callbacks=[SignalAt(signal.SIGINT, 3, times=2)]).train()
    assert [path.name for path in numbered(tmp_path / "checkpoints")] == ["step-000002"]


@pytest.mark.usefixtures("foreground")
def test_a_signal_that_comes_twice_at_once_is_one(tmp_path):
    with pytest.raises(Interrupted, match="after iteration 3"):
        trainer_in(tmp_path, callbacks=[SignalAt(signal.SIGINT, 3, times=2)]).train()


def test_a_full_disk_ends_the_run_with_a_sentence_and_older_checkpoints_stay(whole, tmp_path, monkeypatch):
    calls = itertools.count(1)
    torch_save = torch.save

    def full(*arguments, **named):
        if next(calls) == 2:
            raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")
        torch_save(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(WriteError, match=r"step-000004 could not be written .* older ones are untouched"):
            trainer_in(tmp_path).train()
    assert [path.name for path in numbered(tmp_path / "checkpoints")] == ["step-000002"]
    assert not list((tmp_path / "checkpoints").glob(".*"))
    run(str(tmp_path))
    assert_same(tmp_path, torch.load(tmp_path / "end.pt", weights_only=False), whole)


def test_metrics_that_cannot_be_written_are_a_sentence(tmp_path):
    trainer = trainer_in(tmp_path)
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(WriteError, match=r"metrics.jsonl could not be written .* go on with --resume"):
        trainer.train()


@pytest.mark.parametrize("key", ["format", "log", "scheduler", "alarms", "trackers", "trainer"])
def test_a_checkpoint_of_another_version_is_refused_by_the_name_of_what_it_lacks(key, tmp_path):
    trainer_in(tmp_path, max_iterations=2).train()
    file = numbered(tmp_path / "checkpoints")[-1] / STATE_FILE
    state = json.loads(file.read_text())
    del state[key]
    file.write_text(json.dumps(state))
    write_manifest(file.parent, [each.name for each in file.parent.iterdir()])
    with pytest.raises(CheckpointError, match=rf"{STATE_FILE} lacks {key!r}.*another version.*--from"):
        trainer_in(tmp_path, max_iterations=2).resume()


def test_settings_that_only_watch_may_differ_when_a_run_goes_on(tmp_path):
    trainer_in(tmp_path, max_iterations=2).train()
    assert trainer_in(tmp_path, max_iterations=2, keep_checkpoints=5, alarms={"stop": True}).resume()
    with pytest.raises(CheckpointError, match=r"another configuration \(max_iterations, optimizer.learning_rate\)"):
        trainer_in(tmp_path, max_iterations=3, optimizer={"learning_rate": 0.5, "learning_rates": {"encoder": 0.01}}).resume()


@pytest.mark.parametrize(("source", "reward", "name"), [(ToySource(), recall, "retention"), (MIXED, earned, "held_out_reward")])
def test_the_best_weights_are_kept_and_a_later_stage_counts_before_a_better_number(source, reward, name, tmp_path, monkeypatch):
    begun, begin = [], Guard.begin

    def noting(self, stage, standing):
        begun.append((stage + 1, standing.mean, -standing.iteration))
        begin(self, stage, standing)

    monkeypatch.setattr(Guard, "begin", noting)
    whole = trainer_in(tmp_path, source=source, reward=reward)
    whole.train()
    lines = [json.loads(line) for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    found = [(line["steps"], line[name], -line["iteration"]) for line in lines if name in line]
    assert len(found) > 3
    best = max([*found, *begun])
    if whole.guard.start.mean > best[1]:
        best = (2, whole.guard.start.mean, 0)
    [kept] = numbered(whole.folder / "checkpoints", BEST)
    state = json.loads((kept / STATE_FILE).read_text())
    assert (state["kind"], state["stage"]) == ("mrl-best", "steps-2")
    assert state[name] == pytest.approx(best[1], rel=1e-5)
    assert state["iteration"] == -best[2]
    with pytest.raises(CheckpointError, match="start from it"):
        load_state(kept)
