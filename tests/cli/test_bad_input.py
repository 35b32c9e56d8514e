"""Whatever is wrong is said in one clear sentence, with exit code 2, before anything is trained or written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rxrl.data.rows import write_conversations
from rxrl.data.sources import RowsSource
from rxrl.data.splits import Sources
from rxrl.data.tokenizer import Tokenizer
from rxrl.data.world import GeneratedSource
from rxrl.errors import DataError
from rxrl.pipeline.checks import check_fit, short_answers
from rxrl.types import Conversation, Interaction


def refused(result: Any) -> str:
    """The sentence; there is no traceback and only one line."""
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output
    return str(result.stderr)


def file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    write_conversations(path, GeneratedSource(level=1, seed=0, split="train").take(steps=2, strategy="multi-step", start=0, count=40))
    return path


def damaged(checkpoint: Path, folder: Path, how: Callable[[Path], Any]) -> Path:
    shutil.copytree(checkpoint, folder)
    how(folder)
    return folder


CURRICULA = {
    "stages: [{steps: 4, strateg: multi-step}]": ("line 1", "strateg", "Did you mean 'strategy'?"),
    "stages: [{steps: 40}]": ("line 1", "steps"),
    "stages: [{steps: 4}\n": ("line", "not valid YAML"),
    "stages: [{steps: 2, reward: retentoin}]": ("Unknown reward 'retentoin'", "'retention'"),
    "stages: [{steps: 2, algorithm: {clipp: 1}}]": ("steps-2", "clipp", "'clip'"),
}


@pytest.mark.parametrize("text", CURRICULA)
def test_broken_curricula(text: str, invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    path = file(tmp_path / "mine.yaml", text)
    sentence = refused(invoke("train", "--from", checkpoint, "--curriculum", path, "--out", tmp_path / "run", code=2))
    assert all(part in sentence for part in CURRICULA[text])
    assert not (tmp_path / "run").exists()


def test_the_curriculum_is_looked_at_first(invoke: Any, tmp_path: Path) -> None:
    wrong = ("--from", tmp_path / "nothing", "--reward", "x", "--out", tmp_path)
    sentence = refused(invoke("train", "--curriculum", "linaer", *wrong, code=2))
    assert "linaer" in sentence
    assert "Did you mean 'linear'?" in sentence


@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        ("--set", "algorithm.clipp=1", ("clipp", "'clip'")),
        ("--set", "algorithm.bptt_turns=0", ("bptt_turns", "0")),
        ("--algorithm", "grop", ("Unknown algorithm 'grop'", "'grpo'")),
        ("--set", "algorithm={name: grpo, group_size: 5}", ("48 episodes", "groups of 5")),
        ("--set", "optimizer.learning_rates.encodr=1", ("encodr", "'encoder'")),
        ("--set", "episodes=none", ("episodes", "none")),
        ("--reward", "retenton", ("Unknown reward 'retenton'", "'retention'")),
        ("--reward", "no_such_file.py:fn", ("no_such_file.py",)),
        ("--data", "no-such-rows.jsonl", ("no-such-rows.jsonl",)),
        ("--held-out", "rows.jsonl", ("--data",)),
    ],
)
def test_wrong_options_of_a_training(option: str, value: str, parts: Any, invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    sentence = refused(invoke("train", "--from", checkpoint, "--out", tmp_path / "run", option, value, code=2))
    assert all(part in sentence for part in parts)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_reward_that_could_score_no_turn(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    game = ("--data", "scenario:preferences")
    quickstart = ("quickstart", "--budget", "scenario:preferences", "--set", "mrl.reward=retention")
    for run in (("train", "--from", checkpoint, *game, "--reward", "retention"), quickstart):
        sentence = refused(invoke(*run, "--out", tmp_path / "run", code=2))
        assert "needs facts or reference answers" in sentence
        assert "use 'outcome'" in sentence
        assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"nothing"), ("model.safetensors",)),
        (lambda folder: (folder / "model.safetensors").unlink(), ("model.safetensors",)),
        (lambda folder: (folder / "config.json").write_text("{"), ("config.json",)),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), ("tokenizer.json",)),
        (shutil.rmtree, ("There is no checkpoint",)),
    ],
)
@pytest.mark.parametrize("command", ["train", "evaluate", "stage"])
def test_broken_checkpoints(command: str, how: Any, parts: tuple[str, ...], invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    broken = damaged(checkpoint, tmp_path / "broken", how)
    arguments = {
        "train": ("train", "--from", broken, "--out", tmp_path / "run"),
        "evaluate": ("evaluate", broken),
        "stage": ("stage", "smat", "--from", broken, "--out", tmp_path / "run"),
    }[command]
    sentence = refused(invoke(*arguments, code=2))
    assert all(part in sentence for part in parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "evaluate", "stage"])
def test_a_broken_row_is_named(command: str, invoke: Any, checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    lines = rows.read_text().splitlines()
    row = json.loads(lines[2])
    del row["query"]
    rows.write_text("\n".join([*lines[:2], json.dumps(row), *lines[3:]]) + "\n")
    arguments = {
        "train": ("train", "--from", checkpoint, "--out", tmp_path / "run"),
        "evaluate": ("evaluate", checkpoint),
        "stage": ("stage", "smat", "--out", tmp_path / "run"),
    }[command]
    sentence = refused(invoke(*arguments, "--data", rows, code=2))
    assert "rows.jsonl" in sentence
    assert "row 3" in sentence
    assert "query" in sentence


def test_data_that_is_too_short_for_a_later_stage(invoke: Any, checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    curriculum = file(tmp_path / "mine.yaml", "stages: [2, 8]")
    sentence = refused(invoke("train", "--from", checkpoint, "--curriculum", curriculum, "--data", rows, "--out", tmp_path / "run", code=2))
    assert "at least 8 turns" in sentence
    sentence = refused(invoke("stage", "smat", "--data", rows, "--out", tmp_path / "run", code=2))
    assert "at least 4 turns" in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("smta",), ("Unknown stage 'smta'", "'smat'")),
        (("sft", "--preset", "picco"), ("picco", "'pico'")),
        (("sft", "--set", "iteration=3"), ("iteration", "'iterations'")),
        (("smat", "--set", "unfreeze={encodr: 0.5}"), ("encodr", "'encoder'")),
        (("sft", "--tokenizer", "nowhere"), ("tokenizer.json", "nowhere")),
        (("sft", "--level", "2", "--data", "rows.jsonl"), ("--level", "--data")),
    ],
)
def test_wrong_options_of_a_stage(arguments: tuple[str, ...], parts: tuple[str, ...], invoke: Any, tmp_path: Path) -> None:
    sentence = refused(invoke("stage", *arguments, "--out", tmp_path / "run", code=2))
    assert all(part in sentence for part in parts)
    assert not (tmp_path / "run").exists()


def test_training_rows_must_not_be_held_out(invoke: Any, checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    sentence = refused(invoke("train", "--from", checkpoint, "--data", rows, "--held-out", rows, "--out", tmp_path / "run", code=2))
    assert "40 conversations are in both" in sentence


def test_evaluate_and_report_say_what_is_missing(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    assert "Unknown reward 'retenton'" in refused(invoke("evaluate", checkpoint, "--reward", "retenton", code=2))
    assert "There is no folder" in refused(invoke("report", tmp_path / "nothing", code=2))
    assert "report.json" in refused(invoke("report", tmp_path, code=2))
    file(tmp_path / "report.json", "{")
    assert "report.json" in refused(invoke("report", tmp_path, code=2))


def test_a_broken_configuration_of_the_main_job(invoke: Any, tmp_path: Path) -> None:
    path = file(tmp_path / "mine.yaml", "seed: 1\nmrl:\n  episods: 4\n")
    sentence = refused(invoke("quickstart", "--config", path, "--out", tmp_path / "run", code=2))
    assert "mine.yaml, line 3" in sentence
    assert "'episodes'" in sentence
    assert not (tmp_path / "run").exists()


def test_an_interaction_that_is_too_long_for_the_model_is_refused_before_the_first_stage(invoke: Any, tmp_path: Path) -> None:
    def rows(name: str, start: int, more: str) -> Path:
        found = []
        for count in range(start, start + 4):
            first = {
                "query": f"Tom has {count} balls.",
                "answer": "Okay.",
                "facts": [{"key": "tom.balls", "value": str(count)}],
                "asks": [],
            }
            turns = [{"query": f"How many balls does Tom have?{more}", "answer": f"{count}.", "asks": ["tom.balls"]}] * 16
            found.append({"id": f"{name}{count}", **first, "interactions": turns})
        return file(tmp_path / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in found))

    data = ("--data", rows("a", 0, " ?" * 90), "--held-out", rows("b", 4, ""))
    sentence = refused(invoke("quickstart", "--budget", "tiny", *data, "--out", tmp_path / "run", "--set", "interactive=null", code=2))
    assert ", turn 1: the interaction has 103 tokens" in sentence
    assert "96" in sentence
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_halves_of_characters_do_not_keep_interactions_from_being_measured() -> None:
    codec = Tokenizer.train(["Tom has a ball."], vocab_size=300)

    def of(answer: str) -> Sources:
        given = Conversation("a", Interaction("Tom has a ball.", "Okay."), (Interaction("What has Tom?", answer),))
        source = RowsSource([given], 0)
        return Sources(source, source, [given], lambda split: lambda start, count: [])

    check_fit(of("a ball \ud83d"), codec, 96)
    with pytest.raises(DataError, match="'a', turn 1"):
        check_fit(of("a ball \ud83d" * 40), codec, 96)


def test_generated_conversations_are_measured_before_anything_is_trained(invoke: Any, tmp_path: Path) -> None:
    settings = ("--set", "data.level=3", "--set", "interactive=null")
    sentence = refused(invoke("quickstart", "--budget", "tiny", "--out", tmp_path / "run", *settings, code=2))
    assert "turn 0: the interaction has 103 tokens, but 96 is the model's limit" in sentence
    assert "larger max_length" in sentence
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_references_that_no_answer_can_reach_are_named_before_the_first_stage() -> None:
    codec, worlds = Tokenizer.train(["Tom has a ball."], vocab_size=300), GeneratedSource(level=2, seed=0, split="train")
    of = Sources(worlds, worlds, [], lambda split: lambda start, count: [])
    told = short_answers(of, codec, 8, 4)
    assert told is not None
    most = max(
        len(codec.encode(each.answer))
        for turns, count in ((1, 500), (4, 50))
        for conversation in worlds.take(steps=turns, strategy="multi-step", start=0, count=count)
        for each in conversation.follow_ups
    )
    assert re.search(rf"end after 8 tokens, but references have up to {most} \(turn \d of conversation '", told)
    assert told.endswith(f"set mrl.max_answer_tokens to {most} or more.")
    assert short_answers(of, codec, most, 4) is None


def test_texts_to_train_on_and_held_out_ones_are_apart(invoke: Any, tmp_path: Path) -> None:
    stories = [f"Tom has {count} balls.\n\nThe end." for count in range(4)]
    train = file(tmp_path / "a.txt", "<|endoftext|>".join(stories[:3]))
    held_out = file(tmp_path / "b.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in stories[2:]))
    sentence = refused(invoke("stage", "pretrain", "--data", train, "--held-out", held_out, "--out", tmp_path / "run", code=2))
    assert f"1 texts are in both {train} and {held_out} (first: 'Tom has 2 balls. The end.')" in sentence
