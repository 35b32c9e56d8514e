"""The tutorials run as they stand: files are written, programs print what the pages show, commands end well."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rxrl.cli import main as cli
from rxrl.data import GeneratedSource, Tokenizer
from rxrl.models import ReactiveTransformer
from rxrl.runs.checkpoints import save_checkpoint
from tests.pages import DOCS, Block, blocks

TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
_STAGE = {"iterations": 1, "batch_tokens": 300, "validation_rows": 4, "validate_every": 1}
_QUICK = "--set mrl.episodes=4 --set mrl.max_iterations=1 --set mrl.evaluation.every=1 --set mrl.evaluation.conversations=2"
CHEAPER = {
    "train": "--set episodes=4 --set max_iterations=1 --set evaluation.every=1 --set evaluation.conversations=2",
    "evaluate": "--steps 3 --conversations 4",
    "quickstart": " ".join(
        [
            f"{_QUICK} --set model.dim=16 --set model.layers=1 --set data.test_conversations=2",
            *(f"--set stages.{stage}.{key}={value}" for stage in ("pretrain", "sft", "memory_attention") for key, value in _STAGE.items()),
            "--set 'stages.smat.phases=[{steps: 1, iterations: 1}, {steps: 4, iterations: 1}]'",
            *(f"--set stages.smat.{key}={value}" for key, value in _STAGE.items() if key != "iterations"),
        ]
    ),
}
"""What makes a command cheap, appended to it as it stands in the text."""
RUN_ELSEWHERE = re.compile(r"scripts/quickstart\.sh|source \.venv/bin/activate|rxrl quickstart --resume")
"""tests/test_readme.py runs the quickstart; its options are looked at there too."""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with what the first tutorial leaves: checkpoints of a small model, and transcripts."""
    folder = tmp_path_factory.mktemp("reader")
    talks = GeneratedSource(level=1, seed=0, split="train").take(steps=4, strategy="multi-step", start=0, count=50)
    tokenizer = Tokenizer.train([text for talk in talks for each in talk.interactions for text in (each.query, each.answer)], 400)
    model = ReactiveTransformer.from_preset("pico", 0, vocab_size=tokenizer.vocab_size, dim=16, layers=1, slots=4)
    for path in ("checkpoints/smat", "checkpoint"):
        save_checkpoint(folder / "runs/quickstart" / path, model, tokenizer, state={"kind": "smat-result"})
    out = folder / "runs/quickstart/evaluation/mrl"
    rxrl(f"evaluate {folder}/runs/quickstart --conversations 2 --steps 2 --no-controls --out {out}")
    return folder


def rxrl(line: str) -> str:
    """Runs a command line of rxrl in this process and returns what it prints."""
    result = CliRunner().invoke(cli.app, shlex.split(line), input="Anna likes red.\n/quit\n")
    assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
    return result.stdout


def run_command(line: str) -> None:
    """Runs a line of a `bash` block, made cheap."""
    program, *arguments = shlex.split(line)
    if RUN_ELSEWHERE.match(line):
        return
    if program == "python":
        exec(compile(Path(arguments[0]).read_text(encoding="utf-8"), arguments[0], "exec"), {"__name__": "__main__"})
        return
    assert program == "rxrl", line
    cheaper = "" if "--dry-run" in arguments else CHEAPER.get(arguments[0], "")
    rxrl(f"{line.removeprefix('rxrl ')} {cheaper}")


def run_python(block: Block, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a `python` block and returns what it prints."""
    capsys.readouterr()
    exec(compile(block.text, block.page.name, "exec"), {"__name__": "snippet"})
    return capsys.readouterr().out


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_runs_from_top_to_bottom(
    page: Path, reader: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(reader)
    monkeypatch.syspath_prepend(reader)
    monkeypatch.setenv("COLUMNS", "200")
    modules = set(sys.modules)
    printed = ""
    for block in blocks(page):
        if block.file:
            Path(block.file).write_text(block.text, encoding="utf-8")
        if block.language == "python":
            printed = run_python(block, capsys)
        elif block.language == "bash":
            for line in block.lines:
                run_command(line)
        elif block.language == "text":
            assert printed == block.text
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(reader) in str(sys.modules[name].__file__):
            del sys.modules[name]


def test_there_is_a_tutorial_for_every_part_of_ones_own() -> None:
    assert {page.stem for page in TUTORIALS} == {"first-run", "reward", "curriculum", "environment", "data"}
    for page in TUTORIALS:
        assert any(line.startswith("rxrl ") for block in blocks(page) for line in block.lines), page.name
        assert page.stem == "first-run" or any(block.file for block in blocks(page)), page.name
