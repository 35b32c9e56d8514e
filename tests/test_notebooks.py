"""The notebooks run from top to bottom, as they stand, without a network, and show what they are for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import ROOT

EXAMPLES = ROOT / "examples"
SHOWN = {
    "play_and_reward": [r"retention, all asking turns\s+1\.000", r"earn \d+\.\d\d of 10 on average"],
    "train_a_memory": [r"Memory Reinforcement Learning", r"rows of metrics, a checkpoint, evaluations: mrl", r"Which pet does Anna have\?"],
    "read_an_evaluation": [r"window is below whole by 0\.\d+", r"\\label\{tab:window\}"],
}
"""What each notebook prints."""

RUNNER = '''
"""Runs the cells of a notebook one after the other, and prints the value of the last line of each, as a notebook does."""
import ast, json, sys

cells = [cell for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
names = {"__name__": "__main__"}
for number, cell in enumerate(cells, start=1):
    tree = ast.parse("".join(cell["source"]))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, f"cell {number}", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
        if value is not None:
            print(repr(value))
            getattr(value, "_repr_html_", str)()
'''


def test_every_notebook_is_run_and_listed() -> None:
    notebooks = {path.stem for path in EXAMPLES.glob("*.ipynb")}
    assert notebooks == SHOWN.keys()
    listed = re.findall(r"^\| `(\w+)\.ipynb`", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.M)
    assert set(listed) == notebooks


@pytest.mark.parametrize("name", SHOWN)
def test_notebooks_are_kept_without_output(name: str) -> None:
    content = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in content["cells"])


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_runs_from_top_to_bottom(name: str, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(RUNNER, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "run.py", str(EXAMPLES / f"{name}.ipynb")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for line in SHOWN[name]:
        assert re.search(line, done.stdout), (line, done.stdout)
