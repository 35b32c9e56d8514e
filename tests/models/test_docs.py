"""The guide to the model holds what it says: snippets run as written, tables are those of the code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest
import torch

from rxrl.models import PRESETS, Generation, ReactiveTransformer, count_parameters
from rxrl.models.config import AttentionConfig, GateConfig, MemoryVariant, ModelConfig
from rxrl.models.generation import session
from rxrl.models.sizes import count_bytes
from tests.pages import DOCS, blocks, table

GUIDE = DOCS / "guides/model.md"
PAGE = GUIDE.read_text(encoding="utf-8")
PYTHON = [block.text for block in blocks(GUIDE) if block.language == "python"]


@pytest.mark.parametrize("text", PYTHON)
def test_snippets_run_as_written(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(text, GUIDE.name, "exec"), {"__name__": "snippet"})
    if "first_token_seconds" in text:
        assert re.search(r"\(first token after \d+ ms\)", capsys.readouterr().out)
        assert (tmp_path / "rex.safetensors").is_file()


def test_there_are_snippets_of_all_kinds() -> None:
    assert len(PYTHON) == 4
    assert all(
        any(word in text for text in PYTHON) for word in ("write_memory", "assert_close", "ReactiveSession(", "AsyncReactiveSession(")
    )


def test_calls_exist_with_these_arguments() -> None:
    section = PAGE[PAGE.index("## Shapes") :]
    calls = re.findall(r"^\| `(\w+)\((.*?)\)`", section[: section.index("## Equations")], re.M)
    assert len(calls) == 6
    for name, arguments in calls:
        known = list(inspect.signature(getattr(ReactiveTransformer, name)).parameters)[1:]
        said = [argument.split("=")[0].strip() for argument in arguments.split(",")]
        assert set(said) <= set(known), name
        assert [each for each in known if each in said] == said, name
    assert {"ids", "mask", "log_probs", "raw_log_probs"} <= set(Generation.__dataclass_fields__)


def test_variants_gates_and_events_are_those_of_the_code() -> None:
    assert list(table(GUIDE, "| variant |")) == list(get_args(MemoryVariant))
    assert list(table(GUIDE, "| gate |")) == list(get_args(GateConfig.model_fields["type"].annotation))
    assert set(table(GUIDE, "| event |")) == {event.__name__ for event in get_args(session.Event)}
    memories = re.search(r"\*\*Initial memory\*\*(.*?)\n\n", PAGE, re.S)
    assert memories is not None
    assert set(get_args(ModelConfig.model_fields["initial_memory"].annotation)) == set(re.findall(r"`([a-z-]+)`", memories[1]))


def groups(attention: AttentionConfig) -> str:
    return f"{attention.query_groups}/{attention.kv_groups}"


def test_presets_and_their_counts_are_those_of_the_code() -> None:
    sizes, counts = table(GUIDE, "| preset |"), table(GUIDE, "| parameters |")
    assert list(sizes) == list(PRESETS)
    for column, (name, config) in enumerate(PRESETS.items()):
        experts = f"{config.decoder.experts}/{config.decoder.active_experts}/{config.decoder.ff_dim}"
        numbers = config.dim, config.layers, config.heads, config.encoder.ff_dim, config.vocab_size, config.max_length, config.slots
        dim, layers, heads, ff_dim, vocabulary, length, slots = (f"{number:,}" for number in numbers)
        attention = groups(config.decoder.self_attention), groups(config.decoder.cross_attention)
        assert sizes[name] == [dim, layers, heads, *attention, ff_dim, experts, vocabulary, length, slots]
        assert config.encoder.self_attention == config.decoder.self_attention
        assert (config.memory_attention.variant, config.memory_attention.gate) == ("interlayer", GateConfig())
        assert (config.encoder.cross_attention is not None) == (name in ("micro", "mini"))
        with torch.device("meta"):
            model = ReactiveTransformer(config)
        real = {key: f"{value:,}" for key, value in (count_parameters(model) | count_bytes(model)).items()}
        for key, row in counts.items():
            assert row[column] == real[key], (name, key)


def test_the_picture_is_drawn_to_its_edges() -> None:
    root = ElementTree.parse(GUIDE.with_suffix(".svg")).getroot()
    *_, width, height = map(float, root.attrib["viewBox"].split())
    for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
        x, y, w, h = (float(rect.attrib.get(name, 0)) for name in ("x", "y", "width", "height"))
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
    words = " ".join(text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text"))
    assert all(part in words for part in ("decoder", "encoder", "memory attention", "Short-Term Memory", "reads STM[t-1]", "writes STM[t]"))
