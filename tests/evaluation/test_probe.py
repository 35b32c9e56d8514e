"""Probes of a memory: what attention and gates do is what the model computes, and what a memory holds is found there."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rxrl.data.tokenizer import Tokenizer
from rxrl.data.world import GeneratedSource, generate_telling
from rxrl.errors import ConfigError
from rxrl.evaluation.linear_probe import stored_facts
from rxrl.evaluation.probe_page import write_probe
from rxrl.evaluation.probes import probe
from rxrl.evaluation.trace import trace
from rxrl.facts import attribute_of
from rxrl.lexicon import VALUES
from rxrl.memory import drift
from rxrl.models import ReactiveTransformer
from rxrl.models.config import AttentionConfig
from rxrl.models.layers import CrossAttention, rope_angles
from rxrl.models.memory_attention import StackedAttention
from rxrl.policies.reactive import StmBackend
from rxrl.seeding import derive_seed
from rxrl.types import TokenBatch, interaction_ids

TALKS = [generate_telling(level=0, facts=4, split="test", seed=0, index=index).conversation for index in range(3)]


@pytest.fixture(scope="module")
def codec() -> Tokenizer:
    talks = GeneratedSource(level=0, seed=0, split="train").take(steps=8, strategy="multi-step", start=0, count=200)
    return Tokenizer.train([text for talk in talks for each in talk.interactions for text in (each.query, each.answer)], 400)


@pytest.fixture(scope="module")
def model(codec: Tokenizer) -> ReactiveTransformer:
    return ReactiveTransformer.from_preset("pico", seed=3, vocab_size=codec.vocab_size, slots=6).eval()


def test_a_trace_is_what_the_model_computes(model: ReactiveTransformer, codec: Tokenizer) -> None:
    found = trace(model, codec, TALKS, seed=5)
    memory = StmBackend(model).init([derive_seed(5, "stm0", each.id) for each in TALKS])
    for number in range(4):
        said = [each.interactions[number] for each in TALKS]
        batch = TokenBatch.pad([interaction_ids(codec.encode(each.query), codec.encode(each.answer)) for each in said])
        with torch.no_grad():
            after = model.write_memory(memory, batch.ids, batch.mask)
        assert torch.equal(found.memories[number], memory)
        assert found.drift[number].mean((0, 2)) == pytest.approx(drift(memory, after), rel=1e-4)
        weights = found.write_attention[number]
        assert weights.shape == (2, 3, 6, batch.ids.shape[1])
        assert torch.allclose(weights.sum(-1), torch.ones(2, 3, 6), atol=1e-5)
        assert float((weights * ~batch.mask[None, :, None, :]).abs().max()) == 0.0
        assert [len(row) for row in found.tokens[number]] == batch.lengths.tolist()
        memory = after
    assert found.read_attention.shape == (3, 2, 3, 6)
    assert torch.allclose(found.read_attention.sum(-1), torch.ones(3, 2, 3), atol=1e-5)
    assert ((found.gates >= 0) & (found.gates <= 1)).all()
    assert found.tokens[0][0][:2] == ("[BOS]", "[Q]")
    assert repr(found) == "Trace: 3 conversations, 4 writes, 2 layers of 6 slots"


def test_observed_attention_gives_the_output_that_the_module_gives() -> None:
    """With one head, the output is the observed weights times the values."""
    config = AttentionConfig(query_groups=1, kv_groups=1)
    queries, data = torch.randn(2, 3, 6, 16), torch.randn(2, 3, 5, 16)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 4 + [False]])
    writing = StackedAttention(2, 16, 8, config)
    with torch.no_grad():
        told = writing.keys(data, mask, rotate_keys=True)
        weights = writing.observed(queries, told)
        values = torch.einsum("lbtd,ldh->lbth", data, writing.kv_proj[..., 8:])
        expected = torch.einsum("lbst,lbth,lhd->lbsd", weights, values, writing.out_proj) + writing.out_bias[:, None, None]
        assert torch.allclose(writing(queries, told), expected, atol=1e-5)
        reading = CrossAttention(16, 8, config)
        x, memory, angles = torch.randn(3, 4, 16), torch.randn(3, 6, 16), rope_angles(torch.arange(4), 8, torch.float32)
        kv = reading.project_memory(memory)
        expected = reading.out_proj(reading.observed(x, angles, kv) @ kv[1][:, 0])
        assert torch.allclose(reading(x, angles, kv), expected, atol=1e-5)


def test_hooks_are_gone_after_a_trace(model: ReactiveTransformer, codec: Tokenizer) -> None:
    trace(model, codec, TALKS)
    assert not any(module._forward_hooks for module in model.modules())


def test_traces_of_different_lengths_or_of_nothing_are_refused(model: ReactiveTransformer, codec: Tokenizer) -> None:
    longer = generate_telling(level=0, facts=5, split="test", seed=0, index=0).conversation
    with pytest.raises(ConfigError, match="one length"):
        trace(model, codec, [TALKS[0], longer])
    with pytest.raises(ConfigError, match="one length"):
        trace(model, codec, [])


def test_a_telling_tells_one_fact_of_another_attribute_each_time_and_asks_for_each() -> None:
    for index in range(20):
        telling = generate_telling(level=index % 4, facts=10, split="test", seed=1, index=index)
        facts = [each.facts for each in telling.conversation.interactions]
        assert all(len(each) == 1 for each in facts)
        keys = [key for [(key, _)] in facts]
        assert len({attribute_of(key) for key in keys}) == 10
        assert [question.asks for question in telling.questions] == [(key,) for key in keys]
        for question, [(key, value)] in zip(telling.questions, facts, strict=True):
            assert value in question.answer.lower()
            assert value in VALUES[attribute_of(key)]
    with pytest.raises(ConfigError, match="2 to 10"):
        generate_telling(level=0, facts=11, split="test", seed=0, index=0)


def _memories(labels: list[list[tuple[str, str]]], written: Any, seed: int) -> torch.Tensor:
    """Memories `[writes + 1, 1, batch, 1, dim]` of noise in which facts stand along directions of their own, where `written` says so."""
    rng, codes = np.random.default_rng(seed), {}
    for name, values in VALUES.items():
        for value in values:
            codes[name, value] = np.random.default_rng(derive_seed(0, name, value) % 2**32).normal(size=64)
    found = np.zeros((len(labels[0]) + 1, 1, len(labels), 1, 64))
    for row, told in enumerate(labels):
        for write in range(len(told)):
            held = [codes[fact] for number, fact in enumerate(told[: write + 1]) if written(number, write)]
            found[write + 1, 0, row, 0] = np.sum(held, axis=0) + rng.normal(0, 0.1, 64) if held else rng.normal(0, 0.1, 64)
    return torch.tensor(found)


def test_the_linear_probe_finds_what_is_stored_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    names = ("pet", "colour", "food")

    def labels(count: int) -> list[list[tuple[str, str]]]:
        return [[(name, VALUES[name][rng.integers(4)]) for name in rng.permutation(names)] for _ in range(count)]

    fitted, asked = labels(150), labels(60)
    forgets = lambda number, write: write - number < 2  # noqa: E731
    stored, chance = stored_facts((fitted, _memories(fitted, forgets, 1)), (asked, _memories(asked, forgets, 2)))
    assert 0.2 < chance < 0.4
    assert np.isnan(stored[:, 1, 0]).all()
    fresh = [np.nanmean(stored[:, told, told + age]) for age in (0, 1) for told in range(3 - age)]
    assert min(fresh) > 0.9
    assert np.nanmean(stored[:, 0, 2]) < 0.5  # forgotten: no better than guessing


def test_the_linear_probe_does_not_find_what_no_fitted_conversation_tells() -> None:
    fitted, asked = [[("pet", "cat"), ("food", "rice")]] * 8, [[("pet", "cat"), ("toy", "kite")]] * 2
    stored, chance = stored_facts((fitted, _memories(fitted, lambda *_: True, 1)), (asked, _memories(asked, lambda *_: True, 2)))
    assert stored[:, 0].tolist() == [[1.0, 1.0]] * 2
    assert stored[:, 1, 1].tolist() == [0.0, 0.0]
    assert chance == pytest.approx(4 / 6)  # the pet, asked for twice as often as the toy


@pytest.fixture(scope="module")
def found(model: ReactiveTransformer, codec: Tokenizer) -> dict[str, Any]:
    return probe(model, codec, facts=3, conversations=4, max_answer_tokens=4, seed=2)


def test_a_probe_has_every_part_and_one_seed_gives_one_result(found: dict[str, Any], model: ReactiveTransformer, codec: Tokenizer) -> None:
    assert [[cell is None for cell in row] for row in found["forgetting"]] == [[False] * 3, [True, False, False], [True, True, False]]
    assert [row["age"] for row in found["by_age"]] == [1, 2, 3]
    assert [row["told"] for row in found["capacity"]] == [1, 2, 3]
    assert len(found["ablation"]["layers"]) == 2
    assert len(found["ablation"]["slots"]) == 6
    assert np.shape(found["pictures"]["gates"]["by_turn"]) == (3, 2)
    assert np.shape(found["pictures"]["read"]["by_turn"]) == (2, 2)
    assert np.shape(found["pictures"]["drift"]["by_slot"]) == (2, 6)
    assert found == probe(model, codec, facts=3, conversations=4, max_answer_tokens=4, seed=2)


def test_the_page_shows_all_of_it_and_needs_nothing(found: dict[str, Any], tmp_path: Path) -> None:
    page = write_probe(found, tmp_path, title="<b>").read_text()
    assert "<h1>&lt;b&gt;</h1>" in page
    assert not re.search(r"https?:|<script", page)
    assert set(re.findall(r'<section id="(\w+)"', page)) == {
        "headline", "forgetting", "capacity", "linear", "ablation", "pictures", "example",
    }  # fmt: skip
    assert len(re.findall(r"<svg [^>]*>", page)) == len(re.findall(r'<svg [^>]*(?:aria-label="[^"]+"|aria-hidden="true")', page))
    assert json.loads((tmp_path / "probe.json").read_text()) == found
    rows = list(csv.DictReader((tmp_path / "forgetting.csv").read_text().splitlines()))
    assert len(rows) == 6
    assert float(rows[0]["retention"]) == found["forgetting"][0][0]
