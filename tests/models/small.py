"""Small random models and token batches."""

from __future__ import annotations

import random

import torch
from hypothesis import strategies as st
from torch import Tensor

from rxrl.models import AttentionConfig, DecoderConfig, EncoderConfig, MemoryAttentionConfig, ModelConfig, ReactiveTransformer
from rxrl.models.config import GateConfig
from rxrl.types import EOS, TokenBatch, prompt_ids

VOCAB = 24
FIRST = 7
"""First id that is no special token."""


GATES = [GateConfig(type="none")] + [
    GateConfig(type=kind, activation=activation, per_slot=per_slot, slot_status=status)
    for kind in ("static", "elementwise", "linear")
    for activation in ("sigmoid", "tanh")
    for per_slot in (True, False)
    for status in (("mean",) if kind == "static" else ("mean", "linear"))
]
"""Every form of a residual gate."""
VARIANTS = ("simple", "self", "interlayer", "self-interlayer", "grouped-self-interlayer")


def writing(variant: str, attention: AttentionConfig, first: AttentionConfig, groups: int = 2, **changes: object) -> MemoryAttentionConfig:
    """Memory attention of a variant, with `first` as its first attention, if it has one."""
    parts = {"self_attention": first} if variant == "self" else {} if variant == "simple" else {"mean_attention": first}
    parts |= {"layer_groups": groups} if variant.startswith("grouped") else {}
    return MemoryAttentionConfig(variant=variant, attention=attention, **parts, **changes)


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    heads = draw(st.sampled_from([1, 2, 4]))

    def attention() -> AttentionConfig:
        kv = draw(st.integers(1, heads))
        return AttentionConfig(query_groups=kv * draw(st.integers(1, heads // kv)), kv_groups=kv)

    experts, layers = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    groups = draw(st.sampled_from([each for each in (1, 2, 3) if layers % each == 0]))
    mixture = {"shared_experts": draw(st.integers(0, 2)), "expert_biases": draw(st.sampled_from(["each", "global"]))} if experts > 1 else {}
    return ModelConfig(
        vocab_size=VOCAB,
        dim=heads * draw(st.sampled_from([4, 6, 8])),
        layers=layers,
        heads=heads,
        max_length=48,
        slots=draw(st.integers(1, 6)),
        encoder=EncoderConfig(self_attention=attention(), cross_attention=draw(st.none() | st.builds(attention)), ff_dim=8),
        decoder=DecoderConfig(
            self_attention=attention(),
            cross_attention=attention(),
            ff_dim=draw(st.sampled_from([6, 8])),
            experts=experts,
            active_experts=draw(st.integers(1, experts)),
            head_norm=draw(st.sampled_from(["none", "rms", "layer"])),
            **mixture,
        ),
        memory_attention=writing(draw(st.sampled_from(VARIANTS)), attention(), attention(), groups, gate=draw(st.sampled_from(GATES))),
    )


def config(*, reads_memory: bool = False, **changes: object) -> ModelConfig:
    full, grouped = AttentionConfig(query_groups=2, kv_groups=2), AttentionConfig(query_groups=4, kv_groups=2)
    sizes = {"vocab_size": VOCAB, "dim": 16, "layers": 2, "heads": 4, "max_length": 48, "slots": 5}
    parts = {
        "encoder": EncoderConfig(self_attention=full, cross_attention=grouped if reads_memory else None, ff_dim=24),
        "decoder": DecoderConfig(self_attention=full, cross_attention=grouped, ff_dim=12, experts=4, active_experts=2),
        "memory_attention": MemoryAttentionConfig(attention=full, mean_attention=grouped),
    }
    return ModelConfig(**(sizes | parts | changes))


def model_of(config: ModelConfig, *, seed: int = 0, dtype: torch.dtype = torch.float64, ends: float = 0.0) -> ReactiveTransformer:
    """A model in which everything matters: no weight at zero, many likely tokens, and `[EOS]` as likely as `ends` (a logit) makes it."""
    model = ReactiveTransformer.from_config(config, seed).to(dtype)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(scale * torch.randn(parameter.shape, generator=draws, dtype=torch.float64).to(dtype))
        model.decoder.head.weight.mul_(0.2)
        model.decoder.head.bias[EOS] += ends
    return model


def memory_of(model: ReactiveTransformer, batch: int, seed: int = 0) -> Tensor:
    return model.init_memory(batch, torch.Generator().manual_seed(seed))


def interactions(lengths: list[int], seed: int = 0) -> TokenBatch:
    draws = random.Random(seed)
    return TokenBatch.pad([[draws.randrange(VOCAB) for _ in range(length)] for length in lengths])


def prompts(lengths: list[int], seed: int = 0) -> TokenBatch:
    """Prompts whose queries have these lengths."""
    draws = random.Random(seed)
    return TokenBatch.pad([prompt_ids([draws.randrange(FIRST, VOCAB) for _ in range(length)]) for length in lengths])


def padded(batch: TokenBatch, columns: int, seed: int = 1) -> TokenBatch:
    """The same batch with more padding, and rubbish instead of `[PAD]` in all of it."""
    ids = torch.cat([batch.ids, torch.zeros(len(batch.ids), columns, dtype=torch.int64)], dim=1)
    mask = torch.cat([batch.mask, torch.zeros(len(batch.ids), columns, dtype=torch.bool)], dim=1)
    rubbish = torch.randint(0, VOCAB, ids.shape, generator=torch.Generator().manual_seed(seed))
    return TokenBatch(torch.where(mask, ids, rubbish), mask)


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + row) for row in range(count)]
