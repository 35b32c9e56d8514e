"""The Reactive Transformer and everything that runs it."""

from rxrl.models.config import AttentionConfig, DecoderConfig, EncoderConfig, MemoryAttentionConfig, ModelConfig
from rxrl.models.generation import Generation, Sampling, Step, answer_logits, generate, generate_steps
from rxrl.models.heads import Critic, MLMHead
from rxrl.models.model import PARAMETER_GROUPS, ModelPolicy, ReactiveTransformer, StmBackend
from rxrl.models.presets import PRESETS, count_parameters, preset
from rxrl.models.session import AnswerEnd, MemoryUpdated, ReactiveSession, Token

__all__ = [
    "PARAMETER_GROUPS",
    "PRESETS",
    "AnswerEnd",
    "AttentionConfig",
    "Critic",
    "DecoderConfig",
    "EncoderConfig",
    "Generation",
    "MLMHead",
    "MemoryAttentionConfig",
    "MemoryUpdated",
    "ModelConfig",
    "ModelPolicy",
    "ReactiveSession",
    "ReactiveTransformer",
    "Sampling",
    "Step",
    "StmBackend",
    "Token",
    "answer_logits",
    "count_parameters",
    "generate",
    "generate_steps",
    "preset",
]
