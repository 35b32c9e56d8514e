"""Things by name: of every kind, found in the same ways, executed once, and refused with one sentence."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rxrl.cli.listing import KINDS, registry_of
from rxrl.cli.main import app
from rxrl.curricula import load_curriculum
from rxrl.errors import ConfigError
from rxrl.factory import make_vector_env
from rxrl.players import make_play
from rxrl.registry import load_file, load_object


def test_a_file_is_executed_once_and_again_after_it_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "counted.py"
    path.write_text("class Kept: pass\n")
    kept = load_object(f"{path}:Kept", "reward")
    assert load_object(f"{path}:Kept", "reward") is kept
    path.write_text("class Kept: pass\nmore = 1\n")
    assert load_object(f"{path}:more", "reward") == 1


def test_a_file_that_fails_leaves_nothing_and_may_be_repaired(tmp_path: Path) -> None:
    path = tmp_path / "half.py"
    path.write_text("first = 1\n1 / 0\n")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"half.py:first' cannot be loaded: ZeroDivisionError: division by zero\.$"):
            load_object(f"{path}:first", "reward")
    assert not [name for name in sys.modules if name.startswith("rxrl_plugin_half_")]
    path.write_text("first = 1\n")
    assert load_object(f"{path}:first", "reward") == 1


def test_a_file_that_exits_takes_nobody_with_it(tmp_path: Path) -> None:
    (tmp_path / "exits.py").write_text("import sys\nsys.exit('no configuration')\n")
    with pytest.raises(ConfigError, match=r"cannot be loaded: SystemExit: no configuration\.$"):
        load_object(f"{tmp_path / 'exits.py'}:fn", "reward")


def test_modules_beside_a_file_can_be_imported_by_it(tmp_path: Path) -> None:
    (tmp_path / "words_beside.py").write_text("limit = 7\n")
    (tmp_path / "own.py").write_text("from words_beside import limit\n")
    before = list(sys.path)
    assert load_file(str(tmp_path / "own.py")).limit == 7
    assert sys.path == before


def test_a_module_of_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "rewards.py").write_text("import words_of_mine\nlimit = words_of_mine.limit\n")
    (tmp_path / "words_of_mine.py").write_text("limit = 7\n")
    (tmp_path / "own_broken.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert load_object("own_package.rewards:limit", "reward") == 7
    with pytest.raises(ConfigError, match="No module named 'no_such_package'"):
        load_object("own_broken:limit", "reward")
    assert sys.path == before


def test_the_reward_of_the_training_script_can_be_named() -> None:
    script = Path(__file__).parents[1] / "examples/train_mrl.py"
    assert callable(load_object(f"{script}:short_and_right", "reward"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of an installed package that registers things of every kind: one that works, one broken, and one under a built-in name."""
    lines = ["import sys", "from rxrl.algorithms import BUILT_IN", "from rxrl.curricula import Curriculum"]
    lines += ["from rxrl.envs import ConversationVectorEnv, TranscriptMemory", "algorithms = BUILT_IN['ppo']"]
    lines += ["def rewards(turns):", "    '''Ten for everybody.'''", "    return [10.0] * len(turns)"]
    lines += ["from rxrl.envs.scenarios import SCENARIOS", "class scenarios(next(iter(SCENARIOS.built_in.values()))): pass"]
    lines += ["class envs(ConversationVectorEnv): pass", "class memories(TranscriptMemory): pass"]
    lines += ["def importers(source, limit=2):", "    '''Rows of anything.'''"]
    lines += ["    return [{'query': source, 'answer': 'a', 'interactions': [{'query': 'q', 'answer': 'b'}]}] * limit"]
    lines += ["def policies(codec): return None", "curricula = Curriculum.custom([1], name='mine')"]
    lines += ["from rxrl.evaluation.suites import SUITES", "class suites(SUITES.built_in['mqar']): pass"]
    lines += ["from rxrl.training.signals import Signal", "signals = Signal('mine', lambda inputs: inputs.rollout.rewards)"]
    (tmp_path / "everything.py").write_text("\n".join(lines))
    information = tmp_path / "everything-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: everything\nVersion: 1.0\n")
    groups = []
    for kind in KINDS:
        taken = next(iter(registry_of(kind).built_in))
        groups.append(f"[rxrl.{kind}]\nmine = everything:{kind}\nbroken = not_there:{kind}\n{taken} = everything:{kind}")
    (information / "entry_points.txt").write_text("\n".join(groups))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield "everything"
    sys.modules.pop("everything", None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_named_in_the_same_ways(kind: str, package: str) -> None:
    registry = registry_of(kind)
    module = importlib.import_module(package)
    thing = getattr(module, kind)
    first = next(iter(registry.built_in))
    assert registry.find(first) is registry.built_in[first]
    assert registry.find("mine") is registry.find(f"{package}:{kind}") is thing
    assert type(registry.find(f"{package}.py:{kind}")) is type(thing)
    with pytest.raises(ConfigError, match="'broken' of an installed package cannot be loaded: ModuleNotFoundError"):
        registry.find("broken")
    with pytest.raises(ConfigError, match=f"Unknown {registry.kind} '{first[:-1]}'.*Did you mean '{first}'.*path/file.py:name"):
        registry.find(first[:-1])
    with pytest.raises(ConfigError, match=r"cannot be loaded: FileNotFoundError: there is no file nowhere\.py"):
        registry.find("nowhere.py:thing")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_broken_hides_nothing(kind: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    registry = registry_of(kind)
    result = CliRunner().invoke(app, ["list", kind])
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert {*registry.built_in, "mine", "broken"} <= {row[0] for row in rows}
    assert ["mine", package] in [row[:2] for row in rows]
    assert "ModuleNotFoundError:" in next(row for row in rows if row[0] == "broken")
    taken = [row for row in rows if row[0] == next(iter(registry.built_in))]
    assert [row[1] for row in taken] == ["built", package]


def test_the_kinds_are_listed_and_a_wrong_one_is_refused() -> None:
    assert all(f" {kind} " in CliRunner().invoke(app, ["list"]).stdout for kind in KINDS)
    refused = CliRunner().invoke(app, ["list", "reward"])
    assert (refused.exit_code, "Did you mean 'rewards'" in refused.stderr) == (2, True)


def test_a_registered_curriculum_memory_and_policy_are_used_by_name(package: str) -> None:
    assert load_curriculum("mine").name == "mine"
    assert load_curriculum("mine", ["stages.0.iterations=3"]).stages[0].iterations == 3
    rows = [{"id": "a", "query": "q", "answer": "a", "interactions": [{"query": "q", "answer": "a"}]}]
    assert type(make_vector_env(1, conversations=rows, memory="mine").backend).__name__ == "memories"
    with pytest.raises(ConfigError, match="must give a policy"):
        make_play("mine", rows)


def test_an_importer_of_a_package_or_a_file_is_a_command(package: str, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    for name, options, count in (("mine", [], 2), (f"{package}:importers", ["--set", "limit=3"], 3), (f"{package}.py:importers", [], 2)):
        done = CliRunner().invoke(app, ["data", "import", name, "somewhere", str(out), *options])
        assert (done.exit_code, f"Wrote {count} conversations" in done.stdout) == (0, True), done.output
        assert out.read_text().count('"somewhere"') == count
    for arguments, message in (
        (["min", "x", "y.jsonl"], "Did you mean 'mine'"),
        (["mine", "x", "y.jsonl", "--set", "limits=3"], "unexpected keyword argument 'limits'"),
        (["mine", "x", "y.jsonl", "--set", "limit"], "name=value"),
        (["mine", "x", "y.jsonl", "--set", "limit=0"], "gave no conversation"),
        (["broken", "x", "y.jsonl"], "cannot be loaded"),
        (["everything:rewards", "x", "y.jsonl"], "expected a mapping, got 10.0"),
    ):
        refused = CliRunner().invoke(app, ["data", "import", *arguments])
        assert (refused.exit_code, message in refused.stderr) == (2, True), refused.output
    shown = CliRunner().invoke(app, ["data", "import", "--help"]).stdout
    assert all(f" {name} " in shown for name in ("mine", "broken", "babi"))
