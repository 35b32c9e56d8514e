"""The guides to rewards, environment and scenarios hold what they say: snippets run as written, tables are those of the code."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rxrl.cli import main as cli
from rxrl.data import GeneratedSource
from rxrl.data.rows import write_conversations
from rxrl.evaluation import TurnRecord, write_records
from rxrl.rewards import BUILT_IN, held, load_reward, samples
from rxrl.training.config import MRLConfig
from rxrl.types import Score
from tests.pages import DOCS, Block, blocks
from tests.rewards import table

REWARDS_PAGE, ENVIRONMENT_PAGE, SCENARIOS_PAGE = (DOCS / "guides" / f"{name}.md" for name in ("rewards", "environment", "scenarios"))
BLOCKS = blocks(REWARDS_PAGE, ENVIRONMENT_PAGE, SCENARIOS_PAGE)
SNIPPETS = [block for block in BLOCKS if block.language == "python"]
FILES = {block.file: block.text for block in BLOCKS if block.file}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder of a reader, with the files that the pages show."""
    path = tmp_path_factory.mktemp("reader")
    for name, text in FILES.items():
        (path / name).write_text(text, encoding="utf-8")
    talks = GeneratedSource(level=1, seed=0, split="train").take(steps=3, strategy="multi-step", start=0, count=4)
    write_conversations(path / "talks.jsonl", talks)
    records = [TurnRecord.of(sample.turn, retention=held(sample.turn), score=Score(None)) for sample in samples()]
    write_records(path / "runs/evaluation/transcripts.jsonl", records)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("COLUMNS", "200")
        yield path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, list(arguments))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.mark.parametrize("block", SNIPPETS, ids=[f"{block.page.stem}-{number}" for number, block in enumerate(SNIPPETS)])
def test_snippets_run_as_written(block: Block, folder: Path) -> None:
    exec(compile(block.text, block.page.name, "exec", dont_inherit=True), {"__name__": "snippet"})


def test_the_pages_have_what_their_readers_come_for() -> None:
    assert {"brief.py", "my_rewards.py", "pyproject.toml", "shaped.yaml", "judged.yaml"} <= set(FILES)
    assert len(FILES["brief.py"].splitlines()) <= 11
    assert len([block for block in SNIPPETS if block.page == REWARDS_PAGE]) >= 5


def test_snippets_print_what_the_text_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = {}
    for block in SNIPPETS:
        if block.page == REWARDS_PAGE and "print" in block.text:
            exec(compile(block.text, block.page.name, "exec", dont_inherit=True), {"__name__": "snippet"})
            printed[block.text] = capsys.readouterr().out
    several, checked, here, there = printed.values()
    assert several.startswith("10.0 {'retention': 10.0, 'repetition': 10.0, 'classic': ")
    assert several.splitlines()[1].startswith("2.0 {'retention': 0.0, 'repetition': 10.0, 'classic': ")
    assert "batch = single ok" in checked
    assert (here, there) == ("[10.0, 0.0]\n", "[10.0]\n")


def test_yaml_of_the_rewards_page_is_valid(folder: Path) -> None:
    for name in ("shaped.yaml", "judged.yaml"):
        given = yaml.safe_load(FILES[name])
        assert load_reward(MRLConfig(**given).reward)
    assert "Passed." in run("rewards", "check", "shaped.yaml")


def test_commands_of_the_rewards_page_run(folder: Path) -> None:
    for line in ("rewards list", "rewards show classic", "rewards check brief.py:brief"):
        assert f"rxrl {line}\n" in "".join(block.text for block in BLOCKS)
        run(*line.split())
    [rescore] = [line for block in BLOCKS for line in block.text.splitlines() if line.startswith("rxrl rescore")]
    assert "rescored.jsonl" in run(*rescore.split()[1:])


def test_commands_of_the_scenarios_page_run(folder: Path) -> None:
    for line in ("scenarios list", "scenarios show preferences", "scenarios check preferences", "scenarios check coin.py:Coin"):
        assert f"rxrl {line}\n" in "".join(block.text for block in BLOCKS if block.page == SCENARIOS_PAGE)
        run(*line.split())


@pytest.mark.slow
def test_the_package_of_the_page_installs_and_registers(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for name in ("pyproject.toml", "my_rewards.py"):
        (source / name).write_text(FILES[name])
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(target)]
    done = subprocess.run([*pip, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    monkeypatch.syspath_prepend(str(target))
    importlib.invalidate_caches()
    assert "10 for an answer with a polite word." in run("rewards", "show", "polite")
    sys.modules.pop("my_rewards", None)


def test_the_page_names_every_reward() -> None:
    page = REWARDS_PAGE.read_text(encoding="utf-8")
    first_table = page[: page.index("```")]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", first_table, re.M)))) == set(BUILT_IN)


@pytest.mark.slow
@pytest.mark.parametrize("name", table.REWARDS)
def test_the_table_of_hand_made_answers_is_current(name: str) -> None:
    shown = table.cells(table.shown()[1])
    place = 1 + table.REWARDS.index(name)
    for kind, text in table.column(name).items():
        numbers, current = ([float(number) for number in re.findall(r"[\d.]+", cell)] for cell in (shown[kind][place], text))
        assert numbers == pytest.approx(current, abs=0.11 if name == "semantic" else 0.051), kind
    assert int(shown[f"`{name}`"][0]) == len(table.fooled(name))
