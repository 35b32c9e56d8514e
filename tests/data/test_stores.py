"""Token stores: every token once an epoch, parts that share nothing, batches that depend on seed and position alone."""

from __future__ import annotations

import gzip
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rxrl.data.batches import episode_batch
from rxrl.data.corpora import DOCUMENT_BORDER, open_corpus
from rxrl.data.rows import to_row
from rxrl.data.sources import RowsSource
from rxrl.data.splits import interaction_texts
from rxrl.data.stores import ConversationStore, Options, TextStore, build, is_store, read_manifest
from rxrl.data.stores.parts import Parting
from rxrl.data.stores.permutation import Permutation
from rxrl.data.stores.sections import LONGEST, cut_sections
from rxrl.data.stores.sums import CHUNK, RunningSums
from rxrl.data.stores.writers import repeated
from rxrl.data.tokenizer import Tokenizer
from rxrl.data.world import GeneratedSource
from rxrl.errors import ConfigError, DataError
from rxrl.types import BOS, EOS, PAD

WORLD = GeneratedSource(level=1, seed=0, split="train")
TEXTS = [f"story {number}: {text}" for number, text in enumerate(WORLD.stories("train", 0, 300))]
CODEC = Tokenizer.train(TEXTS[:50], 400)
TALKS = [each for steps in (1, 2, 4, 7) for each in WORLD.take(steps=steps, strategy="multi-step", start=100 * steps, count=30)]


def lines(path: Path, rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def store_of(folder: Path, source: Path, **options: Any) -> Path:
    build(open_corpus(source).choose("train"), folder, CODEC, Options(**options))
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> TextStore:
    folder = tmp_path_factory.mktemp("texts")
    return TextStore(store_of(folder / "store", lines(folder / "texts.jsonl", [{"text": text} for text in TEXTS])))


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> ConversationStore:
    folder = tmp_path_factory.mktemp("talks")
    return ConversationStore(store_of(folder / "store", lines(folder / "talks.jsonl", map(to_row, TALKS))))


# Order and sums


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 65, 1000])
def test_a_permutation_holds_every_number_once_and_depends_on_its_key(size):
    found = Permutation(size, 7, "x")(np.arange(size))
    assert sorted(found.tolist()) == list(range(size))
    if size > 10:
        assert found.tolist() != list(range(size))
        assert found.tolist() != Permutation(size, 8, "x")(np.arange(size)).tolist()
        assert Permutation(size, 7, "x")(np.array([size - 1]))[0] == found[-1]


def test_a_permutation_of_more_than_memory_holds_is_computed_where_it_is_asked_for():
    order = Permutation(10**15, 0)
    found = order(np.array([0, 1, 2, 10**15 - 1]))
    assert len(set(found.tolist())) == 4
    assert ((found >= 0) & (found < 10**15)).all()
    # Neighbours go far apart: their places are no line.
    places = order(np.arange(4000)) / 10**15
    assert abs(places.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.06


def test_sums_find_the_item_of_every_position():
    weights = np.random.default_rng(0).integers(0, 4, 3 * CHUNK + 17)
    sums = RunningSums(len(weights), lambda start, stop: weights[start:stop])
    items, within = np.repeat(np.arange(len(weights)), weights), np.concatenate([np.arange(each) for each in weights])
    assert sums.total == len(items)
    assert sums.items(np.arange(sums.total)).tolist() == items.tolist()
    for position in (0, 1, CHUNK, 5000, sums.total - 1):
        assert sums.find(position) == (items[position], within[position])


# Texts


def seen(batches: Any) -> Counter[int]:
    found: Counter[int] = Counter()
    for batch in batches:
        found.update(batch.tokens.ids[batch.tokens.mask].tolist())
    return found


def expected(store: TextStore) -> Counter[int]:
    return Counter(token for text in TEXTS for token in [BOS, *CODEC.encode(text), EOS])


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_token_is_seen_once_an_epoch_by_any_number_of_processes(texts, world_size):
    packed = texts.packed(32, seed=3)
    rows = 6
    steps = -(-packed.blocks // rows)
    parts = [packed.batch(step * rows, rows, rank, world_size) for step in range(steps) for rank in range(world_size)]
    whole = packed.batch(0, packed.blocks)
    assert seen([whole]) == expected(texts)
    joined = torch.cat([part.tokens.ids for part in parts])
    assert torch.equal(joined[: packed.blocks], whole.tokens.ids)
    again = packed.batch(packed.blocks, packed.blocks)
    assert seen([again]) == seen([whole])
    assert not torch.equal(again.tokens.ids, whole.tokens.ids)


def test_texts_are_packed_whole_one_behind_the_other_and_borders_tell_them_apart(texts):
    packed = texts.packed(64, seed=0)
    whole = packed.batch(0, packed.blocks)
    assert whole.padding_share < 0.05
    ids, documents, positions = whole.tokens.ids, whole.documents, whole.positions
    assert (ids[~whole.tokens.mask] == PAD).all()
    assert ((documents == -1) == ~whole.tokens.mask).all()
    begins = torch.zeros_like(whole.tokens.mask)
    begins[:, 1:] = (documents[:, 1:] != documents[:, :-1]) & whole.tokens.mask[:, 1:]
    assert (ids[begins] == BOS).all()
    assert (ids[:, 1:][ids[:, :-1] == EOS][:, None] <= max(BOS, PAD)).all()
    assert (positions[begins] == 0).all()
    same = whole.same_document
    assert not same[begins.nonzero()[:, 0], begins.nonzero()[:, 1], 0].any()
    assert torch.equal(same, same.transpose(1, 2))


def test_texts_come_back_from_the_blocks_of_an_epoch(texts):
    packed = texts.packed(10_000_000, seed=0)
    assert packed.blocks == 1
    assert packed.batch(0, 1).tokens.ids[0, : packed.tokens].tolist() == [t for text in TEXTS for t in [BOS, *CODEC.encode(text), EOS]]


def test_parts_share_no_document_and_give_all(texts):
    train, validation = (texts.packed(32, 5, part, share=0.2) for part in ("train", "validation"))
    assert seen([train.batch(0, train.blocks)]) + seen([validation.batch(0, validation.blocks)]) == expected(texts)
    assert train.texts + validation.texts == len(TEXTS)
    assert 30 <= validation.texts <= 90
    assert train.bytes + validation.bytes == sum(len(text.encode()) for text in TEXTS)
    other = texts.packed(32, 6, "validation", share=0.2)
    assert seen([other.batch(0, other.blocks)]) != seen([validation.batch(0, validation.blocks)])
    assert len({train.fingerprint, validation.fingerprint, other.fingerprint}) == 3


def test_the_same_text_is_on_one_side_only():
    keys = np.array([7, 7, 8, 8, 9, 9, 10, 10], dtype=np.uint64)
    for seed in range(20):
        parting = Parting(keys, seed, 0.5, "x")
        held_out, kept = (parting.kept(part, slice(0, 8)) for part in ("validation", "train"))
        assert held_out.any()
        assert kept.any()
        assert (held_out != kept).all()
        assert (held_out[::2] == held_out[1::2]).all()
    with pytest.raises(DataError, match="at least two"):
        Parting(keys[:2], 0, 0.5, "x")


# Conversations


@pytest.mark.parametrize(("steps", "part"), [(1, "all"), (2, "all"), (4, "train"), (7, "validation")])
def test_conversations_from_a_store_are_those_of_the_rows_in_texts_and_in_tokens(talks, steps, part):
    source = talks.source(1, part, share=0.3)
    count = source.available(steps, "multi-step")
    taken = source.take(steps=steps, strategy="multi-step", start=0, count=count)
    assert len({each.id for each in taken}) == count
    known = {each.id: each for each in RowsSource(TALKS, 0).take(steps=steps, strategy="multi-step", start=0, count=120)}
    assert all(each == known[each.id] for each in taken)
    if part == "all":
        assert count == len(known)
    one = source.episodes(steps=steps, strategy="multi-step", start=0, count=count, max_length=400)
    two = episode_batch(taken, CODEC, 400)
    for name in ("answer", "real", "asking"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    for name in ("writes", "turns"):
        assert torch.equal(getattr(one, name).ids, getattr(two, name).ids)
        assert torch.equal(getattr(one, name).mask, getattr(two, name).mask)


def test_texts_for_pre_training_are_those_of_the_rows_with_what_tools_have_found(tmp_path):
    told = {"query": "How warm is it?", "answer": "It is warm.", "interactions": [{"tool_result": "31 degrees", "answer": "31 degrees."}]}
    marked = Tokenizer.train(TEXTS[:50], 400, template=True)
    build(open_corpus(lines(tmp_path / "talks.jsonl", [told])).choose("train"), tmp_path / "store", marked, Options())
    source = ConversationStore(tmp_path / "store").source(0)
    assert source.texts(0, 1) == interaction_texts(source.take(steps=1, strategy="multi-step", start=0, count=1))
    assert source.texts(0, 1)[0].count("31 degrees") == 2


def test_parts_of_conversations_share_none_and_an_epoch_is_an_order_of_its_own(talks):
    train, validation = (talks.source(4, part, share=0.3) for part in ("train", "validation"))
    taken = [
        [each.id for each in source.take(steps=1, strategy="multi-step", start=0, count=len(source))] for source in (train, validation)
    ]
    assert sorted(chain_ids(taken)) == sorted(each.id for each in TALKS)
    again = [each.id for each in train.take(steps=1, strategy="multi-step", start=len(train), count=len(train))]
    assert sorted(again) == sorted(taken[0])
    assert again != taken[0]
    piecewise = [train.take(steps=1, strategy="multi-step", start=at, count=1)[0].id for at in range(len(train))]
    assert piecewise == taken[0]


def chain_ids(parts: list[list[str]]) -> list[str]:
    return [each for part in parts for each in part]


def test_neighbours_are_about_equally_long(tmp_path):
    many = [each for steps in (1, 6) for each in WORLD.take(steps=steps, strategy="multi-step", start=0, count=200)]
    source = ConversationStore(store_of(tmp_path / "store", lines(tmp_path / "a.jsonl", map(to_row, many)))).source(0)
    batches = [source.episodes(steps=1, strategy="multi-step", start=at, count=16, max_length=400) for at in range(0, 384, 16)]
    shuffled = [episode_batch(many[at::25], CODEC, 400) for at in range(25)]
    padding = [1 - float(torch.cat([each.turns.mask.float().mean(-1).flatten() for each in found]).mean()) for found in (batches, shuffled)]
    assert padding[0] < padding[1]


def test_a_conversation_that_is_too_long_for_the_model_is_named(talks):
    with pytest.raises(DataError, match=r"turn 0: the interaction has \d+ tokens, but 5 is the model's limit"):
        talks.source(0).episodes(steps=1, strategy="multi-step", start=0, count=1, max_length=5)
    with pytest.raises(DataError, match="at least 9 turns are needed, but the longest of 120 has 7"):
        talks.source(0).take(steps=9, strategy="multi-step", start=0, count=1)


def test_strategies_and_their_cuts_are_those_of_rows(tmp_path):
    mixed = [each for name in ("long-range", "multi-step") for each in WORLD.take(steps=6, strategy=name, start=0, count=20)]
    store = ConversationStore(store_of(tmp_path / "store", lines(tmp_path / "a.jsonl", map(to_row, mixed))))
    for strategy in ("long-range", "multi-step", "single-step"):
        rows = {each.id: each for each in RowsSource(mixed, 0).take(steps=4, strategy=strategy, start=0, count=40)}
        source = store.source(0)
        taken = source.take(steps=4, strategy=strategy, start=0, count=source.available(4, strategy))
        assert {each.id: each for each in taken} == rows
        tokens = source.episodes(steps=4, strategy=strategy, start=0, count=len(taken), max_length=400)
        assert torch.equal(tokens.turns.ids, episode_batch(taken, CODEC, 400).turns.ids)


def test_a_part_of_ids_that_repeats_is_found_in_passes(monkeypatch):
    monkeypatch.setattr("rxrl.data.stores.writers._PASS", 50)
    values = np.random.default_rng(0).integers(0, 300, 400).astype(np.uint64)
    first = {int(value): index for index, value in reversed(list(enumerate(values)))}
    assert repeated(values).tolist() == [index for index, value in enumerate(values) if first[int(value)] != index]


# Memory


def mapped_megabytes() -> float:
    """Megabytes of files that this process holds, the most of them since the last call."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssFile"))


def many(folder: Path, store: ConversationStore, count: int) -> ConversationStore:
    """A store of that many conversations of two turns, whose words mean nothing."""
    shutil.copytree(store.files.folder, folder)
    ends = np.arange(1, 6 * count + 1, dtype=np.uint64)
    arrays = {"interactions": 3 * np.arange(1, count + 1), "order": np.arange(count), "row_ends": np.zeros(count)}
    for name, values in arrays.items():
        values.astype(np.uint64).tofile(folder / f"{name}.bin")
    ends.tofile(folder / "ends.bin")
    np.full(6 * count, 9, np.uint16).tofile(folder / "tokens.bin")
    np.ones(3 * count, np.uint8).tofile(folder / "asking.bin")
    np.random.default_rng(0).integers(0, 2**63, 2 * count).astype(np.uint64).tofile(folder / "keys.bin")
    (folder / "rows.bin").write_bytes(b"")
    description = json.loads((folder / "store.json").read_text())
    counts = {"items": count, "documents": count, "interactions": 3 * count, "tokens": 6 * count, "row_bytes": 0}
    (folder / "store.json").write_text(json.dumps(description | counts | {"lengths": {"": {"2": count}}}))
    return ConversationStore(folder)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the memory of a process")
def test_memory_does_not_grow_with_the_number_of_conversations(tmp_path, talks):
    grown = []
    for count in (1_000, 1_000_000):
        source = many(tmp_path / str(count), talks, count).source(0, "train")
        before, most = mapped_megabytes(), 0.0
        for at in range(0, 1600, 16):
            source.episodes(steps=1, strategy="multi-step", start=at, count=16, max_length=400)
            most = max(most, mapped_megabytes() - before)
        grown.append(most)
    size = sum(file.stat().st_size for file in (tmp_path / "1000000").iterdir()) / 2**20
    assert size > 80
    assert grown[1] < 10


# Reading sources


def documents(blocks: list[str]) -> list[str]:
    found: list[str] = []
    for section in cut_sections(iter(blocks)):
        if section.first:
            found.append(section.text)
        else:
            found[-1] += section.text
    return found


@pytest.mark.parametrize("size", [1, 7, 50, 10**6])
def test_documents_are_cut_at_their_borders_wherever_a_stream_is_cut(size):
    text = DOCUMENT_BORDER.join(["one", " ", "two\n", "x " * LONGEST, "", "last"])
    size = max(size, len(text) // 3000)
    assert documents([text[at : at + size] for at in range(0, len(text), size)]) == ["one", "two\n", "x " * LONGEST, "last"]
    assert max(len(each.text) for each in cut_sections(iter([text]))) <= LONGEST


def test_every_form_of_a_source_gives_the_same_store(tmp_path):
    rows = [{"text": text} for text in TEXTS[:40]]
    plain = "".join(json.dumps(row) + "\n" for row in rows).encode()
    forms = {"a.jsonl": plain, "b.jsonl.gz": gzip.compress(plain), "c.txt": DOCUMENT_BORDER.join(TEXTS[:40]).encode()}
    forms["d.jsonl.zst"] = pa.compress(plain, "zstd", asbytes=True)
    forms["e.csv"] = ("text\r\n" + "".join('"' + text.replace('"', '""') + '"\r\n' for text in TEXTS[:40])).encode()
    forms["f.json"] = json.dumps(rows).encode()
    for name, content in forms.items():
        (tmp_path / name).write_bytes(content)
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "g.parquet")
    with pa.OSFile(str(tmp_path / "h.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    with pa.OSFile(str(tmp_path / "i.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as stream:
        stream.write_table(table)
    for at in range(0, 40, 10):
        lines(tmp_path / "shards" / f"part-{at:02}.jsonl", rows[at : at + 10])
    contents = set()
    for name in [*forms, "g.parquet", "h.arrow", "i.arrow", "shards"]:
        store = store_of(tmp_path / "stores" / name, tmp_path / name)
        contents.add(tuple((store / f"{each}.bin").read_bytes() for each in ("tokens", "ends", "keys", "sizes")))
    assert len(contents) == 1


BROKEN: dict[str, tuple[Any, str]] = {
    "not json": (b'{"text": "one"}\n{"text": \n', r"b\.jsonl, row 2: not valid JSON"),
    "no text": (b'{"text": "one"}\n{"words": 1}\n', r"b\.jsonl, row 2: expected text in the column 'text', got a row of 'words'"),
    "half a character": (b'{"text": "one"}\n{"text": "\\ud83d"}\n', r"b\.jsonl, row 2: it holds half of a surrogate pair"),
    "not utf-8": (b'{"text": "one"}\n{"text": "\xff"}\n', r"b\.jsonl, row 2: not UTF-8"),
    "empty": (b"", r"b\.jsonl: it cannot be read as data \(it is empty\)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_named_with_file_and_row_and_skipped_where_that_is_wished(case, tmp_path):
    content, message = BROKEN[case]
    lines(tmp_path / "data" / "a.jsonl", [{"text": text} for text in TEXTS[:5]])
    (tmp_path / "data" / "b.jsonl").write_bytes(content)
    lines(tmp_path / "data" / "c.jsonl", [{"text": text} for text in TEXTS[5:9]])
    with pytest.raises(DataError, match=message + r".*--skip-bad"):
        store_of(tmp_path / "store", tmp_path / "data")
    assert not (tmp_path / "store").exists()
    found = TextStore(store_of(tmp_path / "store", tmp_path / "data", skip_bad=True)).manifest
    assert found.items == 9 + (case != "empty")
    assert found.skipped_count == len(found.skipped) == 1


def test_a_source_that_begins_with_a_broken_row_is_told_by_the_next_one(tmp_path):
    for rows, kind in (([{"text": text} for text in TEXTS[:3]], "texts"), ([to_row(each) for each in TALKS[:3]], "conversations")):
        source = lines(tmp_path / f"{kind}.jsonl", rows)
        source.write_text("{\n" + source.read_text())
        with pytest.raises(DataError, match=kind + r"\.jsonl, row 1: not valid JSON.*--skip-bad"):
            store_of(tmp_path / kind, source)
        found = read_manifest(store_of(tmp_path / kind, source, skip_bad=True))
        assert (found.kind, found.items, found.skipped_count) == (kind, 3, 1)


@pytest.mark.parametrize("cut", [0.5, 0.01, 0.0])
def test_a_truncated_shard_is_named_and_skipped(cut, tmp_path):
    (tmp_path / "data").mkdir()
    for shard in range(4):
        path = tmp_path / "data" / f"{shard}.parquet"
        pq.write_table(pa.table({"text": TEXTS[shard * 10 : shard * 10 + 10]}), path)
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(DataError, match=r"3\.parquet: it cannot be read as "):
        store_of(tmp_path / "store", tmp_path / "data")
    said: list[str] = []
    build(open_corpus(tmp_path / "data").choose("train"), tmp_path / "store", CODEC, Options(skip_bad=True), said.append)
    assert TextStore(tmp_path / "store").manifest.items == 30
    assert len(said) == 1
    assert "3.parquet" in said[0]


def test_a_shard_that_is_broken_is_found_before_those_before_it_are_tokenized(tmp_path, monkeypatch):
    lines(tmp_path / "data" / "a.jsonl", [{"text": text} for text in TEXTS[:5]])
    (tmp_path / "data" / "b.parquet").write_bytes(b"PAR1 and then nothing")
    monkeypatch.setattr(Tokenizer, "encode_batch", lambda *args: pytest.fail("It should not have come that far."))
    with pytest.raises(DataError, match=r"b\.parquet: it cannot be read as Parquet"):
        store_of(tmp_path / "store", tmp_path / "data")


@pytest.mark.parametrize("ending", ["jsonl.gz", "jsonl.zst", "txt.gz"])
def test_a_compressed_shard_that_ends_early_gives_what_comes_before_that(ending, tmp_path):
    texts = [f"{text} {np.random.default_rng(number).integers(0, 9, 400)}" for number, text in enumerate(TEXTS)]
    plain = (DOCUMENT_BORDER.join(texts) if ending == "txt.gz" else "".join(json.dumps({"text": text}) + "\n" for text in texts)).encode()
    packed = gzip.compress(plain) if ending.endswith("gz") else pa.compress(plain, "zstd", asbytes=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"a.{ending}").write_bytes(packed[: len(packed) * 9 // 10])
    lines(tmp_path / "data" / "b.jsonl", [{"text": text} for text in TEXTS[:3]])
    with pytest.raises(DataError, match=r"a\." + ending + ": (after (row|document) [0-9]+ )?it cannot be read as "):
        store_of(tmp_path / "store", tmp_path / "data")
    found = TextStore(store_of(tmp_path / "store", tmp_path / "data", skip_bad=True)).manifest
    assert 3 <= found.items < 303
    assert found.skipped_count == 1


def test_conversations_that_are_wrong_are_named_too_and_one_id_is_taken_once(tmp_path):
    rows = [to_row(each) for each in TALKS[:6]]
    lines(tmp_path / "a.jsonl", [*rows[:3], {"query": "no answer"}, rows[3], rows[1], rows[4]])
    with pytest.raises(DataError, match=r"a\.jsonl, row 4: 'answer'.*--skip-bad"):
        store_of(tmp_path / "store", tmp_path / "a.jsonl")
    store = ConversationStore(store_of(tmp_path / "store", tmp_path / "a.jsonl", skip_bad=True))
    assert [str(each).rpartition("a.jsonl, ")[2][:6] for each in store.manifest.skipped] == ["row 4:", "row 6:"]
    taken = store.source(0).take(steps=1, strategy="multi-step", start=0, count=5)
    assert sorted(each.id for each in taken) == sorted(row["id"] for row in rows[:5])


# The folder


def test_a_store_is_made_once_and_nothing_else_is_overwritten(tmp_path, texts):
    source = lines(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS[:5]])
    store = store_of(tmp_path / "store", source)
    before = {each.name: each.stat().st_mtime_ns for each in store.iterdir()}
    assert store_of(tmp_path / "store", source) == store
    assert {each.name: each.stat().st_mtime_ns for each in store.iterdir()} == before
    lines(source, [{"text": text} for text in TEXTS[:6]])
    with pytest.raises(ConfigError, match="store of another source"):
        store_of(tmp_path / "store", source)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("dear diary")
    with pytest.raises(ConfigError, match="something else"):
        store_of(tmp_path / "mine", source)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "dear diary"
    assert not is_store(tmp_path / "mine")


@pytest.mark.parametrize("name", ["tokens", "ends", "keys", "sizes"])
def test_a_damaged_store_is_one_sentence(name, tmp_path):
    source = lines(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS[:5]])
    file = store_of(tmp_path / "store", source) / f"{name}.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{name}\.bin cannot be read as an array \(it should have \d+ bytes.*rxrl data tokenize"):
        TextStore(tmp_path / "store")


def test_ids_beyond_the_vocabulary_are_refused(tmp_path):
    store = store_of(tmp_path / "store", lines(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS[:5]]))
    (store / "tokens.bin").write_bytes(b"\xff" * (store / "tokens.bin").stat().st_size)
    with pytest.raises(DataError, match="holds a token 65535, but the vocabulary has 400"):
        TextStore(store).packed(32, 0).batch(0, 1)


def test_another_tokenizer_is_refused(texts):
    texts.files.check_tokenizer(texts.files.load_tokenizer())
    with pytest.raises(DataError, match="but the model has"):
        texts.files.check_tokenizer(Tokenizer.train(TEXTS[:50], 300))
