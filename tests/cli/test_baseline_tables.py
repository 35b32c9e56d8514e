"""The baselines of docs/results.md: the same conversations for every model, costs as they are, tables from what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rxrl.data.tokenizer import Tokenizer
from rxrl.data.world import GeneratedSource
from rxrl.evaluation.stress import with_small_talk
from rxrl.models import ReactiveTransformer
from rxrl.stages.config import LanguageConfig, SmatConfig
from scripts import baselines
from scripts.baselines import AXES, ROWS, cost_of, folder_of, result_of, stages_of

TALK = GeneratedSource(level=0, seed=0, split="test").take(steps=4, strategy="multi-step", start=0, count=8)
CODEC = Tokenizer.train([text for talk in TALK for each in talk.interactions for text in (each.query, each.answer)], 300)


def test_every_model_learns_from_the_same_conversations_for_as_long() -> None:
    for row in ROWS.values():
        *language, (_, last) = [each for each in stages_of(row, 1) if each[0] != "memory-attention"]
        assert [(each.iterations, each.batch_tokens) for _, each in language if isinstance(each, LanguageConfig)] == [(60, 2000)] * 2
        assert isinstance(last, SmatConfig)
        assert [(phase.steps, phase.iterations, phase.accuracy) for phase in last.phases] == [
            (1, 400, None),
            (4, 500, None),
            (8, 300, None),
        ]
        assert (last.batch_tokens, last.seed, last.optimizer.learning_rate) == (2000, 1, row.rate or 0.004)
    folders = {folder_of(Path(), 0, row) / str(result_of(Path(), row)) for row in ROWS.values()}
    assert len(folders) == len(ROWS), "no row takes the place of another"


def test_a_turn_costs_more_only_for_those_who_read_all_of_it_again() -> None:
    [talk] = with_small_talk(TALK[:1], 44, "first", seed=0, talk=[("Hello there.", "Hello.")])
    flops, kept = {}, {}
    for name, row in ROWS.items():
        if row.rate is None:
            model = ReactiveTransformer.from_preset(row.model, **CODEC.model_settings).requires_grad_(False).eval()
            found = [cost_of(model, CODEC, talk, row.memory, turn) for turn in (10, 40)]
            flops[name], kept[name] = ([each[key] for each in found] for key in ("flops", "memory_bytes"))
    for name in ("pico (memory attention)", "GRU", "memory tokens (RMT)", "re-reads the last 4 interactions"):
        assert flops[name][0] == flops[name][1] > 1e6, name
        assert kept[name][0] == kept[name][1], name
    assert kept["GRU"] == kept["memory tokens (RMT)"] == [4 * 4096] * 2
    assert flops["re-reads everything"][1] > 3 * flops["re-reads everything"][0]
    assert kept["re-reads everything"][1] > 3 * kept["re-reads everything"][0]


def test_the_tables_show_each_seed_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "_costs", lambda row, seed: iter(["1"] * 6))
    for seed, (name, score) in ((0, ("GRU", 0.5)), (2, ("GRU", 0.75)), (0, ("re-reads the last 4 interactions", 0.25))):
        path = result_of(folder_of(tmp_path, seed, ROWS[name]), ROWS[name])
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"retention": {"retention": score}, "stress": {axis: {"mean": score / 2} for axis in AXES}}))
    shown = baselines.baselines_tables(tmp_path, [0, 1, 2])
    assert shown[2:4] == [
        f"| GRU | **0.625** (0.500, 0.750){' | **0.312** (0.250, 0.375)' * 3} |",
        f"| re-reads the last 4 interactions | **0.250**{' | **0.125**' * 3} |",
    ]
    assert shown[-1].startswith("| re-reads the last 4 interactions | 1 |")
