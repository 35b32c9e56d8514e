"""Objects of files and modules: found, executed once, and refused with one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rxrl.errors import ConfigError
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
