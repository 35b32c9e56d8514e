"""The Reactive Transformer and everything that runs it."""

from rxrl.models.config import AttentionConfig, DecoderConfig, EncoderConfig, MemoryAttentionConfig, ModelConfig
from rxrl.models.generation import Generation, answer_logits, generate
from rxrl.models.heads import Critic, MLMHead
from rxrl.models.model import PARAMETER_GROUPS, ModelPolicy, ReactiveTransformer, StmBackend
from rxrl.models.presets import PRESETS, count_parameters, preset

__all__ = [
    "PARAMETER_GROUPS",
    "PRESETS",
    "AttentionConfig",
    "Critic",
    "DecoderConfig",
    "EncoderConfig",
    "Generation",
    "MLMHead",
    "MemoryAttentionConfig",
    "ModelConfig",
    "ModelPolicy",
    "ReactiveTransformer",
    "StmBackend",
    "answer_logits",
    "count_parameters",
    "generate",
    "preset",
]
