"""The baselines with memory go through the commands of the Reactive Transformer: stages, resumption, MRL, evaluation, comparison, chat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from rxrl.cli import main as cli
from rxrl.cli.progress import Terminal
from rxrl.data.tokenizer import Tokenizer
from rxrl.data.world import GeneratedSource
from rxrl.factory import load_checkpoint
from rxrl.models import ReactiveTransformer

TINY = ("batch_tokens=300", "validation_rows=4", "validate_every=2", "log_every=1")
ALONE = ("mode=separate", "encoder_share=0", "freeze_embedding=false")
"""Language modelling of a decoder without an encoder."""
SMAT = ("phases=[{steps: 1, iterations: 2}, {steps: 2, iterations: 2}]", *TINY)
CURRICULUM = "name: tiny\ndefaults: {iterations: 2}\nstages: [{steps: 2}]\n"
MRL = ("episodes=4", "evaluation.every=2", "evaluation.conversations=4", "max_answer_tokens=6")
KINDS = ("pico-gru", "pico-rmt")


def invoke(*arguments: object, code: int = 0, **options: Any) -> Any:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments], prog_name="rxrl", **options)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def stage(name: str, out: Path, assignments: tuple[str, ...], *options: object, code: int = 0) -> Any:
    return invoke("stage", name, "--out", out, *(part for each in assignments for part in ("--set", each)), *options, code=code)


@pytest.fixture(scope="module", params=KINDS)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one baseline: language modelling as far as it goes, then memory-aware training."""
    folder = tmp_path_factory.mktemp(request.param)
    language = ("iterations=2", *TINY, *(ALONE if request.param == "pico-rmt" else ()))
    stage("pretrain", folder / "pretrain", language, "--preset", request.param)
    stage("sft", folder / "sft", language, "--from", folder / "pretrain")
    stage("smat", folder / "smat", SMAT, "--from", folder / "sft")
    (folder / "tiny.yaml").write_text(CURRICULUM)
    return folder


def test_every_stage_trains_what_it_should(runs: Path) -> None:
    models = [load_checkpoint(runs / name)[0] for name in ("pretrain", "sft", "smat")]
    before, between, after = (model.state_dict() for model in models)
    changed = {name for name, value in after.items() if not torch.equal(value, between[name])}
    assert "initial_memory" in changed
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], between[name])} >= {"embedding", "decoder"}
    if models[0].config.has_memory_tokens:
        assert {name for name in after if name.startswith("decoder.layers")} <= changed
    else:
        assert {name for name in after if name.startswith("memory_attention.gate")} <= changed
        assert not any(name.startswith("memory_attention") and not torch.equal(before[name], between[name]) for name in before)
    last = json.loads((runs / "smat" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"val_loss_true_memory", "val_loss_empty_memory", "val_drift", "val_gate_openness"} <= last.keys()


def test_an_interrupted_stage_goes_on_as_if_nothing_had_been(runs: Path, tmp_path: Path) -> None:
    calls: list[object] = []

    def interrupt(self: Terminal, *arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt

    options = ("--from", runs / "sft", "--checkpoint-every", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Terminal, "on_iteration", interrupt)
        stage("smat", tmp_path / "parted", SMAT, *options, code=130)
    stage("smat", tmp_path / "parted", SMAT, *options, "--resume")
    assert (tmp_path / "parted" / "metrics.jsonl").read_bytes() == (runs / "smat" / "metrics.jsonl").read_bytes()
    folders = runs / "smat", tmp_path / "parted"
    ours, theirs = (ReactiveTransformer.from_pretrained(folder / "checkpoint").state_dict() for folder in folders)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.slow
def test_it_is_evaluated_compared_reinforced_and_talked_to(runs: Path, tmp_path: Path) -> None:
    options = [part for each in MRL for part in ("--set", each)]
    invoke("train", "--from", runs / "smat", "--curriculum", runs / "tiny.yaml", "--out", tmp_path / "mrl", *options)
    line = json.loads((tmp_path / "mrl" / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["memory_drift"] > 0
    assert 0 < line["gate_openness"] <= 1
    for name, run in (("before", runs / "smat"), ("after", tmp_path / "mrl")):
        invoke("evaluate", run, "--conversations", 4, "--steps", 3, "--out", tmp_path / name)
    cost = json.loads((tmp_path / "before" / "evaluation.json").read_text())["cost"]
    assert {row["memory_bytes"] for row in cost} == {4 * 4096}
    invoke("compare", tmp_path / "before", tmp_path / "after", "--out", tmp_path / "compared")
    assert (tmp_path / "compared" / "compare.html").is_file()
    assert "slots" in invoke("chat", runs / "smat", input="hello\n/quit\n").stdout


def test_stages_that_need_an_encoder_say_so(tmp_path: Path) -> None:
    talks = GeneratedSource(level=0, seed=0, split="train").take(steps=2, strategy="multi-step", start=0, count=8)
    codec = Tokenizer.train([text for talk in talks for each in talk.interactions for text in (each.query, each.answer)], 400)
    model = ReactiveTransformer.from_preset("pico-rmt", **codec.model_settings)
    model.save_pretrained(tmp_path / "start", tokenizer=codec)
    for name, assignments in (("pretrain", ("iterations=2",)), ("reading", ("iterations=2",)), ("memory-attention", ("iterations=2",))):
        refused = stage(name, tmp_path / name, (*assignments, *TINY), "--from", tmp_path / "start", code=2)
        assert "has no encoder" in refused.stderr, name
        assert ("--set mode=separate --set encoder_share=0" in refused.stderr) == (name == "pretrain")
        assert not (tmp_path / name / "checkpoint").exists()
    for preset in KINDS:
        assert "such as --preset pico-causal" in stage("rereading", tmp_path / preset, SMAT, "--preset", preset, code=2).stderr
