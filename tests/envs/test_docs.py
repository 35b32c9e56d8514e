"""The page on the environment holds what it says: every snippet is run, every table is compared with the code."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from typer.testing import CliRunner

import rxrl
from rxrl.cli import main as cli
from rxrl.envs import ConversationEnv, ConversationVectorEnv
from rxrl.envs.conversation import _OPTIONS as ONE_OPTIONS
from rxrl.envs.vector import _OPTIONS as MANY_OPTIONS
from tests.pages import DOCS, blocks, commands

GUIDE = DOCS / "guides/environment.md"
PAGE = GUIDE.read_text(encoding="utf-8")
PYTHON = [block.text for block in blocks(GUIDE) if block.language == "python"]
COMMANDS = commands(GUIDE)


def names(heading: str, column: int = 0) -> list[str]:
    """The names in a column of the first table behind a heading or a sentence."""
    table = re.search(r"(?:^\|.*\n)+", PAGE[PAGE.index(heading) :], re.M)
    assert table is not None
    cells = [row.strip("|").split("|")[column] for row in table[0].splitlines()[2:]]
    return [name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a reader works, with the files that the page shows and its first conversation."""
    for text in PYTHON:
        if found := re.match(r"# (\w+\.py)\n", text):
            (tmp_path / found[1]).write_text(text, encoding="utf-8")
    talks = ran(PYTHON[0])["talks"]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in talks))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def ran(text: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(text, "environment.md", "exec"), namespace)
    return namespace


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("text", PYTHON)
def test_python_snippets_run_and_print_what_they_say(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran(text)
    printed = capsys.readouterr().out
    for said in re.findall(r"^print\(.*  # (.*)$", text, re.M):
        if said.endswith("."):
            assert said in printed


@pytest.mark.usefixtures("folder")
def test_the_first_snippet_earns_what_a_right_answer_earns(capsys: pytest.CaptureFixture[str]) -> None:
    ran(PYTHON[0])
    assert "held 10.0" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_memory_is_what_makes_the_difference_in_the_last_snippet(capsys: pytest.CaptureFixture[str]) -> None:
    ran(PYTHON[-1])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["none", "transcript:1", "transcript"]
    retention, tokens = ([float(line[column]) for line in lines] for column in (1, 2))
    assert retention[0] == 0.0 < retention[2]
    assert tokens == sorted(tokens)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("line", [line for line in COMMANDS if "runs/" not in line and "http" not in line])
def test_commands_run_as_written(line: str) -> None:
    result = CliRunner().invoke(cli.app, shlex.split(line.removeprefix("rxrl ")), input="I do not know.\n" * 9)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "told:" in result.stdout


@pytest.mark.usefixtures("folder")
def test_the_play_that_is_shown_is_what_is_printed() -> None:
    shown = next(block.text for block in blocks(GUIDE) if block.language == "text")
    result = CliRunner().invoke(cli.app, ["play", "talks.jsonl", "--memory", "transcript"], input="Okay.\nA dog.\n")
    assert result.stdout.startswith(shown)


def test_tables_match_the_code() -> None:
    arguments = set(inspect.signature(ConversationVectorEnv.__init__).parameters) - {"self", "num_envs", "codec"}
    arguments |= set(inspect.signature(ConversationEnv.__init__).parameters) - {"self", "options"}
    assert set(names("## What can be set")) == arguments | {"tokenizer"}
    options = PAGE.index("`reset(seed=..., options=...)`")
    assert set(names(PAGE[options : options + 40])) == set(ONE_OPTIONS)
    assert set(names(PAGE[options : options + 40], 1)) == set(MANY_OPTIONS)


def test_the_keys_of_info_are_all_explained() -> None:
    explained = set(names("## What info holds"))
    talks = ran(PYTHON[0])["talks"]
    single = gymnasium.make(rxrl.ENV_ID, conversations=[talks[0], {**talks[0], "id": "other"}], reset_ratio=0.0)
    batched = gymnasium.make_vec(rxrl.ENV_ID, 2, vectorization_mode="vector_entry_point", conversations=talks)
    seen: set[str] = set()
    for options in ({"conversation": 0}, {"conversation": 1}):
        seen |= set(single.reset(options=options)[1]) | set(single.step("x")[4])
    seen |= set(batched.reset()[1]) | set(batched.step({"ids": np.zeros((2, 1), dtype=np.int64), "length": np.ones(2, dtype=np.int64)})[4])
    assert seen | {"stm0_carried"} == explained
