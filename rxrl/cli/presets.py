"""`rxrl presets`: the named model sizes and what each part of them counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated

import typer
from rich.table import Table

from rxrl.cli.console import echo, plain_console
from rxrl.models import BASELINES, PRESETS, ModelConfig, ReactiveTransformer, count_parameters
from rxrl.models.sizes import count_bytes
from rxrl.models.skeleton import skeleton

_SIZES: Mapping[str, Callable[[ModelConfig], str]] = {
    "dim": lambda config: str(config.dim),
    "layers": lambda config: str(config.layers),
    "heads": lambda config: str(config.heads),
    "experts": lambda config: f"{config.decoder.active_experts} of {config.decoder.experts}",
    "vocabulary": lambda config: f"{config.vocab_size:,}",
    "tokens of an interaction": lambda config: f"{config.max_length:,}",
    "memory slots": lambda config: f"{config.memory_layers} x {config.slots:,}",
}
_PARTS = {
    "encoder": "encoder",
    "decoder": "decoder",
    "decoder_active": "decoder, used by a token",
    "memory_attention": "memory attention",
    "mlm_head": "MLM head",
    "total": "total",
    "total_active": "total, used by a token",
}
_BYTES = {"bytes": "megabytes", "memory_values": "memory values", "memory_bytes": "memory, megabytes"}


def presets(as_json: Annotated[bool, typer.Option("--json", help="Print parameter counts and bytes as JSON.")] = False) -> None:
    """List the model sizes, with parameters, bytes and memory of each."""
    counts = {name: _counts(config) for name, config in (PRESETS | BASELINES).items()}
    if as_json:
        echo(json.dumps(counts, indent=2))
        return
    plain_console().print(_table("Presets", PRESETS, counts), _table("Baselines, to compare with pico", BASELINES, counts), sep="\n")
    echo("Parameters. Encoder and decoder each count the embedding they share; total counts it once, without the MLM head.")
    echo("Megabytes (1,000,000 bytes) in float32; memory is that of one conversation.")
    echo("Baselines: pico-causal has no memory and re-reads the conversation (rxrl stage rereading); in pico-gru a GRU updates memory;")
    echo("pico-rmt keeps it in memory tokens (Recurrent Memory Transformer).")


def _table(title: str, configs: Mapping[str, ModelConfig], counts: Mapping[str, Mapping[str, int]]) -> Table:
    table = Table("", title=title, title_justify="left")
    for name in configs:
        table.add_column(name, justify="right")
    for heading, size in _SIZES.items():
        table.add_row(heading, *(size(config) for config in configs.values()))
    table.add_section()
    for part, heading in _PARTS.items():
        table.add_row(heading, *(f"{counts[name][part]:,}" for name in configs))
    table.add_section()
    for key, heading in _BYTES.items():
        table.add_row(heading, *(_shown(key, counts[name][key]) for name in configs))
    return table


def _counts(config: ModelConfig) -> dict[str, int]:
    model = skeleton(ReactiveTransformer, config)
    return count_parameters(model) | count_bytes(model)


def _shown(key: str, count: int) -> str:
    return f"{count / 1e6:,.3f}" if key.endswith("bytes") else f"{count:,}"
