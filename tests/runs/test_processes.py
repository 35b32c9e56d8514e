"""The state of others in the process: their gradient accumulation, their variables, hash seeds."""

import os
import re
import subprocess
import sys

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from rxrl.errors import ConfigError
from rxrl.runs.processes import Processes
from tests.stages.small import runner_in
from tests.training.resume_worker import trainer_in


@pytest.fixture
def fresh():
    """A process in which nobody has used accelerate yet."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    yield
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


def metrics(folder, make, beside=None):
    training = make(folder)
    if beside is not None:
        beside()
    training.train()
    return (folder / "metrics.jsonl").read_bytes()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("make", [lambda folder: trainer_in(folder, max_iterations=2), runner_in])
def test_gradients_are_not_divided_by_what_another_trainer_accumulates(make, tmp_path, monkeypatch):
    alone = metrics(tmp_path / "alone", make)
    assert metrics(tmp_path / "beside", make, lambda: Accelerator(gradient_accumulation_steps=8)) == alone
    other = Accelerator(gradient_accumulation_steps=8)
    with other.accumulate():
        # Inside, accelerate's own optimizers skip their steps.
        other.gradient_state._set_sync_gradients(False)
        assert metrics(tmp_path / "inside", make) == alone
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert metrics(tmp_path / "variable", make) == alone


@pytest.mark.usefixtures("fresh")
def test_the_accumulation_of_another_trainer_stays_its_own(tmp_path):
    other = Accelerator(gradient_accumulation_steps=8)
    trainer_in(tmp_path)
    assert other.gradient_accumulation_steps == 8


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_MIXED_PRECISION", "fp32"),
        ("ACCELERATE_MIXED_PRECISION", "fp8"),
        ("ACCELERATE_MIXED_PRECISION", "fp16"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "some"),
        ("ACCELERATE_USE_DEEPSPEED", "true"),
        ("ACCELERATE_DYNAMO_BACKEND", "nonsense"),
    ],
)
def test_what_accelerate_refuses_is_one_sentence_that_names_the_variable(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        Processes()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "accelerate" in sentence
    assert name in sentence or value in sentence


CLUSTER = """
import sys
from rxrl.errors import ConfigError
from rxrl.runs.processes import Processes
try:
    Processes()
except ConfigError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize(
    "variables",
    [
        {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"},
        {"LOCAL_RANK": "0", "RANK": "x", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29555"},
        {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "port"},
    ],
)
def test_variables_of_a_cluster_that_make_no_sense_are_one_sentence(variables):
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "ACCELERATE_USE_CPU": "true", **variables}
    done = subprocess.run([sys.executable, "-c", CLUSTER], env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "The environment sets" in done.stdout
    assert all(name in done.stdout for name in variables)


HASHED = """
import hashlib, sys, tempfile
from pathlib import Path
from tests.training.resume_worker import trainer_in, weights_of
from tests.stages.small import runner_in
folder = Path(sys.argv[1])
trainer = trainer_in(folder / "mrl", max_iterations=3)
trainer.train()
runner_in(folder / "stage").train()
for name in ("mrl", "stage"):
    print(hashlib.sha256((folder / name / "metrics.jsonl").read_bytes()).hexdigest())
print(hashlib.sha256(b"".join(value.numpy().tobytes() for value in weights_of(trainer).values())).hexdigest())
from rxrl.data.world import GeneratedSource
from rxrl.data.tokenizer import Tokenizer
source = GeneratedSource(level=3, seed=5, split="train")
taken = source.take(steps=6, strategy="long-range", start=0, count=20)
texts = [text for c in taken for i in c.interactions for text in (i.query, i.answer)]
print(hashlib.sha256("\\n".join(texts).encode()).hexdigest())
print(Tokenizer.train(texts, 400).hash)
"""


def test_nothing_depends_on_the_seed_of_hashes(tmp_path):
    found = []
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(
            [sys.executable, "-c", HASHED, str(tmp_path / seed)], env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        found.append(ran.stdout.split())
    assert len(found[0]) == 5
    assert found[0] == found[1] == found[2]


def test_a_launcher_that_starts_one_process_where_several_were_asked_for_is_told_of(monkeypatch):
    for name in ("MASTER_PORT", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    assert re.fullmatch(r"1 process on \w+, float32\.", Processes().describe())
    # What `accelerate launch --cpu --num_processes 2` leaves in the environment.
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert "asked for several processes and has started one" in Processes().describe()
