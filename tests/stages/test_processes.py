"""A batch divided among processes, or into passes, teaches what it teaches whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rxrl.errors import ConfigError
from rxrl.runs.checkpoints import numbered
from rxrl.runs.processes import Share
from rxrl.stages import batches
from rxrl.stages.batches import RowDraws, share_of
from tests.stages.processes_worker import TASKS, recorded

ROOT = Path(__file__).parents[2]


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_alike(found, expected):
    assert len(found["gradients"]) == len(expected["gradients"]) == 4
    for mine, whole in zip(found["gradients"], expected["gradients"], strict=True):
        for a, b in zip(mine, whole, strict=True):
            assert (a is None) == (b is None)
            if b is not None:
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for key, value in expected["model"].items():
        torch.testing.assert_close(found["model"][key], value, rtol=1e-9, atol=1e-9)
    assert found["tokens"] == expected["tokens"]


def assert_same_metrics(found, expected):
    for mine, whole in zip(found, expected, strict=True):
        assert mine.keys() == whole.keys()
        # Each process pads to the longest of its own rows, where its layers do not need the width of all.
        assert 0 <= mine.pop("padding_share") <= whole.pop("padding_share") + 1e-6
        for key, value in whole.items():
            assert mine[key] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), key


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each stage as one process does it in one pass."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, {name: recorded(folder / name, name) for name in TASKS}


@pytest.mark.slow
def test_two_processes_do_what_one_does_in_every_stage(alone, tmp_path):
    """Also across the borders at which groups begin to learn and phases change."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.stages.processes_worker", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    folder, expected = alone
    for name in TASKS:
        first, second = (torch.load(tmp_path / f"{name}.{rank}.pt", weights_only=False) for rank in range(2))
        assert_alike(first, expected[name])
        assert all(torch.equal(value, second["model"][key]) for key, value in first["model"].items())
        assert_same_metrics(lines(tmp_path / name), lines(folder / name))
        assert sum(len(numbered(each)) for each in (tmp_path / name / "checkpoints").iterdir()) == 2
    for name in ("separate", "smat"):
        frozen = [[gradient is None for gradient in step] for step in expected[name]["gradients"]]
        assert frozen[0] != frozen[-1]


@pytest.mark.parametrize("name", TASKS)
def test_four_passes_of_one_row_are_one_pass_of_four(name, alone, tmp_path):
    folder, expected = alone
    assert_alike(recorded(tmp_path, name, accumulation=4), expected[name])
    assert_same_metrics(lines(tmp_path), lines(folder / name))


@pytest.mark.parametrize("name", TASKS)
def test_bf16_trains_on_a_cpu(name, tmp_path, monkeypatch):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        recorded(tmp_path / "narrow", name, double=False, precision="bf16")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    recorded(tmp_path / "wide", name, double=False)
    narrow, wide = lines(tmp_path / "narrow"), lines(tmp_path / "wide")
    assert narrow[0]["loss"] != wide[0]["loss"]
    assert narrow[0]["loss"] == pytest.approx(wide[0]["loss"], rel=0.03)


def test_draws_do_not_depend_on_which_rows_are_drawn_together(monkeypatch):
    monkeypatch.setattr(batches, "BLOCK", 12)

    def drawn(start, stop):
        draws = RowDraws.keyed(Share(start, stop, 8), 4, 5, "purpose")
        return draws.number(), draws.uniform(4), draws.normal(torch.zeros(2, stop - start, 3))

    number, uniform, normal = drawn(0, 8)
    for start, stop in ((0, 2), (2, 5), (3, 6), (5, 8), (7, 8)):
        found = drawn(start, stop)
        assert found[0] == number
        assert torch.equal(found[1], uniform[start:stop])
        assert torch.equal(found[2], normal[:, start:stop])


def test_more_processes_than_rows_are_refused():
    class Two:
        count, rank = 3, 0

    with pytest.raises(ConfigError, match="3 processes cannot share a batch of 2 rows: raise batch_tokens"):
        share_of(2, Two())
