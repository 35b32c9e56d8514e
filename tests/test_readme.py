"""The README and the guides hold what they say: commands, snippets and tables are taken from the text and tried."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rxrl.algorithms import BUILT_IN
from rxrl.cli import main as cli
from rxrl.config import parse_config
from rxrl.curricula import CURRICULA, Stage, load_curriculum
from rxrl.data.rows import to_conversation
from rxrl.pipeline import PipelineConfig, load_budget
from rxrl.rewards import REWARDS
from rxrl.stages.config import STAGES
from rxrl.training.config import MRLConfig
from tests.pages import DOCS, PAGES, README, ROOT, blocks, commands, table

GUIDES = DOCS / "guides"
README_TEXT = README.read_text(encoding="utf-8")
_STAGE = "--set batch_tokens=300 --set validation_rows=4 --set validate_every=2 --set log_every=1"
SMALLER = {
    ("stage", "pretrain"): f"--set iterations=2 {_STAGE}",
    ("stage", "sft"): f"--set iterations=2 {_STAGE}",
    ("stage", "memory-attention"): f"--set iterations=2 --set steps=2 {_STAGE}",
    ("stage", "smat"): f"--set 'phases=[{{steps: 1, iterations: 2}}, {{steps: 2, iterations: 2}}]' {_STAGE}",
    ("train",): "--set episodes=2 --set max_iterations=1 --set evaluation.every=1 --set evaluation.conversations=2",
    ("evaluate",): "--steps 3 --conversations 4",
}
"""What makes a command cheap, appended to it as it stands in the text."""
TINY_QUICKSTART = (
    "quickstart --budget tiny --set mrl.algorithm.name=impo --set mrl.max_iterations=1 --set data.test_conversations=4 "
    "--set stages.pretrain.iterations=2 --set stages.sft.iterations=2 --set stages.memory_attention.iterations=2 "
    "--set interactive.mrl.max_iterations=1 --set interactive.data.test_conversations=4 --set interactive.stages.sft.iterations=2 "
    "--side-by-side"
)
CHEAP_DATA = ("generate", "stats")
_APART = ("environment", "model", "rewards", "scenarios", "trl", "verifiers")
TESTED_APART = {*(GUIDES / f"{name}.md" for name in _APART), *(DOCS / "tutorials").glob("*.md")}
"""Pages whose snippets tests/test_docs.py, tests/test_tutorials.py, tests/integrations and the test_docs.py of envs/ and models/ run."""
HERE = [page for page in PAGES if page.parent.name != "algorithms"]
BLOCKS = blocks(*HERE)
COMMANDS = commands(*HERE)
RXRL = [line.replace("scripts/quickstart.sh", "rxrl quickstart") for line in COMMANDS if re.match(r"rxrl |scripts/quickstart", line)]


def run(line: str, code: int = 0, **options: Any) -> str:
    """Runs a command line of rxrl in this process and returns what it prints."""
    result = CliRunner().invoke(cli.app, shlex.split(line.removeprefix("rxrl ")), **options)
    assert result.exit_code == code, f"{line}\n{result.output}\n{result.exception!r}"
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder of a reader, with the files that the README shows."""
    path = tmp_path_factory.mktemp("reader")
    for block in BLOCKS:
        if block.file and block.page not in TESTED_APART:
            (path / block.file).write_text(block.text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("COLUMNS", "400")
        yield path


@pytest.fixture(scope="module")
def quickstart(folder: Path) -> str:
    """What a tiny quickstart prints; it leaves what the snippets start from."""
    return run(TINY_QUICKSTART)


@pytest.fixture(scope="module")
def chain(folder: Path) -> dict[str, str]:
    """The commands of "Step by step", made cheap: command line to what it printed."""
    steps = next(block for block in blocks(GUIDES / "commands.md") if "rxrl stage pretrain" in block.text)
    printed = {}
    for line in steps.lines:
        names = next((names for names in SMALLER if line.startswith(" ".join(("rxrl", *names)))), None)
        printed[line] = run(f"{line} {SMALLER[names]}" if names else line, input="Anna likes red.\n/quit\n")
    return printed


@pytest.mark.slow
def test_quickstart_prints_what_the_readme_shows(quickstart: str, folder: Path) -> None:
    shown = next(block.text for block in BLOCKS if "Tokenizer: " in block.text)
    wanted = [line for line in shown.splitlines() if not line.startswith("==>")]
    # When the lines of the second job come is chance; their order is not.
    printed = sorted((line for line in quickstart.splitlines() if not line.startswith("  ")), key=lambda line: line.startswith("["))
    wanted.sort(key=lambda line: line.startswith("["))
    assert len(printed) == len(wanted)
    for line, pattern in zip(printed, wanted, strict=True):
        parts = [re.sub(r"\d[\d,]*", r"[\\d,]+", re.escape(part)) for part in pattern.split("...")]
        assert re.fullmatch(".+".join(parts), line), (line, pattern)
    report = re.search(r"Report: (\S+)", shown)
    assert report is not None
    assert (folder / report[1]).is_file()


@pytest.mark.slow
def test_the_chain_of_commands_runs_as_written(chain: dict[str, str], folder: Path) -> None:
    assert any("you> Anna likes red." in printed for printed in chain.values())
    report = json.loads((folder / "runs/mrl/report.json").read_text())
    assert report["after_mrl"]["conversations"] == 4
    assert report["controls"]["oracle"]["retention"] == 1.0
    assert (folder / "runs/mrl/report.html").is_file()


@pytest.mark.parametrize("line", sorted(set(RXRL)))
def test_commands_take_these_options(line: str) -> None:
    name, *arguments = shlex.split(line.removeprefix("rxrl "))
    command = cli.load_command(cli.COMMANDS[name], name)
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    given = command.make_context(name, arguments).params
    if name == "stage":
        assert given["name"] in STAGES
    if name == "quickstart":
        assert load_budget(given["budget"])
    if "curriculum" in given:
        assert given["curriculum"] in CURRICULA or given["curriculum"].endswith(".yaml")


def test_dry_runs_and_data_commands_run_as_written(quickstart: str, chain: dict[str, str], folder: Path) -> None:
    done = 0
    for line in RXRL:
        words = line.split()
        if "--dry-run" in words:
            assert "At most" in run(line)
        elif words[1:3] in [["data", name] for name in CHEAP_DATA] and (words[2] == "generate" or (folder / words[3]).exists()):
            run(f"{line} --count 20" if words[2] == "generate" else line)
        else:
            continue
        done += 1
    assert done >= 6


@pytest.mark.slow
def test_python_snippets_run_as_written(quickstart: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snippets = [block for block in BLOCKS if block.language == "python" and block.page not in TESTED_APART]
    assert len(snippets) >= 4
    for block in snippets:
        exec(compile(block.text, block.page.name, "exec"), {"__name__": "snippet"})
    printed = capsys.readouterr().out
    assert "turn 4 of 4: " in printed
    lines = [json.loads(line) for line in (folder / "runs/mine/metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["steps-2"] * 4 + ["steps-4"] * 4
    assert list((folder / "runs/mine/checkpoints").glob("step-*/model.safetensors"))


def test_the_environment_of_the_readme_trains(quickstart: str, folder: Path) -> None:
    classes: dict[str, Any] = {}
    block = next(block for block in BLOCKS if "class OnlyQuestions" in block.text)
    exec(compile(block.text, block.page.name, "exec"), classes)
    snippet = next(block.text for block in BLOCKS if "MRLTrainer(" in block.text and block.language == "python")
    for old, new in (('folder="runs/mine"', 'folder="runs/env", env=OnlyQuestions'), ("iterations=4", "iterations=1")):
        assert old in snippet
        snippet = snippet.replace(old, new)
    exec(compile(snippet, block.page.name, "exec"), classes)
    lines = [json.loads(line) for line in (folder / "runs/env/metrics.jsonl").read_text().splitlines()]
    assert [line.get("reward_not_asking", 0.0) for line in lines] == [0.0] * 2


def test_yaml_blocks_are_valid(folder: Path) -> None:
    curriculum = load_curriculum("my_curriculum.yaml")
    assert [stage.steps for stage in curriculum.stages] == [2, 4, 8]
    here = [block for block in BLOCKS if block.page not in TESTED_APART]
    settings = [block for block in here if block.language == "yaml"]
    files = {block.file: block.text for block in settings if block.file}
    assert files.keys() == {"my_curriculum.yaml", "mrl.yaml", "babi20.yaml", "eight.yaml"}
    assert [stage.steps for stage in load_curriculum("eight.yaml").stages] == [8]
    parse_config(yaml.safe_load(files["babi20.yaml"]), PipelineConfig)
    # A block that is no file shows settings of MRL.
    pieces = [parse_config(yaml.safe_load(block.text), MRLConfig) for block in settings if not block.file]
    assert pieces


def test_the_example_row_is_valid() -> None:
    rows = [json.loads(block.text) for block in BLOCKS if block.language == "json"]
    assert rows
    for row in rows:
        conversation = to_conversation(row, default_id="row")
        assert conversation.id == row.get("id", "row")
        assert conversation.extra == {key: row[key] for key in ("source",) if key in row}


def test_tables_match_the_code() -> None:
    assert set(table(README, "## Rewards")) == set(REWARDS.names())
    assert set(table(README, "## Algorithms")) == set(BUILT_IN)
    curricula = table(README, "## Curricula")
    assert set(curricula) == set(CURRICULA.built_in)
    for name in ("quickstart", "short", "general", "exponential", "published"):
        shown = [int(number) for number in re.findall(r"\d+", curricula[name][0].split(";")[0])]
        assert shown == [stage.steps for stage in load_curriculum(name).stages]


def test_the_guide_to_commands_lists_every_command() -> None:
    rows = re.findall(r"^\| `rxrl .*", (GUIDES / "commands.md").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"`rxrl ([\w-]+)`", "".join(rows))) == set(cli.COMMANDS)


def test_the_guide_to_curricula_lists_every_setting_and_every_curriculum() -> None:
    assert set(table(GUIDES / "curricula.md", "| setting |")) == set(Stage.model_fields)
    assert table(GUIDES / "curricula.md", "# Curricula").keys() == table(README, "## Curricula").keys()


def test_every_metric_is_explained(quickstart: str, folder: Path) -> None:
    page = (ROOT / "docs/guides/metrics.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"`([\w./-]+)`", page))
    lines = [json.loads(line) for line in (folder / "runs/quickstart/metrics.jsonl").read_text().splitlines()]
    assert {line["phase"] for line in lines} <= explained
    for key in {key for line in lines for key in line}:
        assert explained & {key, key.removeprefix("val_"), re.sub(r"^(reward\w*)/.*", r"\1/NAME", key)}, key
    report = json.loads((folder / "runs/quickstart/report.json").read_text())
    parts = {f"{part}.{key}" for part in ("comparisons", "controls") for key in report[part]} - {"controls.chance"}
    assert parts | {"after_supervised", "after_mrl", "after_smat_continued", "scenarios", "stages", "cost"} <= explained
    assert report["scenarios"]["preferences"].keys() <= explained


@pytest.mark.slow
def test_tables_of_results_are_made_from_runs(quickstart: str, folder: Path) -> None:
    script, run = [sys.executable, str(ROOT / "scripts/results.py")], folder / "runs/quickstart"
    other = shutil.copytree(run, folder / "runs/another-seed")
    for path in (other / "evaluation").glob("*/transcripts.jsonl"):
        path.write_text(re.sub(r"-seed\d+-", "-seed99-", path.read_text()))

    def shown(*folders: Path) -> str:
        return subprocess.run([*script, "runs", *map(str, folders)], check=True, capture_output=True, text=True).stdout

    made = shown(run, other)
    report = json.loads((run / "report.json").read_text())
    for name in ("quickstart", "another-seed"):
        assert f"| {name} | {report['after_supervised']['retention']:.3f} [" in made
    assert "all, paired" not in shown(run, run), "the same conversations twice are not twice the evidence"
    (bare := folder / "runs/report-alone").mkdir()
    shutil.copy(run / "report.json", bare)
    assert "all, paired" not in shown(run, bare)
    gain = f"{report['comparisons']['mrl_minus_supervised']['difference']:+.3f}"
    assert re.search(rf"\| all, paired \| {report['after_supervised']['retention']:.3f} \| .* \| {re.escape(gain)} \[", made)
    long = report["stress"]["turns_64"]["after_mrl"]
    assert re.search(rf"\| quickstart \| turns 64 \| .* \| {long['mean']:.3f} \[{long['low']:.3f}, {long['high']:.3f}\] \|", made)
    start = folder / "runs/ablation/seed5/start/evaluation"
    shutil.copytree(run / "evaluation/mrl", start / "start")
    table = subprocess.run(
        [*script, "ablation", "--table", "--seeds", "5", "--out", str(folder / "runs/ablation")], check=True, capture_output=True, text=True
    )
    assert f"| start (supervised, 4 turns) | {report['after_mrl']['retention']:.3f} |" in table.stdout


def test_scripts_and_extras_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"\.\[(\w+)\]", README_TEXT)) | set(re.findall(r"`(trl|semantic|bleu|flash)`", README_TEXT))
    assert named == set(extras)
    for script in re.findall(r"scripts/\w+\.(?:sh|py)", README_TEXT):
        assert (ROOT / script).is_file()
    torch_pin = re.search(r"torch==[\d.]+", (ROOT / "scripts/setup.sh").read_text())
    assert torch_pin is not None
    assert f"pip install {torch_pin[0]}" in COMMANDS
    said = [line for line in (ROOT / "scripts/test.sh").read_text().splitlines() if line.startswith("say ")]
    for line in said:
        assert f"==> {shlex.split(line)[1]}" in README_TEXT


def test_every_command_is_of_a_kind_that_is_checked_here() -> None:
    for line in COMMANDS:
        command = re.sub(r"^NODES=\S+ NODE=\S+ MASTER=\S+ ", "", line)
        scripts = r"scripts/(quickstart|test|docs|train_multi)\.sh|python (scripts/(results|language|reading|tales)|make_parcels)\.py"
        assert re.match(rf"(rxrl|vf-eval|{scripts}|pip install|source|export)\b", command), line
