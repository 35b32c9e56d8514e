"""What a report says of data: the hash of files, and what decides which conversations are generated."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from rxrl.data.origins import Origin, hash_of_conversations
from rxrl.data.splits import DataConfig, Sources, open_data, open_sources
from rxrl.data.world import GeneratedSource
from rxrl.supply import open_configured, open_named
from rxrl.types import Conversation, Interaction


def rows(path: Path, count: int, start: int = 0) -> Path:
    turn = {"query": "Where?", "answer": "Here."}
    told = [{"id": f"c{n}", "query": f"It is {n}.", "answer": "Okay.", "interactions": [turn]} for n in range(start, start + count)]
    path.write_text("".join(json.dumps(each) + "\n" for each in told))
    return path


def origins(sources: Sources) -> dict[str, Origin]:
    return {each.use: each for each in sources.origins}


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    train, held_out = rows(tmp_path / "train.jsonl", 4), rows(tmp_path / "held.jsonl", 3, 9)
    found = origins(open_sources(DataConfig(train=str(train), held_out=str(held_out)), 0))
    assert {use: each.sha256 for use, each in found.items()} == {
        "training": hashlib.sha256(train.read_bytes()).hexdigest(),
        "test": hashlib.sha256(held_out.read_bytes()).hexdigest(),
    }
    assert {each.hashed for each in found.values()} == {"1 file"}
    again = origins(open_data(str(train), str(held_out), None, 5))
    assert (again["training"].sha256, again["validation"].sha256) == (found["training"].sha256, found["test"].sha256)
    rows(train, 5)
    assert origins(open_data(str(train), str(held_out), None, 5))["training"].sha256 != found["training"].sha256


def test_halves_of_characters_in_ids_and_texts_have_hashes() -> None:
    found = {
        hash_of_conversations([Conversation(name, Interaction(text, "Okay."), (Interaction("Where?", "Here."),))])
        for name in ("a", "\ud83d", "\udcc3")
        for text in ("It is 1.", "It is \ud83d.")
    }
    assert len(found) == 6


def test_files_of_a_split_have_one_hash_and_their_order_matters(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for folder, starts in (("a", (0, 9)), ("b", (9, 0))):
        for number, start in enumerate(starts):
            rows(tmp_path / folder / f"train-{number}.jsonl", 3, start)
    one, other = (origins(open_data(str(tmp_path / name), None, None, 0))["training"] for name in ("a", "b"))
    assert one.hashed == "2 files"
    assert one.sha256 != other.sha256


@pytest.mark.parametrize(("level", "seed"), [(0, 1), (1, 0), (1, 1)])
def test_a_generated_world_is_named_by_level_split_seed_and_version(level: int, seed: int) -> None:
    first, second, other = (origins(open_sources(DataConfig(level=each), key)) for each, key in ((level, seed), (level, seed), (0, 0)))
    assert set(first) == {"training", "validation", "test"}
    assert first == second
    assert {use: (each.settings["split"], each.settings["level"], each.settings["seed"]) for use, each in first.items()} == {
        "training": ("train", level, seed), "validation": ("validation", level, seed), "test": ("test", level, seed),
    }  # fmt: skip
    assert len({each.sha256 for each in (*first.values(), *other.values())}) == 6


def test_a_mix_names_all_its_parts_and_scenarios_are_not_asked_for_their_words(tmp_path: Path) -> None:
    data = {"world": 1, "scenario:guess": 1, str(rows(tmp_path / "rows.jsonl", 4)): 1}
    found = open_named(data, None, 1, 3).origins
    assert {each.name for each in found} == {"world", "scenario:guess", str(tmp_path / "rows.jsonl")}
    guess = next(each for each in found if each.name == "scenario:guess" and each.use == "test")
    assert (guess.sha256, guess.settings["level"], guess.settings["seed"]) == (None, 1, 3)
    assert len(open_configured(DataConfig(train="scenario:guess"), 0).origins) == 3


def test_the_hash_of_what_is_played_depends_on_every_word_of_it() -> None:
    played = GeneratedSource(0, 0, "test").take(steps=4, strategy="multi-step", start=0, count=3)
    assert hash_of_conversations(played) == hash_of_conversations(list(played))
    assert len({hash_of_conversations(each) for each in (played, played[:2], played[::-1])}) == 3
    assert Origin.of_played("world", played).hashed == "3 conversations, as they are played"
