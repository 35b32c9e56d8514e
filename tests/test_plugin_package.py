"""A package of somebody else, installed by pip: its reward, environment and memory are used from the command line and from YAML."""

from __future__ import annotations

import importlib
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import gymnasium
import pytest
import yaml
from typer.testing import CliRunner

import rxrl
from rxrl.cli import main as cli
from rxrl.data import GeneratedSource, Tokenizer
from rxrl.data.rows import write_conversations
from rxrl.envs import ENVIRONMENTS
from rxrl.models import ReactiveTransformer
from rxrl.rewards import REWARDS, load_reward, samples
from rxrl.scoring import score_turns

pytestmark = pytest.mark.slow
PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "polite-rewards"
version = "1.0"

[project.entry-points."rxrl.rewards"]
polite = "polite_rewards:polite"

[project.entry-points."rxrl.envs"]
only-questions = "polite_rewards:OnlyQuestions"

[tool.setuptools]
packages = ["polite_rewards"]
"""
PACKAGE = '''
"""Rewards for good manners."""

from rxrl.envs import ConversationVectorEnv


def polite(turns, word="please"):
    """10 for an answer with a polite word."""
    return [10.0 if word in turn.answer.lower() else 0.0 for turn in turns]


class OnlyQuestions(ConversationVectorEnv):
    """Turns that ask for nothing earn nothing."""

    def step(self, actions):
        observation, rewards, terminated, truncated, info = super().step(actions)
        return observation, rewards * info["asking"], terminated, truncated, info


class Notebook:
    """Counts how much was written into each row."""

    def init(self, seeds):
        return [0 for _ in seeds]

    def write(self, memory, interactions, rows):
        lengths = interactions.lengths.tolist()
        return [count + length * bool(row) for count, length, row in zip(memory, lengths, rows.tolist(), strict=True)]

    def reset_rows(self, memory, rows, fresh):
        return [new if row else old for old, new, row in zip(memory, fresh, rows.tolist(), strict=True)]

    def select_rows(self, memory, indices):
        return [memory[index] for index in indices]
'''
BRIEF = '''
def brief(turns, limit=8):
    """10 up to `limit` words, then less."""
    return [10.0 * min(1.0, limit / max(1, len(turn.answer.split()))) for turn in turns]
'''
MRL = {
    "reward": {"retention": 0.8, "polite": {"weight": 0.1, "word": "thank"}, "brief": {"use": "brief.py:brief", "weight": 0.1, "limit": 4}},
    "env": "only-questions",
    "episodes": 2,
    "max_answer_tokens": 3,
    "max_iterations": 1,
    "evaluation": {"every": 1, "conversations": 2},
}
CURRICULUM = {"name": "short", "stages": [{"steps": 2, "iterations": 1}]}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that pip has installed the package into, without network."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "polite_rewards").mkdir()
    (source / "polite_rewards" / "__init__.py").write_text(PACKAGE)
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(target)]
    done = subprocess.run([*pip, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def folder(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Working folder of somebody who has installed the package."""
    path = tmp_path_factory.mktemp("work")
    (path / "brief.py").write_text(BRIEF)
    (path / "mrl.yaml").write_text(yaml.safe_dump(MRL))
    (path / "short.yaml").write_text(yaml.safe_dump(CURRICULUM))
    rows = GeneratedSource(level=1, seed=0, split="train").take(steps=2, strategy="multi-step", start=0, count=12)
    write_conversations(path / "talks.jsonl", rows)
    held_out = GeneratedSource(level=1, seed=0, split="test").take(steps=2, strategy="multi-step", start=0, count=4)
    write_conversations(path / "held.jsonl", held_out)
    texts = [text for each in rows for turn in each.interactions for text in (turn.query, turn.answer)]
    tokenizer = Tokenizer.train(texts, 300)
    ReactiveTransformer.from_preset("pico", vocab_size=tokenizer.vocab_size).save_pretrained(path / "start")
    tokenizer.save(path / "start")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(installed))
        importlib.invalidate_caches()
        patch.chdir(path)
        patch.setenv("COLUMNS", "200")
        yield path
    sys.modules.pop("polite_rewards", None)


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, list(arguments))
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def test_its_reward_is_listed_shown_and_tried(folder: Path) -> None:
    assert distribution("polite-rewards").version == "1.0"
    assert "polite" in REWARDS.names()
    line = next(line for line in run("rewards", "list").splitlines() if " polite " in line)
    assert "polite-rewards" in line
    assert "10 for an answer with a polite word." in line
    assert "polite(turns, word='please')" in run("rewards", "show", "polite")
    assert "Passed." in run("rewards", "check", "polite")
    assert "Passed." in run("rewards", "check", "brief.py:brief")
    assert "Passed." in run("rewards", "check", "mrl.yaml")


def test_its_reward_is_named_in_errors_and_can_be_pickled(folder: Path) -> None:
    assert "Unknown option 'wrod'" in run("rewards", "check", "{polite: {wrod: x}}", code=2)
    turns = [sample.turn for sample in samples()]
    reward = load_reward(MRL["reward"])
    assert score_turns(pickle.loads(pickle.dumps(reward)), turns) == score_turns(reward, turns)


def test_another_process_finds_it_too(folder: Path, installed: Path) -> None:
    program = "import sys; from rxrl.cli.main import main; main()"
    environment = {
        "PYTHONPATH": f"{installed}:{Path(rxrl.__file__).parents[1]}",
        "PATH": "/usr/bin:/bin",
        "COLUMNS": "200",
        "HOME": str(folder),
    }
    command = [sys.executable, "-c", program, "rewards", "show", "polite"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "10 for an answer with a polite word." in done.stdout


def test_its_environment_and_rewards_train_from_yaml(folder: Path) -> None:
    shared = ("--from", "start", "--data", "talks.jsonl", "--held-out", "held.jsonl", "--curriculum", "short.yaml", "--config", "mrl.yaml")
    run("train", *shared, "--out", "runs/dry", "--dry-run")
    run("train", *shared, "--out", "runs/mine")
    [line] = [json.loads(line) for line in Path("runs/mine/metrics.jsonl").read_text().splitlines()]
    assert {"reward/polite", "reward/brief", "reward/retention"} < set(line)
    assert line.get("reward_not_asking", 0.0) == 0.0
    assert yaml.safe_load(Path("runs/mine/config.yaml").read_text())["env"] == "only-questions"
    assert "Did you mean 'only-questions'" in run("train", *shared, "--out", "runs/no", "--dry-run", "--env", "only-question", code=2)


def test_its_environment_is_found_by_name(folder: Path) -> None:
    import polite_rewards

    assert ENVIRONMENTS.find("only-questions") is polite_rewards.OnlyQuestions
    assert ENVIRONMENTS.find("polite_rewards:OnlyQuestions") is polite_rewards.OnlyQuestions


def test_its_memory_is_played_with(folder: Path) -> None:
    played = run("play", "talks.jsonl", "--policy", "oracle", "--memory", "polite_rewards:Notebook", "--reward", "mrl.yaml")
    assert "polite" in played
    env = gymnasium.make(rxrl.ENV_ID, conversations="talks.jsonl", memory="polite_rewards:Notebook", reward="polite")
    env.reset(seed=0)
    [before] = env.unwrapped.memory
    _, reward, *_ = env.step("A cat, please.")
    assert reward == 10.0
    assert env.unwrapped.memory[0] > before > 0
