"""The examples that need nothing run as they stand, and print what they are for."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.pages import ROOT

EXAMPLES = ROOT / "examples"
SHOWN = {
    "own_reward": [r"10\.0  'A cat\.'", r" 0\.0  'A dog\.'", r"^range: ok", r"^hacks: note"],
    "own_curriculum": [r"steps-2 .* advance", r"steps-4 .* advance", r"steps-8-mix .* finish"],
    "own_environment": [r"Oracle: 9\.\d of 10", r"Parrot: 0\.0 of 10"],
}
"""What each program prints."""
NEED_A_CHECKPOINT = {"train_mrl", "evaluate"}
"""Run by tests/cli/test_scripts.py."""


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_prints_what_it_is_for(name: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    for line in SHOWN[name]:
        assert re.search(line, done.stdout, re.M), (line, done.stdout)


def test_every_example_is_run_and_listed() -> None:
    programs = {path.stem for path in EXAMPLES.glob("*.py")}
    assert programs == SHOWN.keys() | NEED_A_CHECKPOINT
    listed = re.findall(r"^\| `(\w+)\.py`", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.M)
    assert set(listed) == programs
