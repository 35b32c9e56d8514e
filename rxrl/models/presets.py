"""Named model sizes."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from rxrl.errors import ModelError, sentence, unknown_name
from rxrl.models.config import AttentionConfig, DecoderConfig, EncoderConfig, MemoryAttentionConfig, ModelConfig
from rxrl.validation import first_refusal


def _attention(query_groups: int, kv_groups: int) -> AttentionConfig:
    return AttentionConfig(query_groups=query_groups, kv_groups=kv_groups)


def _published(
    name: str, dim: int, layers: int, heads: int, vocab_size: int, length: int, experts: int, encoder_reads_memory: bool
) -> ModelConfig:
    """The shape that the published models share: half of the query heads exist, feed-forwards of 3 and 2 times dim."""
    groups = heads // 2
    cross = _attention(groups, groups // 2 if encoder_reads_memory else groups)
    full = _attention(groups, groups)
    return ModelConfig(
        name=name,
        vocab_size=vocab_size,
        dim=dim,
        layers=layers,
        heads=heads,
        max_length=length,
        slots=length,
        encoder=EncoderConfig(self_attention=full, cross_attention=cross if encoder_reads_memory else None, ff_dim=3 * dim),
        decoder=DecoderConfig(self_attention=full, cross_attention=cross, ff_dim=2 * dim, experts=experts, active_experts=2),
        memory_attention=MemoryAttentionConfig(attention=full, mean_attention=full),
    )


def _one_transformer(name: str, memory: MemoryAttentionConfig, **fields: Any) -> ModelConfig:
    """A causal decoder of four layers without an encoder; sizes and vocabulary of pico."""
    absent = ("encoder", "mlm_head")
    return ModelConfig(name=name, vocab_size=768, dim=64, layers=4, heads=4, memory_attention=memory, **{"absent": absent, **fields})


def _memory_tokens(name: str) -> ModelConfig:
    """A causal transformer with memory tokens, and as much memory as pico. A critic takes the encoder's sizes."""
    return _one_transformer(
        name,
        MemoryAttentionConfig(variant="tokens", attention=_LEAST),
        max_length=96,
        slots=64,
        encoder=EncoderConfig(self_attention=_FULL, ff_dim=128),
        decoder=DecoderConfig(self_attention=_FULL, cross_attention=_FULL, ff_dim=288, head_norm="rms"),
        initial_memory="learned",
    )


def _causal(name: str) -> ModelConfig:
    """A decoder alone, which re-reads the conversation."""
    return _one_transformer(
        name,
        MemoryAttentionConfig(variant="simple", attention=_LEAST),
        max_length=4096,
        slots=1,
        encoder=EncoderConfig(self_attention=_LEAST, ff_dim=1),
        decoder=DecoderConfig(self_attention=_FULL, cross_attention=_LEAST, ff_dim=272),
        initial_memory="zeros",
        absent=("encoder", "memory_attention", "mlm_head"),
    )


_FULL, _LEAST = _attention(4, 4), _attention(1, 1)
_PICO = ModelConfig(
    name="pico",
    vocab_size=768,
    dim=64,
    layers=2,
    heads=4,
    max_length=96,
    slots=32,
    encoder=EncoderConfig(self_attention=_FULL, ff_dim=128),
    decoder=DecoderConfig(self_attention=_FULL, cross_attention=_FULL, ff_dim=48, experts=4, active_experts=2),
    memory_attention=MemoryAttentionConfig(attention=_FULL, mean_attention=_FULL),
    initial_memory="learned",
)
_RECURRENT = MemoryAttentionConfig(variant="recurrent", attention=_FULL)

PRESETS: dict[str, ModelConfig] = {
    "pico": _PICO,
    "nano": _published("nano", dim=128, layers=6, heads=8, vocab_size=7_500, length=256, experts=12, encoder_reads_memory=False),
    "micro": _published("micro", dim=128, layers=6, heads=8, vocab_size=5_000, length=256, experts=12, encoder_reads_memory=True),
    "mini": _published("mini", dim=256, layers=8, heads=16, vocab_size=10_000, length=1_024, experts=16, encoder_reads_memory=True),
}

BASELINES: dict[str, ModelConfig] = {
    "pico-causal": _causal("pico-causal"),
    "pico-gru": _PICO.model_copy(update={"name": "pico-gru", "memory_attention": _RECURRENT}),
    "pico-rmt": _memory_tokens("pico-rmt"),
}
"""Models to compare with, each as large as the preset that its name begins with: one without memory, and two with other memories."""


def preset(name: str, **changes: Any) -> ModelConfig:
    """Configuration of a named size, with some fields changed; an unknown name is a `ModelError`."""
    known = PRESETS | BASELINES
    if name not in known:
        raise ModelError(unknown_name("preset", name, known))
    try:
        return ModelConfig.model_validate(known[name].model_dump() | changes)
    except ValidationError as error:
        raise ModelError(sentence(f"Preset {name!r} cannot be changed like this: {first_refusal(error, ModelConfig)}")) from None
