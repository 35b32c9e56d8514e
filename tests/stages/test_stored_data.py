"""Stages on token stores: given as such, or made of a large source once; what does not fit is told before anything is trained."""

from __future__ import annotations

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from rxrl.cli.stage import app
from rxrl.data.corpora import open_corpus
from rxrl.data.rows import to_row
from rxrl.data.stores import Options, TextStore, build, opening
from rxrl.data.tokenizer import Tokenizer
from rxrl.data.world import GeneratedSource
from rxrl.errors import ConfigError, DataError, RxrlError
from rxrl.pipeline.supervised import open_stage
from rxrl.supply import open_named

WORLD = GeneratedSource(level=1, seed=0, split="train")
STORIES = [{"text": f"{number}. {text}"} for number, text in enumerate(WORLD.stories("train", 0, 120))]
TALKS = [to_row(each) for each in WORLD.take(steps=2, strategy="multi-step", start=0, count=40)]
FEW = ["batch_tokens=200", "validate_every=2", "log_every=1", "validation_rows=4", "seed=3"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(opening.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(opening, "LARGE", 1000)
    for name, rows in (("stories", STORIES), ("talks", TALKS), ("other", STORIES[:3])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments, sets=()):
    given = [part for each in (*FEW, *sets) for part in ("--set", each)]
    result = CliRunner().invoke(app, [*map(str, arguments), *given], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def metrics(out):
    return (out / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_large_source_is_tokenized_once_and_a_store_of_it_trains_the_same(folder):
    first = run("pretrain", "--data", "stories.jsonl", "--out", "one", sets=["iterations=4"])
    assert "Tokenizing stories.jsonl once" in first
    second = run("pretrain", "--data", "stories.jsonl", "--out", "two", sets=["iterations=4"])
    assert "is tokenized already" in second
    build(open_corpus("stories.jsonl").choose("train"), "store", Tokenizer.load("one/checkpoint"), Options())
    run("pretrain", "--data", "store", "--out", "three", sets=["iterations=4"])
    assert metrics(folder / "one") == metrics(folder / "two") == metrics(folder / "three")
    # A checkpoint goes on with the same tokenizer, so with the same store.
    assert "is tokenized already" in run(
        "pretrain", "--from", "one/checkpoint", "--data", "stories.jsonl", "--out", "on", sets=["iterations=2"]
    )


@pytest.mark.slow
def test_a_run_that_was_cut_ends_as_one_that_was_not(folder):
    command = ["pretrain", "--data", "stories.jsonl", "--checkpoint-every", 2, "--out"]
    run(*command, "whole", sets=["iterations=4"])
    shutil.copytree("whole", "cut")
    shutil.rmtree("cut/checkpoint")
    for left in Path("cut/checkpoints").rglob("*000004"):
        shutil.rmtree(left)
    assert "step 2 of" in run(*command, "cut", "--resume", sets=["iterations=4"])
    assert metrics(folder / "whole") == metrics(folder / "cut")
    weights = [Path(each, "checkpoint", "model.safetensors").read_bytes() for each in ("whole", "cut")]
    assert weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "reading", "memory-attention", "smat", "pretrain"])
def test_every_stage_trains_on_a_store_of_conversations(name, folder):
    sets = {"smat": ["phases=[{steps: 1, iterations: 1}, {steps: 2, iterations: 1}]"], "memory-attention": ["iterations=2", "steps=2"]}
    shown = run(name, "--data", "talks.jsonl", "--out", "run", sets=sets.get(name, ["iterations=2"]))
    assert "Tokenized 40 conversations" in shown
    lines = [json.loads(line) for line in metrics(folder / "run").splitlines()]
    assert len(lines) == 2
    assert lines[-1]["val_loss"] == lines[-1]["val_loss"]


def test_what_does_not_fit_is_told_before_anything_is_trained(folder):
    def opened(stage, data, held_out=None, **options):
        return open_stage(stage, 0, data=[data], held_out=[held_out] if held_out else (), **options)

    with pytest.raises(DataError, match="holds texts, but conversations are needed"):
        opened("smat", "stories.jsonl")
    with pytest.raises(DataError, match=r"3 texts are in both stories\.jsonl and other\.jsonl: part them"):
        opened("pretrain", "stories.jsonl", "other.jsonl")
    with pytest.raises(DataError, match=r"stories\.jsonl holds texts, but talks\.jsonl holds conversations"):
        opened("pretrain", "stories.jsonl", "talks.jsonl")
    with pytest.raises(ConfigError, match="--level is for the generated world"):
        opened("pretrain", "stories.jsonl", level=2)
    build(open_corpus("talks.jsonl").choose("train"), "store", Tokenizer.train(["some other words"], 300), Options())
    Tokenizer.train([row["text"] for row in STORIES], 400).save("codec")
    with pytest.raises(DataError, match="was tokenized with the tokenizer"):
        opened("smat", "store", tokenizer=folder / "codec")
    with (folder / "talks.jsonl").open("a") as file:
        file.write("nonsense\n")
    with pytest.raises(DataError, match=r"talks\.jsonl, row 41: not valid JSON.*--skip-bad"):
        opened("smat", "talks.jsonl")
    _, _, sources = opened("smat", "talks.jsonl", options=Options(skip_bad=True))
    assert len(sources.train) + len(sources.validation) == 40
    assert not {each.id for each in sources.train.take(steps=1, strategy="multi-step", start=0, count=len(sources.train))} & {
        each.id for each in sources.validation.take(steps=1, strategy="multi-step", start=0, count=len(sources.validation))
    }


def test_the_tokenizer_of_a_store_is_that_of_a_new_model_and_texts_of_conversations_serve_pretraining(folder):
    codec = Tokenizer.train([row["query"] for row in TALKS], 300)
    build(open_corpus("talks.jsonl").choose("train"), "store", codec, Options())
    model, found, sources = open_stage("pretrain", 0, data=["store"])
    assert found.hash == codec.hash
    assert model.config.vocab_size == codec.vocab_size
    said = sources.stories("train")(0, 80)
    assert len(set(said)) > 60
    assert all(any(f"{row['query']} {row['answer']}" in text or row["interactions"][0]["query"] in text for row in TALKS) for text in said)


def test_a_store_is_a_source_of_trainings_and_mixes(folder):
    build(open_corpus("talks.jsonl").choose("train"), "store", Tokenizer.train([row["query"] for row in TALKS], 300), Options())
    alone, mixed = open_named("store"), open_named(["store", "world=3"], level=1)
    found = alone.train.take(steps=2, strategy="multi-step", start=0, count=30)
    known = {row["id"] for row in TALKS}
    assert {each.id for each in found} <= known
    assert [each.id in known for each in mixed.train.take(steps=1, strategy="multi-step", start=0, count=8)].count(True) == 2
    build(open_corpus("stories.jsonl").choose("train"), "texts", Tokenizer.train([row["query"] for row in TALKS], 300), Options())
    with pytest.raises(DataError, match="holds texts, but conversations are needed"):
        open_named("texts")


def test_texts_are_mixed_by_rows_and_each_file_has_its_own_validation(folder):
    codec = Tokenizer.train([row["text"] for row in STORIES], 400)
    for name, word in (("more", "More"), ("held", "Held")):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": f"{word} {row['text']}"}) + "\n" for row in STORIES))
    build(open_corpus("stories.jsonl").choose("train"), "store", codec, Options())
    model, found, sources = open_stage("pretrain", 0, data=["store=3", "more.jsonl"], held_out=["held.jsonl", "stories.jsonl"])
    assert found.hash == codec.hash
    length = model.config.max_length
    rows, held_out = sources.packed("train", length), sources.packed("validation", length)

    def mores(batch):
        return [text.count("More") > text.count("Held") for text in map(codec.decode, batch.tokens.ids.tolist())]

    assert mores(rows.batch(0, 8)) == mores(rows.batch(8, 8))
    assert sum(mores(rows.batch(0, 8))) == 2
    assert all("Held" in text for text in map(codec.decode, held_out.batch(0, 3).tokens.ids.tolist()[:1]))
    whole, parts = rows.batch(5, 9), [rows.batch(5, 9, rank, 2) for rank in (0, 1)]
    for name in ("documents", "positions"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(each, name) for each in parts]))
    assert torch.equal(whole.tokens.ids, torch.cat([each.tokens.ids for each in parts]))
    # As many rows as the store has make three quarters of the mix before one of them comes again.
    assert rows.blocks == TextStore("store").packed(length, 0).blocks * 4 // 3
    with pytest.raises(DataError, match="120 texts are in both"):
        open_stage("pretrain", 0, data=["store", "more.jsonl"], held_out=["stories.jsonl", "held.jsonl"])
    with pytest.raises(DataError, match="Texts are mixed with texts alone"):
        open_stage("pretrain", 0, data=["store", "world"])


def test_of_processes_that_start_together_one_tokenizes_and_the_others_wait(folder, monkeypatch):
    made = []

    def slow(*arguments):
        made.append(threading.get_ident())
        time.sleep(0.5)
        return build(*arguments)

    monkeypatch.setattr(opening, "build", slow)
    split, codec = open_corpus("stories.jsonl").choose("train"), Tokenizer.train([row["query"] for row in TALKS], 300)
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(lambda _: opening.cached(split, codec, Options(), opening.Reporter()), range(3)))
    assert len(set(folders)) == len(made) == 1
    assert [each.name for each in folders[0].parent.iterdir()] == [folders[0].name]


def test_a_sample_is_taken_from_all_parts_of_a_source(folder, monkeypatch):
    monkeypatch.setattr(opening, "SAMPLE", 400)
    for number in range(10):
        (folder / "shards").mkdir(exist_ok=True)
        (folder / "shards" / f"{number}.jsonl").write_text(
            "".join(json.dumps({"text": f"shard {number} " + "x" * 30}) + "\n" for _ in range(50))
        )
    texts = opening.sample_texts(open_corpus("shards").choose("train"), Options())
    assert {text.split()[1] for text in texts} == set("0123456789")
    assert sum(map(len, texts)) < 1000


@pytest.mark.slow
def test_reading_says_that_hardly_any_conversation_asks_at_once(folder):
    later = [{"query": "Nice.", "answer": "Yes.", "asks": []}, {"query": "Where?", "answer": "At home.", "asks": ["anna.place"]}]
    facts = [{"key": "anna.place", "value": "home"}]
    rows = [{"query": f"{n}. Anna is at home.", "answer": "Okay.", "facts": facts, "asks": [], "interactions": later} for n in range(40)]
    asked = [{**row, "interactions": row["interactions"][1:]} for row in rows]
    for name, some, hint in (("late", rows, True), ("at-once", asked, False)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
        shown = run("reading", "--data", f"{name}.jsonl", "--out", name, sets=["iterations=1"])
        assert ("Of 64 conversations 0 ask for something in their first turn" in shown) == hint


@pytest.mark.slow
def test_sizes_of_a_new_model_are_set_one_by_one(folder):
    run("sft", "--data", "talks.jsonl", "--model", "slots=8", "--model", "layers=1", "--out", "small", sets=["iterations=1"])
    config = json.loads((folder / "small" / "checkpoint" / "config.json").read_text())
    assert (config["slots"], config["layers"]) == (8, 1)
    for given, said in (
        (["--model", "slots"], "--model takes name=value"),
        (["--model", "slot=8"], "Preset 'pico' cannot be changed like this: .*slot"),
        (["--model", "slots=8", "--from", "small/checkpoint"], "are for a fresh model"),
        (["--model", "vocab_size=10"], r"vocab_size=10 is less than the \d+ tokens of the tokenizer"),
        (["--model", "template=true"], "decided by its tokenizer: leave template out"),
    ):
        with pytest.raises(RxrlError, match=said):
            run("sft", "--data", "talks.jsonl", "--out", "other", *given)
