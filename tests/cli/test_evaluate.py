"""`rxrl evaluate` plays whatever has a name, goes on where it was stopped, and leaves a folder that `rxrl report` turns into a page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rxrl.evaluation import resuming
from tests.policies.server import serve

FEW = ("--conversations", 8, "--steps", 4)
MINE = """\
from rxrl.policies import TextPolicy


class LastWords(TextPolicy):
    def answer(self, dialogues, generators):
        return [dialogue.history[-1][0] if dialogue.history else "nothing" for dialogue in dialogues]
"""


def refused(result: Any) -> str:
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return str(result.stderr)


def found(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "evaluation.json").read_text()))


def files(folder: Path) -> dict[str, bytes]:
    """All that must not differ between two evaluations of the same."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "timings.json"}


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mine") / "mine.py"
    path.write_text(MINE)
    return path


@pytest.mark.parametrize("what", ["parrot", "oracle", "mine", "endpoint", "checkpoint"])
def test_every_player_leaves_a_comparable_folder_and_a_page(
    what: str, invoke: Any, mine: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with serve(lambda number, body: "I do not know.") as server:
        names = {"mine": f"{mine}:LastWords", "endpoint": server.url}
        name = str(request.getfixturevalue("checkpoint")) if what == "checkpoint" else names.get(what, what)
        invoke("evaluate", name, *FEW, "--out", tmp_path)
    evaluation = found(tmp_path)
    assert (evaluation["conversations"], evaluation["turns"]) == (8, 32)
    assert evaluation["about"]["what"] == name
    assert evaluation["controls"]["oracle"]["retention"] == 1.0
    assert not (tmp_path / resuming.BATCHES).exists()
    invoke("report", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert f"Evaluation of {name}" in page
    assert "as evaluated" in page
    assert "after MRL" not in page
    played = evaluation["about"]["played"]
    assert (played["name"], played["hashed"]) == ("world", "8 conversations, as they are played")
    assert json.loads((tmp_path / "report.json").read_text())["data"] == [played]
    assert played["sha256"][:16] in page


def test_a_memory_backend_is_chosen_by_name(invoke: Any, mine: Path, tmp_path: Path) -> None:
    scores = {}
    for memory in ("none", "transcript:1", "transcript"):
        invoke("evaluate", f"{mine}:LastWords", *FEW, "--memory", memory, "--no-controls", "--out", tmp_path / memory)
        scores[memory] = found(tmp_path / memory)["retention"]
    assert scores["none"] == 0.0 < scores["transcript:1"] == scores["transcript"]
    tokens = {memory: found(tmp_path / memory)["cost"][-1]["tokens"] for memory in scores}
    assert tokens["transcript:1"] < tokens["transcript"]


def test_a_scenario_without_a_run_has_a_page(invoke: Any, tmp_path: Path) -> None:
    invoke("evaluate", "best", "--data", "scenario:guess", *FEW, "--out", tmp_path)
    invoke("report", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Score of 10, this player" in page
    assert "after MRL" not in page


def test_the_same_evaluation_has_the_same_bytes_and_another_seed_does_not(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        invoke("evaluate", checkpoint, *FEW, "--sampled", "--seed", seed, "--out", tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert files(tmp_path / "one") != files(tmp_path / "other")


def test_a_stopped_evaluation_goes_on_and_ends_with_the_same_bytes(
    invoke: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rxrl.players.EVALUATION_ROWS", 3)
    command = ("evaluate", checkpoint, *FEW)
    invoke(*command, "--out", tmp_path / "whole")

    keep, kept = resuming.KeptBatches.keep, []

    def stopping(self: Any, key: Any, batch: Any) -> None:
        keep(self, key, batch)
        kept.append(tuple(key))
        if len(kept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(resuming.KeptBatches, "keep", stopping)
    invoke(*command, "--out", tmp_path / "stopped", code=130)
    assert not (tmp_path / "stopped" / "evaluation.json").exists()
    invoke(*command, "--out", tmp_path / "stopped")
    # Eight conversations in batches of three, once for the true memory with its controls, once for the oracle.
    assert len(kept) == 2 * 3
    assert len(set(kept)) == len(kept)
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_other_settings_or_weights_use_nothing_that_was_kept(
    invoke: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []

    def keep(self: Any, key: Any, batch: Any) -> None:
        kept.append(self._place(key))
        raise KeyboardInterrupt

    monkeypatch.setattr(resuming.KeptBatches, "keep", keep)
    other = shutil.copytree(checkpoint, tmp_path / "other")
    rewards = [("--reward", f"{{retention: 1, length: {weight}}}") for weight in (0, 3)]
    for options in ((), ("--sampled",), ("--seed", 1), ("--max-answer-tokens", 5), *rewards):
        invoke("evaluate", other, *FEW, *options, "--out", tmp_path / "out", code=130)
    for score in (3, 4):
        (tmp_path / "reward.py").write_text(f"def fixed(turns):\n    return [{score}.0 for turn in turns]\n")
        invoke("evaluate", other, *FEW, "--reward", f"{tmp_path / 'reward.py'}:fixed", "--out", tmp_path / "out", code=130)
    (other / "more.json").write_text("{}")
    invoke("evaluate", other, *FEW, "--out", tmp_path / "out", code=130)
    assert len(set(kept)) == len(kept)


def test_a_player_that_reads_the_references_is_caught(invoke: Any) -> None:
    shown = invoke("evaluate", "oracle", "--conversations", 20, "--steps", 8).stdout
    assert "do not come from memory" in shown


def test_a_player_without_memory_shows_no_contribution(invoke: Any, mine: Path) -> None:
    shown = invoke("evaluate", f"{mine}:LastWords", "--memory", "none", "--conversations", 20, "--steps", 8).stdout
    assert "Memory shows no contribution" in shown


def test_what_is_wrong_is_said_in_one_sentence(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    assert "Unknown policy 'parot'" in refused(invoke("evaluate", "parot", code=2))
    assert "There is no checkpoint" in refused(invoke("evaluate", tmp_path / "none", code=2))
    assert "Short-Term Memory of its own" in refused(invoke("evaluate", checkpoint, "--memory", "transcript", code=2))
    assert "rxrl evaluate WHAT --out" in refused(invoke("report", checkpoint, code=2))
