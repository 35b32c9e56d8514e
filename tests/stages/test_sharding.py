"""Weights divided among two processes (FSDP2) learn what one process learns, and go on where they were cut."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rxrl.errors import ConfigError
from rxrl.models import ReactiveTransformer
from rxrl.runs.checkpoints import load_state, numbered
from rxrl.stages.config import LanguageConfig
from tests.stages.sharding_worker import MUON, STEPS, trained

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Folder, and what each of two processes ended with."""
    folder = tmp_path_factory.mktemp("sharded")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.stages.sharding_worker", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def assert_alike(found, expected, tolerance=1e-9):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_two_processes_with_divided_weights_do_what_one_does(ranks, tmp_path):
    """In several passes, across the borders at which groups begin to learn and phases change."""
    _, (first, second) = ranks
    for name in STEPS:
        assert_alike(first[name], second[name], 0.0)
        assert_alike(first[name], trained(tmp_path / name, name, shard=True))


@pytest.mark.slow
def test_muon_and_the_average_work_on_divided_weights_and_a_cut_run_ends_the_same(ranks, tmp_path):
    folder, (first, second) = ranks
    alone = trained(tmp_path, "smat", **MUON)
    for name in ("muon", "resumed"):
        assert_alike(first[name], second[name], 0.0)
        assert_alike(first[name], alone, 1e-7)
    assert_alike(first["muon"], first["resumed"], 0.0)
    # What is saved is whole: any number of processes can start from it.
    saved = numbered(next((folder / "muon" / "checkpoints").iterdir()))[-1]
    mine = numbered(next((tmp_path / "checkpoints").iterdir()))[-1]
    states = [ReactiveTransformer.from_pretrained(each).state_dict() for each in (saved, mine)]
    assert_alike(*states, 1e-7)
    optimizers = [load_state(each)[1]["optimizer"]["state"] for each in (saved, mine)]
    for number, state in optimizers[1].items():
        assert_alike(optimizers[0][number], state, 1e-7)


@pytest.mark.slow
def test_a_process_keeps_half_of_the_weights_and_of_the_optimizer_state(ranks):
    counts = [rank["held"] for rank in ranks[1]]
    assert sum(own for own, _ in counts) == counts[0][1]
    assert all(own < 0.6 * total for own, total in counts)


def test_divided_weights_are_not_compiled():
    with pytest.raises((ConfigError, ValueError), match="do not go together"):
        LanguageConfig(shard=True, compile=True)
