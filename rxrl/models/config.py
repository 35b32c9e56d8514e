"""Typed configuration of the Reactive Transformer; a combination that makes no sense is refused with the reason."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rxrl.config import BaseConfig


class AttentionConfig(BaseConfig):
    """Groups of a Sparse Query Attention; `query_groups = heads` gives MHA, GQA or MQA."""

    query_groups: int = Field(ge=1, description="Query heads that exist, of the model's `heads`.")
    kv_groups: int = Field(ge=1, description="Key and value heads; divides `query_groups`.")

    @model_validator(mode="after")
    def _groups_divide(self) -> AttentionConfig:
        if self.query_groups % self.kv_groups:
            raise ValueError(f"query_groups ({self.query_groups}) must be a multiple of kv_groups ({self.kv_groups})")
        return self


class EncoderConfig(BaseConfig):
    """The encoder: bidirectional, returns the hidden states of every layer."""

    self_attention: AttentionConfig
    cross_attention: AttentionConfig | None = Field(default=None, description="Set where the encoder reads memory (Micro, Mini).")
    ff_dim: int = Field(ge=1)


class DecoderConfig(BaseConfig):
    """The decoder: causal, reads memory in every layer; dense where `experts` is 1."""

    self_attention: AttentionConfig
    cross_attention: AttentionConfig
    ff_dim: int = Field(ge=1, description="Hidden size of one expert.")
    experts: int = Field(default=1, ge=1)
    active_experts: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _active_at_most_all(self) -> DecoderConfig:
        if self.active_experts > self.experts:
            raise ValueError(f"active_experts ({self.active_experts}) cannot exceed experts ({self.experts})")
        return self


class MemoryAttentionConfig(BaseConfig):
    """Interlayer memory attention with linear sigmoid gates per slot."""

    attention: AttentionConfig
    mean_attention: AttentionConfig = Field(description="Attention over the mean of all layers' memory.")


class ModelConfig(BaseConfig):
    """Sizes of every part."""

    format_version: Literal[1] = 1
    name: str = "custom"
    vocab_size: int = Field(ge=8)
    dim: int = Field(ge=4)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1, description="Head size is dim / heads.")
    max_length: int = Field(ge=8, description="Tokens of one interaction at most.")
    slots: int = Field(ge=1, description="Slots of one layer's Short-Term Memory.")
    encoder: EncoderConfig
    decoder: DecoderConfig
    memory_attention: MemoryAttentionConfig
    initial_memory: Literal["normal", "small-normal", "uniform", "zeros", "ones", "learned"] = Field(
        default="normal", description="normal: std 1; small-normal: std 0.01; uniform: [-1, 1); learned: a trained state."
    )

    @property
    def head_dim(self) -> int:
        """Size of one head."""
        return self.dim // self.heads

    @model_validator(mode="after")
    def _sizes_fit(self) -> ModelConfig:
        if self.dim % self.heads or self.head_dim % 2:
            raise ValueError(f"dim / heads must be an even whole number for rotary embedding, got {self.dim} / {self.heads}")
        parts = {
            "encoder.self_attention": self.encoder.self_attention,
            "encoder.cross_attention": self.encoder.cross_attention,
            "decoder.self_attention": self.decoder.self_attention,
            "decoder.cross_attention": self.decoder.cross_attention,
            "memory_attention.attention": self.memory_attention.attention,
            "memory_attention.mean_attention": self.memory_attention.mean_attention,
        }
        for name, attention in parts.items():
            if attention is not None and attention.query_groups > self.heads:
                raise ValueError(f"{name}.query_groups ({attention.query_groups}) cannot exceed heads ({self.heads})")
        return self
