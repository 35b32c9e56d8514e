"""From nothing to a reinforced, evaluated checkpoint with a report, one command at a time."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from rxrl.data.rows import write_conversations
from rxrl.data.splits import cycled
from rxrl.data.world import GeneratedSource
from rxrl.factory import load_checkpoint
from rxrl.models import ReactiveTransformer


def weights(path: Path) -> dict[str, torch.Tensor]:
    return ReactiveTransformer.from_pretrained(path).state_dict()


def changed(before: Path, after: Path) -> set[str]:
    old, new = weights(before), weights(after)
    return {name.split(".")[0] for name, value in new.items() if not torch.equal(value, old[name])}


@pytest.mark.slow
def test_stages_lead_from_nothing_to_a_report(invoke: Any, run_stage: Any, run_mrl: Any, tmp_path: Path) -> None:
    first = run_stage("pretrain", tmp_path / "pretrain")
    second = run_stage("sft", tmp_path / "sft", "--from", first)
    third = run_stage("memory-attention", tmp_path / "memory-attention", "--from", second)
    fourth = run_stage("smat", tmp_path / "smat", "--from", third)
    assert "memory_attention" not in changed(first, second)
    assert changed(second, third) == {"memory_attention", "initial_memory"}
    assert {"embedding", "encoder", "decoder", "memory_attention"} <= changed(third, fourth)

    run = tmp_path / "mrl"
    run_mrl(run, start=fourth)
    assert changed(fourth, run / "checkpoint") >= {"decoder", "memory_attention"}
    assert load_checkpoint(run / "checkpoint")[1].hash == load_checkpoint(first)[1].hash

    shown = invoke("evaluate", run / "checkpoint", "--conversations", 6, "--steps", 3, "--out", run).stdout
    assert "oracle" in shown
    assert "chance" in shown
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["conversations"] == 6
    assert evaluation["turns"] == 18
    assert evaluation["controls"]["oracle"]["retention"] > 0.99
    assert len((run / "transcripts.jsonl").read_text().splitlines()) == 18

    invoke("report", run)
    report = json.loads((run / "report.json").read_text())
    assert [(stage["steps"], stage["iterations"]) for stage in report["stages"]] == [(2, 3), (3, 3)]
    assert report["after_mrl"]["retention"] == evaluation["retention"]
    assert report["controls"]["oracle"]["retention"] == evaluation["controls"]["oracle"]["retention"]
    assert [each["use"] for each in report["data"]] == ["training", "validation", "evaluation"]
    assert report["data"][-1] == evaluation["about"]["played"]
    assert "</html>" in (run / "report.html").read_text()


def test_a_finished_stage_is_left_alone(run_stage: Any, checkpoint: Path) -> None:
    before = (checkpoint.parent / "metrics.jsonl").read_bytes()
    run_stage("smat", checkpoint.parent, "--resume")
    run_stage("smat", checkpoint.parent, code=2)
    assert (checkpoint.parent / "metrics.jsonl").read_bytes() == before


def test_plain_text_serves_for_pretraining(run_stage: Any, tmp_path: Path) -> None:
    text = tmp_path / "stories.txt"
    text.write_text("\n\n".join(f"Tom has {count} red balls. He plays with Mia in the garden every day." for count in range(200)) * 20)
    path = run_stage("pretrain", tmp_path / "run", "--data", text)
    assert load_checkpoint(path)[1].vocab_size < 512


TEXTS = {
    "English": " ".join(f"Tom has {count} red balls and plays with Mia." for count in range(400)),
    "Chinese": "".join(f"\u6c34\u706b{count}\u5c71\u98ce\uff0c\u5927\u5b66\u3002" for count in range(400)),
    "one word": "".join(random.Random(0).choices("abcdefgh", k=4000)),
}


@pytest.mark.parametrize("said", TEXTS.values(), ids=TEXTS)
def test_plain_text_is_cut_to_what_the_model_takes_and_nothing_of_it_is_lost(
    said: str, run_stage: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    text, given = tmp_path / "one_line.txt", []
    monkeypatch.setattr("rxrl.data.splits.cycled", lambda texts: given.append(texts) or cycled(texts))
    text.write_text(said, encoding="utf-8")
    model, codec = load_checkpoint(run_stage("pretrain", tmp_path / "run", "--data", text))
    train, validation = given[-2:]
    assert "".join("".join([*validation, *train]).split()) == "".join(said.split())
    lengths = [len(codec.encode(piece)) + 2 for piece in (*validation, *train)]
    assert max(lengths) <= model.config.max_length
    assert sum(lengths) > 0.7 * model.config.max_length * len(lengths), "as few texts as may be"


def test_files_are_evaluated_as_they_are_or_cut(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    world = GeneratedSource(level=1, seed=5, split="test")
    rows = [c for steps in (1, 2, 3) for c in world.take(steps=steps, strategy="multi-step", start=0, count=2)]
    data = tmp_path / "rows.jsonl"
    write_conversations(data, rows)
    for options, turns in (((), 12), (("--steps", 2), 8), (("--conversations", 2), 2)):
        invoke("evaluate", checkpoint, "--data", data, "--no-controls", "--sampled", "--out", tmp_path / "out", *options)
        assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["turns"] == turns


def test_a_dry_run_shows_the_plan_and_writes_nothing(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    options = ("--curriculum", "general", "--algorithm", "impo", "--set", "optimizer.learning_rates.encoder=0.125")
    shown = invoke("train", "--from", checkpoint, "--out", tmp_path / "run", "--dry-run", *options).stdout
    for part in ("steps-16-mix", "long-range 33%", "memory_attention", "encoder 0.125", "impo", "540 iterations"):
        assert part in shown
    assert not (tmp_path / "run").exists()
