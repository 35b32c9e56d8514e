from __future__ import annotations

import gzip
import json
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from rxrl.cli.data import app
from rxrl.data.corpora import split_of
from rxrl.data.importers import import_chat, import_text
from rxrl.data.rows import read_conversations
from rxrl.data.splits import DataConfig, of_texts, open_data, open_sources, open_texts
from rxrl.errors import DataError
from rxrl.template import system_interaction


def row(number: int, **changes: Any) -> dict[str, Any]:
    turns = [{"query": "How many?", "answer": f"{number}."}]
    return {"query": f"Mia has {number} cats.", "answer": "Okay.", "interactions": turns, **changes}


def write(path: Path, *numbers: int, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row(number, **changes)) + "\n" for number in numbers))
    return path


def told(conversations: Any) -> list[int]:
    return [int(each.first.query.split()[2]) for each in conversations]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("train.jsonl", "train"), ("test/0.parquet", "test"), ("mine.dev.json", "validation"), ("train_v2.jsonl", "train"),
        ("validation-00000-of-00002.parquet", "validation"), ("data.jsonl", "train"), ("VAL.JSONL.gz", "validation"),
        ("latest.jsonl", "train"), ("eval/x/y.jsonl", "test"), ("test of courage.txt", "train"),
        ("test_of_courage.txt", "train"), ("stories_test.txt", "test"), ("contest.jsonl", "train"),
    ],
)  # fmt: skip
def test_names_say_which_split_a_file_belongs_to(file: str, split: str) -> None:
    assert split_of(Path(file)) == split


def test_splits_are_never_mixed(folder: Path) -> None:
    write(folder / "data/train.jsonl", *range(6))
    write(folder / "data/test.jsonl", 50, 51)
    write(folder / "data/validation/a.jsonl", 70)
    said: list[str] = []
    assert told(read_conversations("data", purpose="train", say=said.append)) == [*range(6)]
    assert told(read_conversations("data", purpose="test")) == [50, 51]
    assert told(read_conversations("data", purpose="validation")) == [70]
    assert told(read_conversations("data:dev")) == told(read_conversations("data:validation")) == [70]
    assert told(read_conversations("data", split="test")) == [50, 51]
    assert said == ["data:train is used for train; data also has validation, test, which are left alone."]
    with pytest.raises(DataError, match="data has the splits train, validation, test: name the one that is meant, for example data:train"):
        read_conversations("data")
    with pytest.raises(DataError, match="has no split 'tset'; it has train, validation, test"):
        read_conversations("data:tset")


def test_without_a_split_to_train_on_the_splits_are_named(folder: Path) -> None:
    write(folder / "data/test.jsonl", 1)
    write(folder / "data/val.jsonl", 2)
    with pytest.raises(DataError, match="splits validation, test"):
        read_conversations("data", purpose="train")


def test_one_split_is_taken_whatever_it_is_called(folder: Path) -> None:
    write(folder / "data/part-1.jsonl", 1)
    write(folder / "data/part-2.jsonl", 2)
    write(folder / "data/more/part-1.jsonl", 3)
    (folder / "data/README.md").write_text("what it is")
    (folder / "data/config.json").write_text("{}")
    (folder / "data/.hidden.jsonl").write_text("no row")
    for purpose in ("train", "validation", "test", "any"):
        found = read_conversations("data", purpose=purpose)  # type: ignore[arg-type]
        assert sorted(told(found)) == [1, 2, 3]
    assert sorted(each.id for each in found) == ["more/part-1-1", "part-1-1", "part-2-1"]


def test_training_validates_on_the_split_for_it(folder: Path) -> None:
    write(folder / "data/train.jsonl", *range(40))
    write(folder / "data/validation.jsonl", 70, 71)
    write(folder / "data/test.jsonl", 50)
    sources = open_data("data", None, None, 0)
    assert len(sources.train) == 40  # type: ignore[arg-type]
    assert sorted(told(sources.validation.take(steps=1, strategy="multi-step", start=0, count=2))) == [70, 71]
    whole = open_sources(DataConfig(train="data"), 0)
    assert told(whole.test) == [50]
    assert sorted(told(whole.validation.take(steps=1, strategy="multi-step", start=0, count=2))) == [70, 71]
    (folder / "data/validation.jsonl").unlink()
    # The test split is never validated on, for that chooses the best weights.
    assert len(open_data("data", None, None, 0).train) == 38  # type: ignore[arg-type]
    (folder / "data/test.jsonl").unlink()
    with pytest.raises(DataError, match="needs held-out conversations too"):
        open_sources(DataConfig(train="data"), 0)


def test_every_form_of_rows_is_read(folder: Path) -> None:
    rows = [row(1), row(2)]
    lines = "".join(json.dumps(each) + "\n" for each in rows).encode()
    (folder / "array.json").write_text(json.dumps(rows, indent=1))
    (folder / "UPPER.JSONL").write_bytes(lines)
    (folder / "lines.json").write_bytes(lines)
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "packed.json.GZ").write_bytes(gzip.compress(json.dumps(rows).encode()))
    with pa.output_stream("packed.ndjson.zst", compression="zstd") as stream:
        stream.write(lines)
    pq.write_table(pa.Table.from_pylist(rows), folder / "Table.Parquet")
    for name in ("array.json", "UPPER.JSONL", "lines.json", "packed.jsonl.gz", "packed.json.GZ", "packed.ndjson.zst", "Table.Parquet"):
        found = read_conversations(name)
        assert told(found) == [1, 2]
        assert [each.id for each in found] == [f"{name.split('.', maxsplit=1)[0]}-{number}" for number in (1, 2)]


@pytest.mark.parametrize(
    "name", ["missing.json", "missing.ndjson", "missing.JSONL.gz", "data/train", "data/none.parquet", "/nowhere/x", "./x", "mine"]
)
def test_what_is_local_is_not_looked_for_on_the_hub(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rxrl.data.corpora.load_splits", lambda *_: pytest.fail("looked for on the Hub"))
    write(folder / "data/train.jsonl", 1)
    write(folder / "mine.jsonl", 1)
    with pytest.raises(DataError, match="There is no file") as caught:
        read_conversations(name)
    if name in {"data/train", "mine"}:
        assert str(caught.value).endswith(f"Did you mean {name}.jsonl?")


def test_names_of_the_hub_come_with_subset_and_split(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, subset: str | None, stream: bool) -> dict[str, Any]:
        asked.append((name, subset))
        return {"train": [row(1)], "test": [row(2)]}

    monkeypatch.setattr("rxrl.data.corpora.load_splits", load)
    assert told(read_conversations("owner/talks:test")) == [2]
    assert told(read_conversations("owner/talks:steps-4:train")) == [1]
    assert told(read_conversations("owner/talks", subset="steps-8", purpose="train")) == [1]
    assert asked == [("owner/talks", None), ("owner/talks", "steps-4"), ("owner/talks", "steps-8")]
    for wrong in ("a:b:c:d", "a:", ":a"):
        with pytest.raises(DataError, match="is no name of a data set: expected NAME"):
            read_conversations(wrong)


def test_a_data_set_that_cannot_be_loaded_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, subset: str | None) -> Any:
        raise RuntimeError("first\nsecond " * 100)

    monkeypatch.setattr("rxrl.data.corpora.load_splits", fail)
    with pytest.raises(DataError, match="neither a file nor a data set") as caught:
        read_conversations("owner/talks")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def advised(error: DataError) -> list[str]:
    command = str(error).split("`")[1].replace(" OUT", " out.jsonl")
    assert command.startswith("rxrl data ")
    return shlex.split(command)[2:]


def test_the_advice_runs(folder: Path) -> None:
    import datasets

    rows = [row(1) | {"id": "a"}, row(2) | {"id": "b"}]
    broken = [*rows, {"query": "a", "answer": "b", "interactions": []}]
    write(folder / "my data/it's a.jsonl", 1, 2, 3).open("a").write("{}\n")
    write(folder / "folder/train/x y.jsonl", 1).open("a").write("{}\n")
    write(folder / "folder/test.jsonl", 4)
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows), "test": datasets.Dataset.from_list(broken)}).save_to_disk("saved set")
    for source in ("my data/it's a.jsonl", "folder:train", "saved set:test"):
        with pytest.raises(DataError, match=r"row \d") as caught:
            read_conversations(source)
        result = CliRunner().invoke(app, advised(caught.value))
        assert result.exit_code == 0, result.output
        assert len(read_conversations("out.jsonl")) == (3 if "my" in source else 1 if "folder" in source else 2)
    # The same ids in two splits are no clash, and rows are counted within a split.
    with pytest.raises(DataError, match="saved set:test, row 3"):
        read_conversations("saved set:test")
    assert len(read_conversations("saved set:train")) == 2


def test_stats_show_every_split_by_itself(folder: Path) -> None:
    write(folder / "data/train.jsonl", 1, 2)
    write(folder / "data/test.jsonl", 3)
    result = CliRunner().invoke(app, ["stats", "data"])
    assert result.exit_code == 0
    assert "Conversations of data:train" in result.output
    assert "Conversations of data:test" in result.output
    assert CliRunner().invoke(app, ["import", "published", "data", "out.jsonl"]).exit_code == 1


def test_texts_keep_to_their_split_too(folder: Path) -> None:
    (folder / "t/train").mkdir(parents=True)
    (folder / "t/train/a.txt").write_text("One.")
    (folder / "t/train/b.jsonl").write_text('{"text": "Two."}\n')
    (folder / "t/test.txt").write_text("Three.")
    pq.write_table(pa.table({"text": ["Four.", "Five."]}), folder / "t/validation.parquet")
    assert import_text("t", purpose="train") == ["One.", "Two."]
    assert import_text("t:validation") == ["Four.", "Five."]
    with pytest.raises(DataError, match="has the splits"):
        import_text("t")
    assert of_texts("t")
    stories = open_texts("t", None, 0).stories
    assert set(stories("train")(0, 4)) == {"One.", "Two."}
    assert set(stories("validation")(0, 4)) == {"Four.", "Five."}
    with pytest.raises(DataError, match=r"read from \.jsonl, \.json or \.parquet files, but 'a\.txt'"):
        read_conversations("t", purpose="train")


OPENAI = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Mia has 3 cats."}]},
        {"role": "assistant", "content": "Okay."},
        {"role": "user", "content": "How"},
        {"role": "user", "content": "many?"},
        {"role": "assistant", "content": "3."},
        {"role": "user", "content": "And dogs?"},
    ],
    "source": "x",
}
SHAREGPT = {"id": 7, "conversations": [{"from": who, "value": text} for who, text in zip(["human", "gpt"] * 2, "abcd", strict=True)]}


def test_chats_get_an_answer_that_helps(folder: Path) -> None:
    (folder / "chat.jsonl").write_text(json.dumps(OPENAI) + "\n" + json.dumps(SHAREGPT) + "\n")
    with pytest.raises(DataError, match=r"row 1: it is a chat with a list of 'messages'.*Convert it: `rxrl data import chat") as caught:
        read_conversations("chat.jsonl")
    assert CliRunner().invoke(app, advised(caught.value)).exit_code == 0
    first, second = read_conversations("out.jsonl")
    assert [(each.query, each.answer) for each in first.follow_ups] == [("Mia has 3 cats.", "Okay."), ("How\nmany?", "3.")]
    assert first.first == system_interaction("Be kind.")
    assert (first.id, first.extra) == ("chat-1", {"source": "x"})
    assert [(each.query, each.answer) for each in second.interactions] == [("a", "b"), ("c", "d")]
    assert second.id == "7"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([("assistant", "Hi."), ("user", "a"), ("assistant", "b")], "begins with an answer"),
        ([("user", "a"), ("assistant", "b")], "has 1 question with an answer, but two are needed"),
        ([("user", "a"), ("narrator", "b")], "the role 'narrator' is neither"),
        ([("user", [{"type": "image"}]), ("assistant", "b")], "something other than text"),
        ([("user", None), ("assistant", "b")], "something other than text"),
    ],
)
def test_chats_that_are_no_conversations_are_named(folder: Path, messages: Any, reason: str) -> None:
    chat = {"messages": [{"role": role, "content": content} for role, content in messages]}
    (folder / "chat.json").write_text(json.dumps([OPENAI, chat]))
    with pytest.raises(DataError, match=rf"chat\.json, row 2: .*{reason}"):
        import_chat("chat.json")
    assert len(import_chat("chat.json", keep_valid=True).conversations) == 1
