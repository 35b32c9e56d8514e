"""The pages of docs/guides/algorithms hold what they say: options, metrics, commands, the example of an algorithm of one's own."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rxrl import registry
from rxrl.algorithms import BUILT_IN, AlgorithmConfig, ExperimentalConfig
from rxrl.cli import main as cli
from rxrl.data.tokenizer import Tokenizer
from rxrl.models import ReactiveTransformer
from rxrl.runs.checkpoints import save_checkpoint
from tests.algorithms.test_config import EntryPoint

FOLDER = Path(__file__).parents[2] / "docs/guides/algorithms"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))}
OVERVIEW = PAGES["index.md"]
FIELDS = {**AlgorithmConfig.model_fields, **ExperimentalConfig.model_fields}
OPTIONS = set(FIELDS)
SMALL = (
    "--curriculum short --set episodes=8 --set max_iterations=1 --set evaluation.every=1 --set evaluation.conversations=2 "
    "--set max_answer_tokens=3"
)
BLOCKS = [block for page in PAGES.values() for block in re.findall(r"```bash\n(.*?)```", page, re.S)]
COMMANDS = sorted({line for block in BLOCKS for line in block.splitlines()})


def run(line):
    result = CliRunner().invoke(cli.app, shlex.split(line.removeprefix("rxrl ")))
    assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with the checkpoint that the commands start from."""
    path = tmp_path_factory.mktemp("reader")
    tokenizer = Tokenizer.train(["Anna likes red. What does Anna like?"] * 3, 300)
    model = ReactiveTransformer.from_preset("pico", 0, vocab_size=tokenizer.vocab_size, dim=16, layers=1, slots=4)
    save_checkpoint(path / "runs/smat/checkpoint", model, tokenizer, state={"kind": "smat-result"})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        yield path


def test_every_algorithm_has_a_page_and_stands_in_the_overview():
    assert {f"{name}.md" for name in BUILT_IN} == PAGES.keys() - {"index.md"}
    assert set(re.findall(r"^\| \[(\w+)\]", OVERVIEW, re.M)) == set(BUILT_IN)
    for name in BUILT_IN:
        for heading in ("Options", "Logged metrics", "Details", "Sources"):
            assert f"## {heading}\n" in PAGES[f"{name}.md"]
        assert f"--algorithm {name}" in PAGES[f"{name}.md"]


def test_the_overview_lists_all_options_and_no_others():
    listed = set(re.findall(r"`(\w+)`", OVERVIEW[OVERVIEW.index("## Options, all of them") : OVERVIEW.index("## An algorithm of")]))
    assert listed == OPTIONS


def test_tables_and_defaults_match_the_code():
    for page in PAGES.values():
        for table in re.findall(r"^\| option \|.*\n\|.*\n((?:\|.*\n)+)", page, re.M):
            for row in table.splitlines():
                names, default = row.split("|")[1:3]
                found = re.findall(r"`(\w+)`", names)
                assert set(found) <= OPTIONS, names
                for name, shown in zip(found, re.findall(r"[\w.-]+", default.replace("`", "")), strict=False):
                    actual = FIELDS[name].default
                    if isinstance(actual, bool):
                        assert shown == str(actual).lower(), name
                    elif isinstance(actual, int | float):
                        assert float(shown) == actual, name
                    elif isinstance(actual, str):
                        assert shown == actual, name


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_run_and_log_what_the_pages_say(line, folder):
    """Cheaply: on a shorter curriculum with few episodes."""
    run(f"{line} {SMALL}")
    out = re.search(r"--out (\S+)", line)[1]
    metrics = json.loads((folder / out / "metrics.jsonl").read_text().splitlines()[0])
    name = re.search(r"--algorithm (\w+)", line)[1]
    said = set(re.findall(r"^\| (`[^|]+) \|", PAGES["ppo.md"][PAGES["ppo.md"].index("## Logged metrics") :], re.M))
    expected = {metric for names in said for metric in re.findall(r"`(\w+)`", names)} - {"kl_coefficient", "self_imitation"}
    if name not in {"ppo", "impo", "a2c"}:
        expected -= {"value", "value_loss", "explained_variance"}
    if name in {"a2c", "rloo", "reinforce", "expert"}:
        expected.remove("clip_fraction")
    if name == "impo":
        expected |= {"memory_change", "memory_cosine"}
    assert expected <= metrics.keys()


def test_the_example_of_an_own_algorithm_trains(folder, monkeypatch):
    [source] = re.findall(r"```python\n(.*?)```", OVERVIEW, re.S)
    names = {}
    exec(compile(source, "my_package.py", "exec"), names)
    [(name, target)] = re.findall(r'^(\w+) = "my_package:(\w+)"', OVERVIEW, re.M)
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint(name, names[target])])
    run(f"rxrl train --from runs/smat/checkpoint --out runs/{name} --algorithm {name} --set 'algorithm.options={{strength: 0.5}}' {SMALL}")
    assert "policy_loss" in (folder / "runs" / name / "metrics.jsonl").read_text()
