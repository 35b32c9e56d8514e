"""Typed configuration of the Reactive Transformer; a combination that makes no sense is refused with the reason."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from rxrl.config import BaseConfig
from rxrl.template import TEMPLATE_TOKENS
from rxrl.types import SPECIAL_TOKENS

_MANY, _LARGE = 1024, 2**22
"""Most layers, and largest size of an axis, so that the configuration of a broken checkpoint neither overflows nor takes for ever."""
AttentionType = Literal["mha", "gqa", "mqa", "sqa"]
AttentionBackend = Literal["auto", "sdpa", "flash"]
Part = Literal["embedding", "encoder", "memory_attention", "decoder", "mlm_head"]
PublishedVariant = Literal["simple", "self", "interlayer", "self-interlayer", "grouped-self-interlayer"]
MemoryVariant = Literal[PublishedVariant, "recurrent", "tokens"]


class AttentionConfig(BaseConfig):
    """Query, key and value heads of one attention; their numbers decide which type it is."""

    query_groups: int = Field(ge=1, le=_MANY, description="Query heads that exist, of the model's `heads`.")
    kv_groups: int = Field(ge=1, le=_MANY, description="Key and value heads; divides `query_groups`.")
    type: AttentionType | None = Field(default=None, description="Name of what the groups make; checked against them where given.")

    @model_validator(mode="after")
    def _groups_divide(self) -> AttentionConfig:
        if self.query_groups % self.kv_groups:
            raise ValueError(f"query_groups ({self.query_groups}) must be a multiple of kv_groups ({self.kv_groups})")
        return self

    @classmethod
    def of_type(cls, type: AttentionType, heads: int, query_groups: int | None = None, kv_groups: int | None = None) -> AttentionConfig:
        """The attention of a type, in a model of `heads` heads; groups need only be given where the type leaves them open.

        Args:
            type: mha: all heads; mqa: one key and value head; gqa: fewer key and value heads; sqa: fewer query heads
                (symmetric unless `kv_groups` is given).
            heads: Heads of the model.
            query_groups: For sqa, the query heads that exist.
            kv_groups: For gqa and sqa, the key and value heads.

        Raises:
            ValueError: The groups are missing, or make another type.
        """
        queries = query_groups or (heads if type != "sqa" else None)
        if queries is None:
            raise ValueError("attention of type sqa needs query_groups, the number of query heads that exist")
        keys = kv_groups or {"mha": heads, "mqa": 1, "gqa": None, "sqa": queries}[type]
        if keys is None:
            raise ValueError("attention of type gqa needs kv_groups, the number of key and value heads")
        config = cls(query_groups=queries, kv_groups=keys, type=type)
        config.check_fits("attention", heads)
        return config

    def types(self, heads: int) -> tuple[AttentionType, ...]:
        """Types that these groups are, in a model of `heads` heads; several only where a single head makes them the same."""
        if self.query_groups < heads:
            return ("sqa",)
        full: tuple[AttentionType, ...] = ("mha",) if self.kv_groups == heads else ()
        single: tuple[AttentionType, ...] = ("mqa",) if self.kv_groups == 1 else ()
        return full + single or ("gqa",)

    def check_fits(self, name: str, heads: int) -> None:
        """Raises a ValueError where the groups do not fit a model of `heads` heads, or are not of the type that is named."""
        if self.query_groups > heads:
            raise ValueError(f"{name}.query_groups ({self.query_groups}) cannot exceed heads ({heads})")
        found = self.types(heads)
        if self.type is not None and self.type not in found:
            raise ValueError(
                f"{name}.type is {self.type}, but {self.query_groups} query and {self.kv_groups} key and value groups of {heads} heads "
                f"are {found[0]}: change the groups or leave out the type"
            )


class EncoderConfig(BaseConfig):
    """The encoder: bidirectional, returns the hidden states of every layer."""

    self_attention: AttentionConfig
    cross_attention: AttentionConfig | None = Field(default=None, description="Set where the encoder reads memory (Micro, Mini).")
    ff_dim: int = Field(ge=1, le=_LARGE)
    mlm_norm: bool = Field(default=False, description="Layer norm in the MLM head, before its projection to the vocabulary.")


class DecoderConfig(BaseConfig):
    """The decoder: causal, reads memory in every layer; dense where `experts` is 1."""

    self_attention: AttentionConfig
    cross_attention: AttentionConfig
    ff_dim: int = Field(ge=1, le=_LARGE, description="Hidden size of one expert.")
    experts: int = Field(default=1, ge=1, le=_MANY)
    active_experts: int = Field(default=1, ge=1, le=_MANY)
    shared_experts: int = Field(default=0, ge=0, le=_MANY, description="Experts that every token passes besides the routed ones.")
    expert_biases: Literal["each", "global"] = Field(
        default="each", description="each: every routed expert has its own biases; global: one output bias for all of them."
    )
    head_norm: Literal["none", "rms", "layer"] = Field(default="none", description="Norm before the output head.")

    @model_validator(mode="after")
    def _experts_make_sense(self) -> DecoderConfig:
        if self.active_experts > self.experts:
            raise ValueError(f"active_experts ({self.active_experts}) cannot exceed experts ({self.experts})")
        if self.experts == 1 and self.shared_experts:
            raise ValueError(f"shared_experts ({self.shared_experts}) stand beside routed ones: set experts above 1, or ff_dim larger")
        if self.experts == 1 and self.expert_biases == "global":
            raise ValueError("expert_biases 'global' is a layout of routed experts: set experts above 1")
        return self


class GateConfig(BaseConfig):
    """Residual gates of the memory attention: how much of what is new replaces what is old."""

    type: Literal["none", "static", "elementwise", "linear"] = Field(
        default="linear",
        description="none: old + new; static: learned values; elementwise: learned weights times the slot's status; "
        "linear: a learned map of all slots' statuses.",
    )
    activation: Literal["sigmoid", "tanh"] = Field(
        default="sigmoid", description="sigmoid: g * new + (1 - g) * old; tanh: (1 + g) * new + (1 - g) * old."
    )
    per_slot: bool = Field(default=True, description="Parameters of their own for each slot; false: one set for a layer.")
    slot_status: Literal["mean", "linear"] = Field(
        default="mean", description="Status of a slot: the mean over dim of (old + new), or a learned linear map of it."
    )

    @model_validator(mode="after")
    def _options_have_effect(self) -> GateConfig:
        if self.type in ("none", "static") and self.slot_status == "linear":
            raise ValueError(f"slot_status 'linear' has no effect: a gate of type {self.type!r} reads no slot status")
        if self.type == "none" and (self.activation != "sigmoid" or not self.per_slot):
            raise ValueError("a gate of type 'none' has no values: leave out activation and per_slot")
        return self


class MemoryAttentionConfig(BaseConfig):
    """How an interaction is written into memory: what each layer's memory attends to before it reads the encoded data, and the gates."""

    variant: MemoryVariant = Field(
        default="interlayer",
        description="simple: encoded data only; self: first its own slots; interlayer: first the mean of all layers' memory; "
        "self-interlayer: first a gated mix of both; grouped-self-interlayer: the same with means over groups of layers; "
        "recurrent: a GRU updates each slot with what a learned query reads; tokens: memory stands among the decoder's tokens.",
    )
    attention: AttentionConfig = Field(description="Attention over the encoded data; without effect in the variant `tokens`.")
    mean_attention: AttentionConfig | None = Field(default=None, description="First attention of the interlayer variants.")
    self_attention: AttentionConfig | None = Field(default=None, description="First attention of the variant `self`.")
    layer_groups: int | None = Field(
        default=None, ge=1, description="Groups of consecutive layers, equal in size, over which `grouped-self-interlayer` takes its means."
    )
    gate: GateConfig = Field(default=GateConfig(), description="Form of all gates.")

    @property
    def first_attention(self) -> AttentionConfig | None:
        """The attention before the one over encoded data, of whatever kind; None where there is none."""
        return self.mean_attention or self.self_attention

    @model_validator(mode="after")
    def _parts_belong_to_the_variant(self) -> MemoryAttentionConfig:
        belongs = {
            "mean_attention": self.variant.endswith("interlayer"),
            "self_attention": self.variant == "self",
            "layer_groups": self.variant == "grouped-self-interlayer",
        }
        for name, needed in belongs.items():
            if needed and getattr(self, name) is None:
                raise ValueError(f"variant {self.variant!r} needs {name}")
            if not needed and getattr(self, name) is not None:
                raise ValueError(f"variant {self.variant!r} has no {name}: leave it out or choose another variant")
        if self.variant in ("recurrent", "tokens") and self.gate != GateConfig():
            raise ValueError(f"variant {self.variant!r} has no residual gate: leave out gate or choose another variant")
        return self


class ModelConfig(BaseConfig):
    """Sizes of every part."""

    format_version: Literal[1] = 1
    name: str = "custom"
    vocab_size: int = Field(ge=8, le=_LARGE)
    template: bool = Field(
        default=False, description="The vocabulary has the markers of the interaction template, behind the special tokens."
    )
    dim: int = Field(ge=4, le=_LARGE)
    layers: int = Field(ge=1, le=_MANY)
    heads: int = Field(ge=1, le=_MANY, description="Head size is dim / heads.")
    max_length: int = Field(ge=8, le=_LARGE, description="Tokens of one interaction at most.")
    slots: int = Field(ge=1, le=_LARGE, description="Slots of one layer's Short-Term Memory.")
    encoder: EncoderConfig
    decoder: DecoderConfig
    memory_attention: MemoryAttentionConfig
    initial_memory: Literal["normal", "small-normal", "uniform", "zeros", "ones", "learned"] = Field(
        default="normal", description="normal: std 1; small-normal: std 0.01; uniform: [-1, 1); learned: a trained state."
    )
    absent: tuple[Part, ...] = Field(
        default=(), description="Parts that the model lacks: it was imported without them, or is a baseline without them."
    )
    # A choice of the run and of its machine, so it is not written into checkpoints.
    attention_backend: AttentionBackend = Field(
        default="auto",
        exclude=True,
        description="auto: kernels of rxrl where they are built and fit, torch's own attention elsewhere; sdpa: always torch's own; "
        "flash: flash-attn on CUDA, in float16 or bfloat16.",
    )

    @property
    def special_tokens(self) -> int:
        """How many ids the vocabulary begins with that never stand for text."""
        return len(SPECIAL_TOKENS) + (len(TEMPLATE_TOKENS) if self.template else 0)

    @model_serializer(mode="wrap")
    def _name_the_template_where_there_is_one(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return written if self.template else {key: value for key, value in written.items() if key != "template"}

    @property
    def head_dim(self) -> int:
        """Size of one head."""
        return self.dim // self.heads

    @property
    def has_memory_tokens(self) -> bool:
        """Whether memory stands among the decoder's tokens, which also write it."""
        return self.memory_attention.variant == "tokens"

    @property
    def memory_layers(self) -> int:
        """Layers of the Short-Term Memory."""
        return 1 if self.has_memory_tokens else self.layers

    @property
    def memory_values(self) -> int:
        """Numbers in the memory of one conversation."""
        return self.memory_layers * self.slots * self.dim

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
            "memory_attention.self_attention": self.memory_attention.self_attention,
        }
        for name, attention in parts.items():
            if attention is not None:
                attention.check_fits(name, self.heads)
        if self.has_memory_tokens:
            self._decoder_does_all()
        groups = self.memory_attention.layer_groups
        if groups is not None and self.layers % groups:
            raise ValueError(f"memory_attention.layer_groups ({groups}) must divide layers ({self.layers}) into equal groups")
        return self

    def _decoder_does_all(self) -> None:
        if "encoder" not in self.absent:
            raise ValueError("memory_attention.variant 'tokens' leaves an encoder nothing to do: name it in absent")
        if self.decoder.experts > 1 or self.decoder.head_norm == "none":
            raise ValueError("memory_attention.variant 'tokens' needs decoder.experts 1, and a decoder.head_norm to scale what is written")
