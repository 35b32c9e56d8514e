"""Input that is odd but not wrong is taken as it is; what is wrong in an unusual way still gets one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rxrl.data.rows import read_conversations
from tests.cli.test_bad_input import file, refused

TALK = {
    "query": "Mia has a cat.",
    "answer": "Okay.",
    "facts": [{"key": "mia.pet", "value": "cat"}],
    "interactions": [
        {"query": "What pet does Mia have?", "answer": "A cat.", "asks": ["mia.pet"]},
        {"query": "Which pet?", "answer": "A cat.", "asks": ["mia.pet"]},
    ],
}


def data(path: Path, *rows: dict[str, Any]) -> Path:
    return file(path, "".join(json.dumps(row) + "\n" for row in rows))


def talk(**changes: Any) -> dict[str, Any]:
    first, second = TALK["interactions"]
    return TALK | {"interactions": [first | changes, second]}


def test_a_query_that_is_longer_than_the_model_is_cut(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    rows = data(tmp_path / "long.jsonl", talk(query="What pet does Mia have? " * 60))
    result = invoke("evaluate", checkpoint, "--data", rows, "--no-controls", "--out", tmp_path / "out")
    assert "1 conversations, 2 asking turns" in result.stdout


def test_single_step_plays_the_first_turn_alone(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    rows = data(tmp_path / "rows.jsonl", TALK)
    options = ("--data", rows, "--no-controls", "--strategy", "single-step")
    assert "1 conversations, 1 asking turns" in invoke("evaluate", checkpoint, *options).stdout
    assert "leave out one" in refused(invoke("evaluate", checkpoint, "--strategy", "single-step", "--steps", 4, code=2))


@pytest.mark.parametrize("kind", ["[ask] colour", "[/x]", ":smile: [red]"])
def test_brackets_are_shown_as_they_are(kind: str, invoke: Any, tmp_path: Path) -> None:
    result = invoke("data", "stats", data(tmp_path / "rows.jsonl", talk(kind=kind)))
    assert "".join(kind.split()) in "".join(result.stdout.split())


def test_patterns_are_shown_as_they_are(invoke: Any) -> None:
    pytest.importorskip("re2", reason="needs the extra `patterns`")
    assert "[/a]" in invoke("rewards", "check", '{use: format, pattern: "[/a]"}').stdout


def test_an_evaluation_that_scored_nothing_says_so(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    nothing = file(tmp_path / "nothing.py", "def none(turns):\n    return [None] * len(turns)\n")
    options = ("--no-controls", "--steps", 1, "--conversations", 2)
    printed = invoke("evaluate", checkpoint, *options, "--reward", f"{nothing}:none").stdout
    assert "nothing.py:none gave no score for any of 2 turns. Check what it needs" in printed
    assert "gave no score" not in invoke("evaluate", checkpoint, *options).stdout


def test_rows_without_ids_are_told_apart_by_what_they_hold(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    mine = [TALK | {"query": f"Mia has {count} cats."} for count in range(20)]
    theirs = [TALK | {"query": f"Tom and Mia have {count} cats."} for count in range(20)]
    train, test = data(tmp_path / "data.jsonl", *mine), data(tmp_path / "other" / "data.jsonl", *theirs)
    short = file(tmp_path / "short.yaml", "stages: [{steps: 2}]")
    options = ("train", "--from", checkpoint, "--data", train, "--curriculum", short, "--out", tmp_path / "run", "--dry-run")
    assert "48 conversations with impo" in invoke(*options, "--held-out", test).stdout
    test.write_text(train.read_text())
    assert "20 conversations are in both" in refused(invoke(*options, "--held-out", test, code=2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"aliases": [[["a"], ["b"]]]}, "aliases"),
        ({"facts": [{"key": "mia.pet", "value": "!?"}]}, "holds no word"),
    ],
)
def test_rows_that_cannot_work_are_named(change: dict[str, Any], said: str, invoke: Any, tmp_path: Path) -> None:
    assert said in refused(invoke("data", "stats", data(tmp_path / "rows.jsonl", TALK | change), code=2))


def test_what_cannot_be_written_or_read_is_named(invoke: Any, tmp_path: Path) -> None:
    taken = file(tmp_path / "taken", "")
    assert str(taken) in refused(invoke("data", "generate", taken / "x.jsonl", "--count", 1, code=2))
    mixed = data(tmp_path / "mixed.jsonl", TALK | {"note": 1}, TALK | {"note": "a"})
    assert "one type" in refused(invoke("data", "import", "published", mixed, tmp_path / "out.parquet", code=2))
    (tmp_path / "latin.yaml").write_bytes("reward: {retention: 1}  # é".encode("latin-1"))
    assert "latin.yaml is not UTF-8 text" in refused(invoke("rewards", "check", tmp_path / "latin.yaml", code=2))
    odd = data(tmp_path / "odd.jsonl", TALK | {"note": "\ud800"})
    invoke("data", "import", "published", odd, tmp_path / "out.jsonl")
    assert len(read_conversations(tmp_path / "out.jsonl")) == 1


@pytest.mark.parametrize("content", ['{"after_mrl": 5}', '{"stages": 5}'])
def test_reports_of_something_else(content: str, invoke: Any, tmp_path: Path) -> None:
    file(tmp_path / "report.json", content)
    assert "report.json does not hold what an evaluation writes" in refused(invoke("report", tmp_path, code=2))


def test_an_evaluation_does_not_join_comparisons_of_others(invoke: Any, tmp_path: Path) -> None:
    report = file(tmp_path / "report.json", json.dumps({"comparisons": {"mrl_minus_smat": {"low": 0.1}}}))
    file(tmp_path / "evaluation.json", "{}")
    assert "mrl_minus_smat" in refused(invoke("report", tmp_path, code=2))
    assert report.read_text() == json.dumps({"comparisons": {"mrl_minus_smat": {"low": 0.1}}})


def test_metrics_of_something_else(invoke: Any, tmp_path: Path) -> None:
    file(tmp_path / "report.json", "{}")
    file(tmp_path / "metrics.jsonl", "[1]\n")
    assert "metrics.jsonl, line 1 should hold a JSON object" in refused(invoke("report", tmp_path, code=2))
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\n")
    assert "metrics.jsonl is not UTF-8" in refused(invoke("report", tmp_path, code=2))


def test_holding_out_everything_is_refused(invoke: Any, tmp_path: Path) -> None:
    lines = "1 Mary moved to the bathroom.\n2 Where is Mary? \tbathroom\t1\n"
    task = file(tmp_path / "qa1_single-supporting-fact_train.txt", lines)
    out = tmp_path / "out.jsonl"
    assert "leaves none of the 1 episodes" in refused(invoke("data", "import", "babi", task, out, "--holdout", 1, code=2))
    assert not out.exists()


@pytest.fixture(scope="module")
def published(invoke: Any, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "whole"
    invoke("export-rxlm", checkpoint, folder)
    return folder


def _configure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        if name in config:
            config[name] = value
        for part in ("encoder_config", "decoder_config", "memory_attention_config"):
            if name in config[part]:
                config[part][name] = value
    (folder / "config.json").write_text(json.dumps(config))


def _weigh(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    key = next(key for key in weights if key.endswith("head.weight"))
    weights[key] = change(weights[key])
    save_file(weights, folder / "model.safetensors", metadata={"rxrl.rope_order": "interleaved"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: _weigh(folder, lambda weight: weight.fill_(float("nan"))), "no finite numbers"),
        (lambda folder: _weigh(folder, lambda weight: weight.to(torch.int32)), "no finite numbers"),
        (lambda folder: _configure(folder, att_heads=7), "no multiple of att_heads 7"),
        (lambda folder: _configure(folder, moe_top_k=100), "makes no sense"),
        (lambda folder: _configure(folder, tokenizer_config=[1]), "tokenizer_config"),
        (lambda folder: _configure(folder, memory_attention_variant=5), "memory_attention_variant"),
    ],
)
def test_published_checkpoints_that_cannot_work(change: Any, said: str, invoke: Any, published: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((published / name).read_bytes())
    change(tmp_path)
    assert said in refused(invoke("import-rxlm", tmp_path, tmp_path / "out", code=2))
    assert not (tmp_path / "out").exists()


def test_a_copy_of_the_training_rows_is_no_held_out_data(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    rows = [TALK | {"query": f"Mia has {count} cats."} for count in range(20)]
    train, copied = data(tmp_path / "mine.jsonl", *rows), data(tmp_path / "mine.test.jsonl", *rows[5:8])
    options = ("train", "--from", checkpoint, "--data", train, "--held-out", copied, "--out", tmp_path / "run", "--dry-run")
    assert "3 conversations are in both" in refused(invoke(*options, code=2))


def test_the_main_job_looks_at_its_last_part_first(invoke: Any, tmp_path: Path) -> None:
    train = data(tmp_path / "train.jsonl", *[TALK | {"query": f"Mia has {count} cats."} for count in range(6)])
    test = data(tmp_path / "test.jsonl", *[TALK | {"query": f"Tom has {count} cats."} for count in range(6)])
    out = tmp_path / "run"
    options = ("quickstart", "--budget", "tiny", "--out", out, "--data", train)
    assert "at least" in refused(invoke(*options, "--held-out", test, code=2))
    assert "--held-out FILE" in refused(invoke(*options, code=2))
    for setting in ("data.level=2", "data.steps=8"):
        assert setting.partition("=")[0] in refused(invoke(*options, "--held-out", test, "--set", setting, code=2))
    assert not out.exists()


def test_files_are_named_as_they_are(invoke: Any, tmp_path: Path) -> None:
    for name in ("conv #2.jsonl", "~", "[a].jsonl", "2024"):
        sentence = refused(invoke("quickstart", "--out", tmp_path / "run", "--data", name, "--held-out", name, code=2))
        assert name in sentence
        assert "YAML" not in sentence


def test_the_seed_of_a_configuration_counts(invoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    monkeypatch.setattr("rxrl.cli.quickstart.Pipeline.run", lambda pipeline, resume: seeds.append(pipeline.config.seed))
    config = file(tmp_path / "mine.yaml", "seed: 7\n")
    invoke("quickstart", "--config", config, "--out", tmp_path / "one")
    invoke("quickstart", "--config", config, "--seed", 3, "--out", tmp_path / "two")
    invoke("quickstart", "--out", tmp_path / "three")
    assert seeds == [7, 3, 0]


def test_configurations_with_odd_characters_or_aliases(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    odd, endless = file(tmp_path / "odd.yaml", "# \x1b\nsteps: 1\n"), file(tmp_path / "endless.yaml", "stages: &a [*a]\n")
    for path, said in ((odd, "not valid YAML"), (endless, "endless.yaml")):
        assert said in refused(invoke("train", "--from", checkpoint, "--curriculum", path, "--out", tmp_path / "run", code=2))


def test_fill_mask_shows_brackets_as_they_are(invoke: Any, checkpoint: Path) -> None:
    shown = invoke("fill-mask", checkpoint, "a [MASK] b [MASK]").stdout
    assert "[MASK] 1" in shown
    assert "\\[" not in shown


def test_stages_that_are_longer_than_the_conversations_are_named_first(invoke: Any, tmp_path: Path) -> None:
    train = data(tmp_path / "train.jsonl", *[TALK | {"query": f"Mia has {count} cats."} for count in range(6)])
    test = data(tmp_path / "test.jsonl", *[TALK | {"query": f"Tom has {count} cats."} for count in range(6)])
    curriculum = file(tmp_path / "c.yaml", "stages: [{steps: 2, iterations: 1}]\n")
    out = tmp_path / "run"
    options = ["quickstart", "--budget", "tiny", "--out", out, "--data", train, "--held-out", test, "--set", f"curriculum={curriculum}"]
    assert "stages.smat.phases, 4 steps" in refused(invoke(*options, code=2))
    options += ["--set", "stages.smat.phases=[{steps: 2, iterations: 1}]"]
    assert "stages.memory_attention.steps: " in refused(invoke(*options, code=2))
    assert not out.exists()


def test_a_run_does_not_go_on_with_other_conversations(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    curriculum = file(tmp_path / "c.yaml", "stages: [{steps: 2, iterations: 2}]\n")
    options = ["train", "--from", checkpoint, "--curriculum", curriculum, "--out", tmp_path / "run"]
    options += ["--set", "episodes=2", "--set", "checkpoint_every=1", "--set", "evaluation.conversations=2"]
    invoke(*options)
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    assert "other conversations" in refused(invoke(*options, "--resume", "--level", 2, code=2))
    invoke(*options, "--resume")


def test_an_environment_of_another_class_is_refused_before_anything_runs(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    module = file(tmp_path / "mine.py", "class Bad:\n    pass\n\ndef needy(turns, limit):\n    return [limit] * len(turns)\n")
    options = ("train", "--from", checkpoint, "--out", tmp_path / "run", "--dry-run")
    assert "subclass of ConversationVectorEnv" in refused(invoke(*options, "--env", f"{module}:Bad", code=2))
    assert "needs the option 'limit'" in refused(invoke(*options, "--reward", f"{module}:needy", code=2))


def test_the_folder_of_a_run_stands_for_its_checkpoint(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(checkpoint, run / "checkpoint")
    assert "2 conversations" in invoke("evaluate", run, "--conversations", 2, "--steps", 1, "--no-controls").stdout
