"""One run on a mix of conversations and scenarios, and what is refused before it begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cli.conftest import MRL_SETTINGS, settings

MIX = ("--data", "scenario:guess", "--data", "scenario:preferences", "--data", "world=2")


def test_a_mix_is_trained_on_and_each_part_is_reported_by_itself(invoke: Any, run_stage: Any, tmp_path: Path) -> None:
    start = run_stage("smat", tmp_path / "smat", *MIX)
    curriculum = tmp_path / "mix.yaml"
    curriculum.write_text("stages: [{steps: 2, iterations: 2}, {steps: 3, iterations: 2, earlier_share: 0.5}]\n")
    run = tmp_path / "mrl"
    invoke("train", "--from", start, "--curriculum", curriculum, *MIX, "--out", run, *settings(MRL_SETTINGS))
    assert "outcome: 1.0" in (run / "config.yaml").read_text()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("held_out_reward" in row for row in rows)

    invoke("evaluate", run, *MIX, "--steps", 2, "--conversations", 8, "--out", run)
    found = json.loads((run / "evaluation.json").read_text())
    assert {name: each["dialogues"] for name, each in found["scenarios"].items()} == {"guess": 2, "preferences": 2}
    assert (found["conversations"], found["turns"]) == (4, 8)
    assert {"empty_memory", "oracle"} <= found["controls"].keys()
    assert all(each["empty_memory"] is not None for each in found["scenarios"].values())
    played = [json.loads(line) for line in (run / "transcripts.jsonl").read_text().splitlines()]
    assert len(played) == 16


def test_what_does_not_fit_a_mix_is_refused_before_anything_runs(run_mrl: Any, invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    for options, said in (
        ((*MIX, "--held-out", "rows.jsonl"), "Give --held-out once for each file of --data, in the same order: got 1 for 0"),
        (("--data", "world", "--data", "world=2"), "'world' is named twice"),
        (("--data", "scenario:guess=-1"), "must be a number of at least 0"),
        (MIX, "decides itself what its user comes back to"),
    ):
        assert said in run_mrl(tmp_path / "refused", *options, code=2).output
    assert "--level is for the generated world" in invoke("evaluate", checkpoint, "--data", "rows.jsonl", "--level", 2, code=2).output
