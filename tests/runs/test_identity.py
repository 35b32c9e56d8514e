"""A run resumes with the same settings, however they are written, and says what was edited."""

import json
from pathlib import Path

import pytest

from rxrl.curricula import Curriculum
from rxrl.errors import CheckpointError
from rxrl.runs.identity import absolute_paths, code_files, differences, edited_files, moved_code
from rxrl.training.callbacks import Callback
from rxrl.training.config import MRLConfig
from rxrl.training.trainer import MRLTrainer
from tests.training.toy import CODEC, ToySource, tiny_model

REWARD = "def scored(turns):\n    return [5.0 for _ in turns]\n"


class Stop(Exception):
    pass


class StopAt(Callback):
    def on_iteration(self, progress):
        if progress.iteration == 3:
            raise Stop


def trainer_with(folder, reward, callbacks=()):
    settings = {"episodes": 4, "max_answer_tokens": 4, "evaluation": {"every": 2, "conversations": 4}, "checkpoint_every": 2}
    return MRLTrainer(
        tiny_model(),
        CODEC,
        curriculum=Curriculum.custom([{"steps": 1, "iterations": 4}]),
        source=ToySource(),
        held_out=ToySource(),
        config=MRLConfig(reward=reward, **settings),
        folder=folder,
        callbacks=callbacks,
    )


def started(folder, reward):
    with pytest.raises(Stop):
        trainer_with(folder, reward, [StopAt()]).train()


def resumed(folder, reward):
    trainer = trainer_with(folder, reward)
    assert trainer.resume()
    return trainer


def test_a_reward_file_may_be_named_from_another_working_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path / "here")
    started(tmp_path / "run", "mine.py:scored")
    monkeypatch.chdir(tmp_path)
    resumed(tmp_path / "run", "here/mine.py:scored")
    resumed(tmp_path / "run", f"{tmp_path}/here/mine.py:scored").train()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4


def test_a_file_that_was_moved_with_its_content_is_the_same_reward_and_another_file_is_another(tmp_path):
    for name, text in (("mine.py", REWARD), ("copy.py", REWARD), ("other.py", REWARD + "# other\n")):
        (tmp_path / name).write_text(text)
    started(tmp_path / "run", f"{tmp_path}/mine.py:scored")
    resumed(tmp_path / "run", f"{tmp_path}/copy.py:scored")
    with pytest.raises(CheckpointError, match=r"another configuration \(reward\)"):
        resumed(tmp_path / "run", f"{tmp_path}/other.py:scored")


def test_a_reward_file_that_was_edited_is_said_to_and_used_as_it_is_now(tmp_path, caplog):
    (tmp_path / "mine.py").write_text(REWARD)
    started(tmp_path / "run", f"{tmp_path}/mine.py:scored")
    (tmp_path / "mine.py").write_text(REWARD.replace("5.0", "7.0"))
    resumed(tmp_path / "run", f"{tmp_path}/mine.py:scored")
    assert "mine.py was edited since step-000002 was written; the run goes on with the file as it is now." in caplog.text


def test_paths_are_made_absolute_and_nothing_else_is(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").touch()
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "retention").mkdir()
    monkeypatch.chdir(tmp_path)
    plain = {
        "reward": "retention",
        "env": "package.module:Class",
        "data": ["rows.jsonl", "data/sub", "missing.jsonl", "owner/name", "rows.jsonl:train"],
        "number": 1.5,
        "text": "a\nb.py",
        "long": "x" * 5000 + ".py",
    }
    absolute = absolute_paths(plain)
    assert absolute["data"] == [
        f"{tmp_path}/rows.jsonl",
        f"{tmp_path}/data/sub",
        "missing.jsonl",
        "owner/name",
        f"{tmp_path}/rows.jsonl:train",
    ]
    assert {**absolute, "data": None} == {**plain, "data": None}
    assert json.loads(json.dumps(absolute)) == absolute_paths(absolute)


def test_differences_are_named_and_watching_ones_are_not():
    saved = {"a": 1, "b": {"c": 2.0, "d": [1]}, "tracking": {"wandb": "off"}}
    assert differences(saved, {"a": 1.0, "b": {"c": 2, "d": [1]}, "tracking": {"wandb": "on"}}, {"tracking"}) == []
    assert differences(saved, {"a": 1, "b": {"c": 3, "e": 0}}, {"b.c"}) == ["b.d", "b.e", "tracking"]


def test_code_is_told_by_content(tmp_path):
    (tmp_path / "a.py").write_text("1")
    settings = {"reward": f"{tmp_path}/a.py:f", "data": f"{tmp_path}/a.py.jsonl"}
    before = code_files(settings)
    assert list(before) == [f"{tmp_path}/a.py"]
    Path(tmp_path / "a.py").rename(tmp_path / "b.py")
    now = code_files({"reward": f"{tmp_path}/b.py:f"})
    assert moved_code(settings, before, now) == {"reward": f"{tmp_path}/b.py:f", "data": f"{tmp_path}/a.py.jsonl"}
    assert edited_files({"x": "1", "y": "2"}, {"x": "1", "y": "3", "z": "4"}) == ["y"]
