"""The Reactive Transformer and everything that runs it."""

from rxrl.models.async_session import AsyncReactiveSession
from rxrl.models.config import AttentionConfig, DecoderConfig, EncoderConfig, GateConfig, MemoryAttentionConfig, ModelConfig
from rxrl.models.generation import Generation, Step, generate, generate_steps
from rxrl.models.heads import Critic, MLMHead, SharedCritic
from rxrl.models.model import PARAMETER_GROUPS, ModelPolicy, ReactiveTransformer, StmBackend
from rxrl.models.presets import PRESETS, count_parameters, preset
from rxrl.models.rxlm import export_rxlm, import_rxlm
from rxrl.models.sampling import Sampling, answer_logits
from rxrl.models.session import AnswerEnd, MemoryUpdated, MemoryUpdating, ReactiveSession, Token

__all__ = [
    "PARAMETER_GROUPS",
    "PRESETS",
    "AnswerEnd",
    "AsyncReactiveSession",
    "AttentionConfig",
    "Critic",
    "DecoderConfig",
    "EncoderConfig",
    "GateConfig",
    "Generation",
    "MLMHead",
    "MemoryAttentionConfig",
    "MemoryUpdated",
    "MemoryUpdating",
    "ModelConfig",
    "ModelPolicy",
    "ReactiveSession",
    "ReactiveTransformer",
    "Sampling",
    "SharedCritic",
    "Step",
    "StmBackend",
    "Token",
    "answer_logits",
    "count_parameters",
    "export_rxlm",
    "generate",
    "generate_steps",
    "import_rxlm",
    "preset",
]
