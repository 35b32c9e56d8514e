"""The Reactive Transformer, generation and sessions."""

from rxrl.models.config import AttentionConfig, DecoderConfig, EncoderConfig, GateConfig, MemoryAttentionConfig, ModelConfig
from rxrl.models.generation.async_session import AsyncReactiveSession
from rxrl.models.generation.batch import Generation, Step, generate, generate_steps
from rxrl.models.generation.sampling import Sampling, answer_logits, thinking
from rxrl.models.generation.session import AnswerEnd, MemoryUpdated, MemoryUpdating, ReactiveSession, Token
from rxrl.models.heads import Critic, MLMHead, SharedCritic
from rxrl.models.interop.rxlm import export_rxlm, import_rxlm
from rxrl.models.model import ReactiveTransformer
from rxrl.models.network import ReactiveNetwork
from rxrl.models.presets import BASELINES, PRESETS, preset
from rxrl.models.sizes import count_parameters

__all__ = [
    "BASELINES",
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
    "ReactiveNetwork",
    "ReactiveSession",
    "ReactiveTransformer",
    "Sampling",
    "SharedCritic",
    "Step",
    "Token",
    "answer_logits",
    "count_parameters",
    "export_rxlm",
    "generate",
    "generate_steps",
    "import_rxlm",
    "preset",
    "thinking",
]
