from __future__ import annotations

import gzip
import json
import os
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rxrl.config import load_config
from rxrl.data.rows import read_conversations
from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import CheckpointError, ConfigError, DataError, RxrlError
from rxrl.evaluation import read_records, write_records
from rxrl.models.config import ModelConfig
from rxrl.reading import (
    OBJECT,
    Refusal,
    csv_stream,
    json_value,
    open_lines,
    parquet_rows,
    parse_json,
    parse_yaml,
    read_json,
    read_json_rows,
    read_text,
)
from rxrl.reading.tensors import read_archive, read_tensors
from rxrl.runs.optim import OptimizerConfig
from tests.evaluation.fakes import record


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 150 + "]" * 150, "nested too deeply"),
        ('{"a": NaN}', "no number NaN"),
        ("-Infinity", "no number -Infinity"),
        ("1" * 5000, "digits"),
        ('"\\ud83d"', "half of a surrogate pair"),
        (b'"\xff"', "not UTF-8"),
    ],
)
def test_what_is_no_json_has_a_reason(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        json_value(text)


def test_json_is_read_as_it_is() -> None:
    assert json_value("[" * 100 + "]" * 100) is not None
    assert json_value('{"a": "\\ud83d\\ude00", "b": [1, 2.5, null, true]}') == {"a": "\U0001f600", "b": [1, 2.5, None, True]}
    assert json_value(b"\xef\xbb\xbf[1]") == [1]
    assert json_value('"\\ud83d"', halves=True) == "\ud83d"
    assert json_value("[NaN, -Infinity]", numbers="null") == [None, None]
    assert json_value("[Infinity]", numbers="any") == [float("inf")]


def test_a_schema_converts_no_types() -> None:
    config = {"query_groups": 2, "kv_groups": 1}
    from rxrl.models.config import AttentionConfig

    assert parse_json(json.dumps(config), "a.json", AttentionConfig).query_groups == 2
    for wrong in ({"kv_groups": "1"}, {"kv_groups": 1.0}, {"kv_groups": True}, {"other": 1}):
        with pytest.raises(CheckpointError, match=r"^a\.json is not an attention: .*; copy it\.$"):
            parse_json(json.dumps(config | wrong), "a.json", AttentionConfig, Refusal(CheckpointError, "copy it", expected="an attention"))
    with pytest.raises(DataError, match="should hold a JSON object, got list"):
        parse_json("[]", "a.json", OBJECT)


def test_files_are_utf8_in_every_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + '{"a": "Ünï"}\r\n'.encode())
    assert read_json(tmp_path / "a.json", OBJECT) == {"a": "Ünï"}
    assert read_text(tmp_path / "a.json") == '{"a": "Ünï"}\n'
    (tmp_path / "b.json").write_bytes(b'{"a": "\xfc"}')
    with pytest.raises(DataError, match=r"b\.json is not UTF-8 text \(invalid start byte at byte 7\)"):
        read_json(tmp_path / "b.json", OBJECT)


def test_what_is_not_there_is_said_so(tmp_path: Path) -> None:
    for path in (tmp_path / "a.json", tmp_path / "a.json" / "b"):
        with pytest.raises(DataError, match="There is no file"):
            read_json(path, OBJECT)
    with pytest.raises(DataError, match="directory"):
        read_text(tmp_path)
    with pytest.raises(DataError, match="larger than 0 MiB"):
        read_text("/dev/zero", most=1000)


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"a": 1}\r\n\n  \n\xff\n{"a": 2}'
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    with pa.output_stream(str(tmp_path / "a.jsonl.zst"), compression="zstd") as stream:
        stream.write(content)
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst"):
        found = list(open_lines(tmp_path / name))
        assert [number for number, _ in found] == [1, 4, 5]
        assert [line.strip() for _, line in found] == [b'{"a": 1}', b"\xff", b'{"a": 2}']
    for name in ("b.jsonl.gz", "b.jsonl.zst"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            list(open_lines(tmp_path / name))


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rxrl.reading.plain.LINE_BYTES", 100)
    (tmp_path / "a.jsonl").write_bytes(b"{}\n" + b"x" * 200)
    with pytest.raises(DataError, match="line 2 is longer"):
        list(open_lines(tmp_path / "a.jsonl"))


def test_arrays_are_rows(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for text, rows in (("[]", []), (" [ ]\n", []), ('[{"a": 1},\n {"a": [2]}]', [{"a": 1}, {"a": [2]}])):
        file.write_text(text)
        assert list(read_json_rows(file)) == list(enumerate(rows, start=1))
    for text, reason in (
        ('[{"a": 1}, {]', r"a\.json, row 2 .*Expecting property name"),
        ('[{"a": 1} {}]', r"row 1 .*Expecting ',' or ']'"),
        ('[{"a": 1}] x', "something follows the array of 1 rows"),
        ("[" * 5000, "row 1 .*nested too deeply"),
        ("[1, NaN]", "row 2 .*no number NaN"),
        ("[1,", "row 2 .*Expecting value"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=reason):
            list(read_json_rows(file))


def laughs(names: str = "abcdefghi") -> str:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{own}: &{own} [{', '.join([f'*{other}'] * 10)}]" for other, own in pairwise(names)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (laughs(), r"line 5: .*aliases come to more than 100000 values"),
        (laughs().replace("[", "{<<: [").replace("]", "]}"), "not valid YAML"),
        ("[" * 3000, "nested in more than 50 levels"),
        ("\n".join(" " * i + "a:" for i in range(60)), "line 50: .*nested in more than 50 levels"),
        ("a0: &a0 [x]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 80)), "aliases are nested in more than 50 levels"),
        ("a: &a [*a]", "stands within what it repeats"),
        ("a: &a {<<: *a}", "stands within what it repeats"),
        ("a: 1\na: 2", "line 2: .*given twice"),
        ("a: !!int ''", "not valid YAML"),
        ("a: !!bool maybe", "not valid YAML"),
        ("a: !!timestamp never", "not valid YAML"),
        ("a: !!float ''", "not valid YAML"),
        ("a: 2001-99-99", "not valid YAML"),
        ("a: " + "1" * 5000, "not valid YAML"),
        ("a: !!python/object/apply:os.system [true]", "line 1: .*could not determine a constructor"),
        ("? [a]\n: b", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_yaml_that_is_none_is_refused_in_one_sentence(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        parse_yaml(text, "a.yaml")
    assert str(caught.value).startswith("a.yaml")
    assert "\n" not in str(caught.value)


def test_few_aliases_are_written_out() -> None:
    data = parse_yaml("a: &a [x]\nb: [*a, *a]\nc: {<<: {d: 1}, e: *a}", "a.yaml").data
    assert data == {"a": ["x"], "b": [["x"], ["x"]], "c": {"d": 1, "e": ["x"]}}
    data["b"][0].append("y")
    assert data["b"][1] == ["x"]


def test_a_table_is_looked_at_before_it_is_read(tmp_path: Path) -> None:
    chunk = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array(["x"]))
    pq.write_table(pa.table({"query": pa.concat_arrays([chunk] * 6000)}), tmp_path / "rows.parquet", compression="zstd")
    with pytest.raises(DataError, match=r"rows\.parquet .*declares 6000000 rows, but at most 5000000"):
        next(parquet_rows(tmp_path / "rows.parquet"))
    (tmp_path / "no.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"no\.parquet cannot be read as Parquet"):
        next(parquet_rows(tmp_path / "no.parquet"))


def test_cells_of_lists_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"a": [[1] * 100] * 100}), tmp_path / "a.parquet")
    assert len(list(parquet_rows(tmp_path / "a.parquet"))) == 100
    monkeypatch.setattr("rxrl.reading.tables.CELLS", 9_999)
    with pytest.raises(DataError, match="declares 10000 values"):
        next(parquet_rows(tmp_path / "a.parquet"))
    monkeypatch.setattr("rxrl.reading.tables.CELLS", 10_000)
    monkeypatch.setattr("rxrl.reading.tables.UNPACKED", 20_000)
    with pytest.raises(DataError, match="GiB"):
        list(parquet_rows(tmp_path / "a.parquet"))


def safetensors(header: Any, content: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file has 0"),
        (struct.pack("<Q", 1 << 40), "header should be"),
        (safetensors(b"{"), "not valid JSON"),
        (safetensors([]), "header is no JSON object"),
        (safetensors(b"[" * 5000), "nested too deeply"),
        (safetensors({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}, b"0000"), "'a' of shape .* needs"),
        (safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"0000"), "needs 8 bytes"),
        (safetensors({"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}}, b"0000"), "dtype"),
        (safetensors({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"0000"), "greater than or equal"),
        (safetensors({"a": {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}}, b"0000"), "valid integer"),
        (safetensors({"__metadata__": {"a": 1}}), "expected text"),
    ],
)
def test_the_header_of_tensors_is_checked_first(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_tensors(tmp_path / "a.safetensors")


def test_tensors_do_not_depend_on_their_file(tmp_path: Path) -> None:
    file, seen = tmp_path / "a.safetensors", {}
    save_file({"a": torch.arange(3.0), "b": torch.zeros(0, 2, dtype=torch.int64)}, file, metadata={"k": "v"})
    tensors, metadata = read_tensors(file, check=seen.update)
    assert (seen, metadata) == ({"a": (3,), "b": (0, 2)}, {"k": "v"})
    os.truncate(file, 0)
    assert tensors["a"].tolist() == [0.0, 1.0, 2.0]


def test_archives_hold_no_more_than_they_say(tmp_path: Path) -> None:
    import zipfile

    torch.save({"a": torch.zeros(4), "n": 3}, tmp_path / "a.pt")
    assert read_archive(tmp_path / "a.pt")["n"] == 3
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\0" * 1_000_000)
    with pytest.raises(DataError, match="unpacks to more than its own size"):
        read_archive(tmp_path / "bomb.pt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(DataError, match="holds list, not a mapping"):
        read_archive(tmp_path / "list.pt")


ROW = {"query": "Mia has a cat.", "answer": "Okay.", "facts": [{"key": "mia.pet", "value": "cat"}], "aliases": {"mia.pet": ["kitty"]},
       "interactions": [{"query": "What?", "answer": "A cat.", "asks": ["mia.pet"], "kind": "pet"}]}  # fmt: skip


def _files(folder: Path) -> dict[str, Any]:
    """One valid file of each kind, and what reads it."""
    folder.mkdir()
    (folder / "rows.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | {"id": 7}) + "\n")
    (folder / "rows.json").write_text(json.dumps([ROW, ROW]))
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress((json.dumps(ROW) + "\n").encode(), mtime=0))
    row = {"query": "q", "answer": "a", "interactions": [{"query": "q", "answer": "a"}]}
    pq.write_table(pa.Table.from_pylist([row]), folder / "a.parquet")
    (folder / "config.yaml").write_text("name: adamw\nlearning_rate: 1e-4\nbetas: [0.9, 0.99]\n")
    save_file({"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.bfloat16)}, folder / "a.safetensors", metadata={"k": "v"})
    torch.save({"a": torch.zeros(4), "n": {"x": [1, 2.0]}}, folder / "a.pt")
    write_records(folder / "transcripts.jsonl", [record(), record()])
    Tokenizer.train(["Mia has a cat."], 270).save(folder)
    (folder / "tokenizer.sha256").unlink()
    (folder / "model.json").write_text('{"name": "a", "vocab_size": 300, "dim": 8, "layers": 1}')
    return {
        **dict.fromkeys(("rows.jsonl", "rows.json", "rows.jsonl.gz", "a.parquet"), read_conversations),
        "config.yaml": lambda path: load_config(path, OptimizerConfig),
        "a.safetensors": read_tensors,
        "a.pt": read_archive,
        "transcripts.jsonl": read_records,
        "tokenizer.json": lambda path: Tokenizer.load(path.parent),
        "model.json": lambda path: read_json(path, ModelConfig),
    }


_INSERTED = st.sampled_from(
    [b"[", b"{", b'"', b"}", b"]", b",", b":", b"null", b"NaN", b"-1", b"1e999", b"9" * 20, b'"1"', b"true", b"\x00", b"\xff", b"\\ud83d",
     b"&a ", b"*a", b"!!int ", b"\n", b"[" * 300, b"{}", b"\xef\xbb\xbf"]
)  # fmt: skip
_change = st.tuples(st.integers(0, 1 << 20), st.integers(0, 8), st.one_of(_INSERTED, st.binary(max_size=4)))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.jsonl.gz", "a.parquet", "config.yaml", "a.safetensors", "a.pt",
                                  "transcripts.jsonl", "tokenizer.json", "model.json"])  # fmt: skip
def test_a_changed_file_gives_values_or_one_sentence(name: str, tmp_path: Path) -> None:
    read = _files(tmp_path / "all")[name]
    path = tmp_path / "all" / name
    content = path.read_bytes()

    @settings(max_examples=60, database=None)
    @given(st.lists(_change, min_size=1, max_size=3))
    def changed(changes: list[tuple[int, int, bytes]]) -> None:
        broken = content
        for at, cut, inserted in changes:
            start = at % (len(broken) + 1)
            broken = broken[:start] + inserted + broken[start + cut :]
        path.write_bytes(broken)
        said = f"{name}: read"
        try:
            read(path)
        except RxrlError as error:
            said = str(error)
        assert name in said or str(path.parent) in said
        assert "\n" not in said

    changed()


def test_a_table_of_fields_that_breaks_off_says_behind_which_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text\none\ntwo\nthree\rfour\n")
    with pytest.raises(DataError, match=r"a\.csv cannot be read as CSV after row 3 "):
        list(csv_stream(tmp_path / "a.csv"))
