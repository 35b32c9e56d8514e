"""`rxrl data`: every command once, on files that it makes itself."""

import json

import pytest
from typer.testing import CliRunner

from rxrl.cli.data import app
from rxrl.data.rows import read_conversations
from rxrl.data.splits import check_apart
from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import ConfigError, DataError

EPISODE = "1 Mary moved to the bathroom.\n2 Where is Mary? \tbathroom\t1\n3 Mary went to the garden.\n4 Where is Mary? \tgarden\t3\n"


def episodes(*people):
    """One episode of each person: episodes that say the same are one."""
    return "".join(EPISODE.replace("Mary", each) for each in people)


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_generate_stats_and_tokenizer(tmp_path):
    rows, again, folder = tmp_path / "rows.jsonl", tmp_path / "again.jsonl", tmp_path / "tokenizer"
    for path in (rows, again):
        assert "Wrote 30 conversations" in run("generate", path, "--count", 30, "--steps", 8, "--split", "test", "--seed", 7)
    assert rows.read_bytes() == again.read_bytes()
    assert {each.steps for each in read_conversations(rows)} == {8}
    run("generate", tmp_path / "stories.jsonl", "--stories", "--count", 5)
    run("tokenizer", rows, tmp_path / "stories.jsonl", "--out", folder, "--vocab-size", 400)
    assert Tokenizer.load(folder).vocab_size <= 400
    shown = run("stats", rows, "--tokenizer", folder)
    assert all(what in shown for what in ("conversations", "8: 30 (100%)", "chance", "tokens per interaction", "ask-again"))
    assert "words per interaction" in run("stats", rows)


def test_import_babi_keeps_the_held_out_episodes_unrenamed(tmp_path):
    source = tmp_path / "qa1_sample_train.txt"
    source.write_text(episodes("Mary", "John", "Daniel", "Sandra", "Julie"))
    out = run("import", "babi", source, tmp_path / "rows.jsonl", "--holdout", 2, "--rename", 3)
    assert "Wrote 12 conversations" in out
    assert "episodes 5" in out
    held_out = read_conversations(tmp_path / "rows.test.jsonl")
    assert [each.id for each in held_out] == ["babi-1-train-4", "babi-1-train-5"]
    trained_on = {each.extra["episode"] for each in read_conversations(tmp_path / "rows.jsonl")}
    assert trained_on == {f"babi-1-train-{number}" for number in (1, 2, 3)}


def test_episodes_of_every_file_are_held_out(tmp_path):
    for task, people in ((1, ("Mary", "John", "Daniel", "Sandra", "Julie")), (12, ("Fred", "Bill", "Jeff"))):
        (tmp_path / f"qa{task}_sample_train.txt").write_text(episodes(*people))
    run("import", "babi", tmp_path, tmp_path / "rows.jsonl", "--holdout", 2)
    held_out = [each.id for each in read_conversations(tmp_path / "rows.test.jsonl")]
    assert sorted(held_out) == ["babi-1-train-4", "babi-1-train-5", "babi-12-train-2", "babi-12-train-3"]
    run("import", "babi", tmp_path, tmp_path / "all.jsonl")
    assert len(read_conversations(tmp_path / "all.jsonl")) == 8
    with pytest.raises(ConfigError, match="--holdout 3 leaves none of the 3 episodes of babi-12-train for training"):
        run("import", "babi", tmp_path, tmp_path / "rows.jsonl", "--holdout", 3)


def test_what_a_held_out_episode_says_is_not_trained_on(tmp_path):
    source, out = tmp_path / "qa4_sample_train.txt", tmp_path / "rows.jsonl"
    source.write_text(episodes("Mary", "John", "Mary", "Sandra", "Mary"))
    assert "Left out of training because a held-out episode says the same: 2." in run("import", "babi", source, out, "--holdout", 1)
    assert [each.id for each in read_conversations(out)] == ["babi-4-train-2", "babi-4-train-4"]
    check_apart(read_conversations(out), read_conversations(tmp_path / "rows.test.jsonl"), "rows.jsonl", "rows.test.jsonl")
    source.write_text(EPISODE * 3)
    with pytest.raises(ConfigError, match="all 2 conversations left for training are also held out"):
        run("import", "babi", source, tmp_path / "none.jsonl", "--holdout", 1)
    assert not (tmp_path / "none.jsonl").exists()


def test_imports_list_what_they_refuse(tmp_path):
    good = {"query": "a", "answer": "b", "interactions": [{"query": "c", "answer": "d"}]}
    (tmp_path / "in.jsonl").write_text(f"{json.dumps(good)}\n{{}}\n")
    with pytest.raises(DataError, match=r"in\.jsonl, row 2: 'query' is missing"):
        run("import", "published", tmp_path / "in.jsonl", tmp_path / "out.parquet")
    shown = run("import", "published", tmp_path / "in.jsonl", tmp_path / "out.parquet", "--keep-valid")
    assert "rows 2, conversations 1" in shown
    assert "row 2: 'query' is missing" in shown
    assert len(read_conversations(tmp_path / "out.parquet")) == 1
    (tmp_path / "in.jsonl").write_text(f"{json.dumps(good)}\n" + "{}\n" * 1030)
    shown = run("import", "published", tmp_path / "in.jsonl", tmp_path / "out.parquet", "--keep-valid")
    assert shown.count("refused: ") == 21
    assert "row 21: 'query' is missing" in shown
    assert "row 22:" not in shown
    assert "refused: 1,010 more, 1,030 in all" in shown


def test_import_text_measures_in_words_or_tokens(tmp_path):
    (tmp_path / "in.txt").write_text("One two three four. Five six seven eight. " * 10)
    Tokenizer.train(["a"], 263).save(tmp_path / "bytes")
    out = tmp_path / "out.jsonl"
    assert "Wrote 10 texts" in run("import", "text", tmp_path / "in.txt", out, "--max-length", 8)
    run("import", "text", tmp_path / "in.txt", out, "--max-length", 28, "--tokenizer", tmp_path / "bytes")
    assert max(len(json.loads(line)["text"]) for line in out.read_text().splitlines()) < 24
    with pytest.raises(ConfigError, match="give --max-length"):
        run("import", "text", tmp_path / "in.txt", out, "--tokenizer", tmp_path / "bytes")


def test_a_tokenizer_needs_files_that_are_there(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        run("tokenizer", tmp_path / "none.jsonl", "--out", tmp_path)


def test_tokenize_writes_a_store_once_and_names_what_it_skips(tmp_path):
    Tokenizer.train(["one two three"], 300).save(tmp_path / "codec")
    (tmp_path / "a.jsonl").write_text('{"text": "one two"}\n{"text": 3}\n{"text": "three"}\n')
    command = ["tokenize", tmp_path / "a.jsonl", tmp_path / "store", "--tokenizer", tmp_path / "codec"]
    with pytest.raises(DataError, match=r"a\.jsonl, row 2: expected text in the column 'text'.*--skip-bad"):
        run(*command)
    assert not (tmp_path / "store").exists()
    shown = " ".join(run(*command, "--skip-bad").split())
    assert "a.jsonl, row 2: expected text" in shown
    assert "2 texts with 3 tokens" in shown
    assert "Skipped 1 row" in shown
    written = (tmp_path / "store" / "store.json").stat().st_mtime_ns
    assert "2 texts with 3 tokens" in run(*command, "--skip-bad")
    assert (tmp_path / "store" / "store.json").stat().st_mtime_ns == written
