"""A sweep runs every seed and setting once, and goes on where it stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rxrl.cli.sweep import parse_grid, parse_seeds
from rxrl.errors import ConfigError

PROGRAM = """
import pathlib, sys
seed, out, rate = sys.argv[1:]
folder = pathlib.Path(out)
folder.mkdir(parents=True, exist_ok=True)
print(f"seed {seed}, rate {rate}")
with open(folder / "runs", "a") as file:
    file.write("x")
if seed == "1" and not (folder.parents[1] / "mended").exists():
    sys.exit("it broke")
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    (tmp_path / "program.py").write_text(PROGRAM)
    return ["--", sys.executable, str(tmp_path / "program.py"), "{seed}", "{out}", "{opt.rate}"]


def test_seeds_and_settings_are_read_as_they_are_written() -> None:
    assert parse_seeds("0..4") == [0, 1, 2, 3, 4]
    assert parse_seeds("3, 1,3") == [3, 1]
    for text in ("4..0", "a", "", "1..", "-1"):
        with pytest.raises(ConfigError, match=r"0\.\.4"):
            parse_seeds(text)
    assert parse_grid(["a.b=1,2", "c=[1,2],{x: 1, y: 2},'p,q'"]) == [
        [("a.b", "1"), ("a.b", "2")],
        [("c", "[1,2]"), ("c", "{x: 1, y: 2}"), ("c", "'p,q'")],
    ]
    for wrong in ("a", "a=", "=1"):
        with pytest.raises(ConfigError, match="with its values"):
            parse_grid([wrong])
    with pytest.raises(ConfigError, match="twice"):
        parse_grid(["a=1", "a=2"])


def test_all_combinations_run_once_and_a_failed_one_again(invoke: Any, command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    arguments = ["sweep", "--seeds", "0..1", "--set", "opt.rate=1,2", "--jobs", "2", "--out", out, *command]
    first = invoke(*arguments, code=1).stdout
    assert "4 runs, 0 of them done." in first
    assert "it broke" in first
    folders = sorted(str(path.parent.relative_to(out)) for path in out.glob("*/*/runs"))
    assert folders == ["rate=1/seed-0", "rate=1/seed-1", "rate=2/seed-0", "rate=2/seed-1"]
    assert "seed 1, rate 2" in (out / "rate=2" / "seed-1.log").read_text()
    (out / "mended").touch()
    second = invoke(*arguments).stdout
    assert "4 runs, 2 of them done." in second
    assert f"rxrl compare {out}/rate=1/seed-0" in second
    assert {path.parent.name: path.read_text() for path in out.glob("rate=1/*/runs")} == {"seed-0": "x", "seed-1": "xx"}
    assert len(json.loads((out / "sweep.json").read_text())["done"]) == 4
    assert "4 runs, 4 of them done." in invoke(*arguments).stdout


def test_a_program_that_fails_without_a_word_does_not_end_the_sweep(invoke: Any, tmp_path: Path) -> None:
    silent = [sys.executable, "-c", "import sys; sys.exit(3)", "{seed}", "{out}"]
    told = invoke("sweep", "--seeds", "0..1", "--out", tmp_path, "--", *silent, code=1).stdout
    assert told.count("failed with exit code 3") == 2


def test_a_folder_of_another_command_is_left_alone(invoke: Any, command: list[str], tmp_path: Path) -> None:
    arguments = ["sweep", "--seeds", "0", "--set", "opt.rate=1", "--out", tmp_path / "sweep"]
    invoke(*arguments, *command)
    assert "holds a run of another command" in invoke(*arguments, *command, "more", code=2).output


@pytest.mark.parametrize(
    ("behind", "words"),
    [
        (["trian", "--from", "x"], "Did you mean 'train'"),
        (["list", "algorithms"], "`rxrl list` has no --seed"),
        (["train", "--from", "x", "--seed", "3"], "leave it out behind --"),
        (["rxrl", "train", "--out", "x"], "leave it out behind --"),
    ],
)
def test_commands_that_cannot_be_swept_are_refused(invoke: Any, behind: list[str], words: str, tmp_path: Path) -> None:
    assert words in invoke("sweep", "--out", tmp_path / "s", "--", *behind, code=2).output


@pytest.mark.slow
def test_a_command_of_rxrl_gets_seed_and_folder(invoke: Any, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    settings = [part for each in ("phases=[{steps: 1, iterations: 2}]", "batch_tokens=300") for part in ("--set", each)]
    command = ["sweep", "--seeds", "0..1", "--out", out, "--", "stage", "smat", "--preset", "pico", *settings]
    invoke(*command)
    assert sorted(path.parent.name for path in out.glob("run/*/checkpoint")) == ["seed-0", "seed-1"]
    configs = [(out / "run" / f"seed-{seed}" / "config.yaml").read_text() for seed in (0, 1)]
    assert configs[0].replace("seed: 0", "seed: 1") == configs[1]
