"""A stage on a token store sees the same rows, each once an epoch, whether one process trains or two."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rxrl.data.corpora import open_corpus
from rxrl.data.rows import to_row
from rxrl.data.stores import Options, TextStore, build
from rxrl.data.tokenizer import Tokenizer
from rxrl.types import BOS, EOS
from tests.stages.epochs_worker import STAGES, STEPS, packed, row_ids, seen, talks
from tests.training.toy import conversations

ROOT = Path(__file__).parents[2]
TALKS = conversations(60, STEPS)
TEXTS = [f"text {number}: " + " ".join(each.query for each in talk.interactions) for number, talk in enumerate(TALKS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stores of texts and of conversations."""
    folder = tmp_path_factory.mktemp("stores")
    codec = Tokenizer.train(TEXTS, 300)
    for name, rows in (("texts", [{"text": text} for text in TEXTS]), ("talks", map(to_row, TALKS))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        build(open_corpus(folder / f"{name}.jsonl").choose("train"), folder / name, codec, Options())
    return folder


def rows_of(steps):
    return [row for step in steps for row in step]


def tokens_of(rows):
    return Counter(token for row in rows for token in row)


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """The rows of each step of about one and a half epochs, by one process."""
    found = {}
    for name in STAGES:
        first = seen(folder, tmp_path_factory.mktemp(name) / "probe", name, 1)
        iterations = 3 * len(an_epoch(folder, name)) // (2 * len(first[0])) + 1
        found[name] = seen(folder, tmp_path_factory.mktemp(name) / "run", name, iterations)
        assert len(found[name]) == iterations
    return found


def an_epoch(folder, name):
    """The rows of an epoch as their store gives them, in one piece."""
    if name == "pretrain":
        texts = packed(folder)
        return row_ids(texts.batch(0, texts.blocks).tokens)
    source = talks(folder)
    count = len(source)
    if name == "smat":
        found = source.episodes(steps=STEPS, strategy="multi-step", start=0, count=count, max_length=1000)
        return list(map(list, zip(row_ids(found.writes), row_ids(found.turns), strict=True)))
    store = source.store
    kept = {each.id for each in source.take(steps=STEPS, strategy="multi-step", start=0, count=count)}
    numbers = [n for index in range(len(TALKS)) if store.conversation(index).id in kept for n in range(*store.turns(index))]
    return [store.interaction(number)[0] for number in numbers]


def test_one_process_sees_every_row_once_an_epoch(folder, alone):
    for name, steps in alone.items():
        rows, epoch = rows_of(steps), an_epoch(folder, name)
        assert len(rows) > len(epoch)
        first, rest = rows[: len(epoch)], rows[len(epoch) :]
        assert sorted(first) == sorted(epoch), name
        assert not Counter(map(str, rest)) - Counter(map(str, epoch)), name
    # What is held out is all that training does not see.
    texts = TextStore(folder / "texts")
    codec = texts.files.load_tokenizer()
    whole = Counter(token for text in TEXTS for token in [BOS, *codec.encode(text), EOS])
    held_out = packed(folder, "validation")
    kept_back = tokens_of(row_ids(held_out.batch(0, held_out.blocks).tokens))
    assert kept_back
    assert tokens_of(an_epoch(folder, "pretrain")) + kept_back == whole


@pytest.mark.slow
def test_two_processes_share_out_the_rows_that_one_sees(folder, alone):
    (folder / "iterations.json").write_text(json.dumps({name: len(steps) for name, steps in alone.items()}))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.stages.epochs_worker", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    for name, steps in alone.items():
        ranks = [json.loads((folder / f"{name}.{rank}.json").read_text()) for rank in range(2)]
        assert all(each for rank in ranks for each in rank), name
        assert [one + two for one, two in zip(*ranks, strict=True)] == steps, name
