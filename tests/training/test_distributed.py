"""Several processes do what one does: the same rollouts, gradients, weights and metrics; and when one dies, the run ends and can go on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rxrl.errors import ConfigError
from rxrl.runs.checkpoints import numbered
from rxrl.runs.processes import Share, share_edges
from tests.training.processes_worker import SCENARIOS, recorded, trainer_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def torchrun(folder, *scenarios):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.training.processes_worker", str(folder), *scenarios]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Each scenario as two processes did it, and as one does it."""
    folder = tmp_path_factory.mktemp("processes")
    done = torchrun(folder, *SCENARIOS)
    assert done.returncode == 0, done.stderr
    found = {}
    for name in SCENARIOS:
        ranks = [torch.load(folder / f"{name}.{rank}.pt", weights_only=False) for rank in range(2)]
        found[name] = (ranks, recorded(trainer_of(name, folder / f"{name}-alone")), folder)
    return found


def strip(row):
    turns = [[token for token in turn if token] for turn in row[0]]
    return [(turn, reward) for turn, reward in zip(turns, row[1], strict=True) if turn]


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_play_what_one_plays_each_its_share(name, both):
    (first, second), alone, _ = both[name]
    assert len(alone["played"]) == 4
    for one, other, whole in zip(first["played"], second["played"], alone["played"], strict=True):
        assert one
        assert other
        assert list(map(strip, one + other)) == list(map(strip, whole))
    for rank in (first, second):
        assert rank["memory"].keys() == alone["memory"].keys()
        for key, value in alone["memory"].items():
            assert torch.allclose(rank["memory"][key], value, atol=1e-4), key


@pytest.mark.parametrize("name", SCENARIOS)
def test_gradients_and_weights_are_those_of_one_process_with_the_whole_batch(name, both):
    """Also across the border at which all groups begin to learn, and where a process has nothing in a minibatch."""
    (first, second), alone, _ = both[name]
    assert len(first["gradients"]) == len(alone["gradients"]) > 4
    for mine, theirs, whole in zip(first["gradients"], second["gradients"], alone["gradients"], strict=True):
        for a, b, c in zip(mine, theirs, whole, strict=True):
            assert (a is None) == (b is None) == (c is None)
            if c is not None:
                assert torch.equal(a, b)
                assert torch.allclose(a, c, rtol=1e-5, atol=1e-5)
    frozen = [sum(gradient is None for gradient in step) for step in alone["gradients"]]
    assert frozen[0] > frozen[-2]
    for part in ("model", "critic"):
        for key, value in alone[part].items():
            assert torch.equal(first[part][key], second[part][key])
            assert torch.allclose(first[part][key], value, rtol=1e-5, atol=1e-5), key


@pytest.mark.parametrize("name", SCENARIOS)
def test_metrics_decisions_and_files_are_those_of_one_process(name, both):
    (first, second), alone, folder = both[name]
    shared, own = (
        [json.loads(line) for line in (folder / each / "metrics.jsonl").read_text().splitlines()] for each in (name, f"{name}-alone")
    )
    assert [line.keys() for line in shared] == [line.keys() for line in own]
    for mine, theirs in zip(shared, own, strict=True):
        for key, value in theirs.items():
            assert mine[key] == (pytest.approx(value, rel=1e-3, abs=2e-5) if isinstance(value, float) else value), key
    assert first["stages"] == second["stages"]
    assert [row["name"] for row in first["stages"]] == [row["name"] for row in alone["stages"]]
    assert [path.name for path in numbered(folder / name / "checkpoints")] == ["step-000003", "step-000004"]


def test_a_process_that_dies_ends_the_run_with_a_sentence_and_the_run_goes_on(tmp_path):
    done = torchrun(tmp_path, "die")
    assert done.returncode != 0
    assert "has lost another process of this training" in done.stderr
    assert "--resume" in done.stderr
    [*_, newest] = numbered(tmp_path / "checkpoints")
    assert newest.name == "step-000003"
    # What two processes have left, one can take up.
    trainer = trainer_of("impo", tmp_path)
    assert trainer.resume()
    assert trainer.left is not None
    assert trainer.left.shape[1] == 5
    trainer.train()
    whole = trainer_of("impo", tmp_path / "whole")
    whole.train()
    for key, value in whole.model.state_dict().items():
        assert torch.allclose(trainer.model.state_dict()[key], value, rtol=1e-5, atol=1e-5), key


def test_shares_are_neighbours_of_about_equal_size_and_keep_samples_of_a_conversation_together():
    assert share_edges(list("abcde"), 2) == [0, 2, 5]
    assert share_edges(list("abcdefg"), 3) == [0, 2, 4, 7]
    assert share_edges(list("aaabbbcc"), 2) == [0, 3, 8]
    with pytest.raises(ConfigError, match="3 processes cannot share 2 different conversations"):
        share_edges(list("aab"), 3)


def test_a_share_takes_its_rows_of_a_minibatch():
    share = Share(2, 5, 8)
    assert share.own(torch.tensor([0, 2, 4, 5, 7])).tolist() == [0, 2]
    assert share.own(torch.tensor([0, 7])).tolist() == []
    assert share.times(2) == Share(4, 10, 16)
