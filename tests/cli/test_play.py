"""`rxrl play`: who answers, what is shown, what is refused."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rxrl.cli import main as cli
from rxrl.data.rows import to_row
from rxrl.data.world import GeneratedSource
from tests.policies.server import serve


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """Three conversations of four turns."""
    found = GeneratedSource(level=1, seed=0, split="test").take(steps=4, strategy="multi-step", start=0, count=3)
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps(to_row(each)) + "\n" for each in found))
    return file


def test_the_oracle_earns_everything_and_every_term_is_shown(invoke: Any, talks: Path) -> None:
    spec = "{retention: 0.8, repetition: 0.2, length: 0}"
    shown = invoke("play", talks, "--policy", "oracle", "-n", 2, "--reward", spec).stdout
    assert shown.count("told:") == 2
    assert shown.count("reward 10.0") == 8
    for term in ("retention ", "retention.held", "repetition", "length"):
        assert shown.count(f" {term}") >= 8, term
    assert "reward, asking turns   10.00" in shown


def test_a_person_answers_until_the_input_ends(invoke: Any, talks: Path) -> None:
    result = CliRunner().invoke(cli.app, ["play", str(talks)], input="Żółw, 猫.\nNo.\n")
    assert result.exit_code == 0, result.output
    assert "A: Żółw, 猫." in result.stdout
    assert "  3 Q:" in result.stdout
    assert "  4 Q:" not in result.stdout


def test_a_checkpoint_plays_from_its_own_memory(invoke: Any, checkpoint: Path, talks: Path) -> None:
    shown = [invoke("play", talks, "--policy", checkpoint, "--max-answer-tokens", 6, *more).stdout for more in ((), (), ("--sampled",))]
    assert shown[0] == shown[1] != shown[2]
    assert shown[0].count("memory written, drift") == 3
    hidden = invoke("play", talks, "--policy", "oracle", "--memory", checkpoint).stdout
    assert hidden.count("memory written, drift") == 3
    refused = invoke("play", talks, "--policy", checkpoint, "--memory", "none", code=2)
    assert "reads a Short-Term Memory of its own" in refused.stderr


def test_an_endpoint_plays_from_the_transcript(invoke: Any, talks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serve(lambda number, body: f"Answer {number}.") as server:
        shown = invoke("play", talks, "--policy", server.url, "--model", "mine", "--system", "Be brief.", "--memory", "transcript:1").stdout
    assert [f"A: Answer {number}." in shown for number in range(5)] == [True] * 4 + [False]
    assert [len(body["messages"]) for body in server.requests] == [4] * 4
    assert {body["model"] for body in server.requests} == {"mine"}
    assert set(server.keys) == {"Bearer secret"}


def test_teacher_forcing_writes_what_is_right(invoke: Any, talks: Path) -> None:
    own, forced = (
        invoke("play", talks, "--policy", "parrot", "--memory", "transcript", *more).stdout for more in ((), ("--teacher-forcing",))
    )
    assert own != forced
    assert own.count("memory written") == forced.count("memory written") == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--policy", "orakel"), "Did you mean 'oracle'"),
        (("--policy", "parrot", "--temperature", "0.5"), "--temperature is for sampled answers"),
        (("--policy", "parrot", "--sampled", "--temperature", "0.5"), "The player parrot takes no temperature"),
        (("--policy", "parrot", "--memory", "nowhere"), "There is no checkpoint nowhere"),
        (("--policy", "parrot", "--reward", "retenton"), "Did you mean 'retention'"),
        (
            ("--policy", "hf:nowhere"),
            "No causal language model can be loaded from nowhere"
            if find_spec("transformers")
            else "install it with `pip install 'rxrl[trl]'`",
        ),
    ],
)
def test_what_cannot_be_played_is_refused_with_a_sentence(options: tuple[str, ...], message: str, invoke: Any, talks: Path) -> None:
    assert message in " ".join(invoke("play", talks, *options, code=2).stderr.split())
