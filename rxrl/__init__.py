"""Memory Reinforcement Learning for the Reactive Transformer: environment, rewards, curricula and trainers.

Importing this package registers `rxrl/Conversation-v0` and `rxrl/ConversationTokens-v0` with Gymnasium.
Everything heavy is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from rxrl.curricula import Curriculum, load_curriculum
    from rxrl.evaluation.results import load_run
    from rxrl.models import ReactiveSession, ReactiveTransformer

__version__ = "0.1.0"

ENV_ID = "rxrl/Conversation-v0"
TOKENS_ENV_ID = "rxrl/ConversationTokens-v0"

_PUBLIC = {
    "Curriculum": "rxrl.curricula",
    "ReactiveSession": "rxrl.models",
    "ReactiveTransformer": "rxrl.models",
    "load_curriculum": "rxrl.curricula",
    "load_run": "rxrl.evaluation.results",
}

__all__ = ["ENV_ID", "TOKENS_ENV_ID", "Curriculum", "ReactiveSession", "ReactiveTransformer", "__version__", "load_curriculum", "load_run"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


# Entry points as strings: gymnasium imports the factory, and with it torch, only when an environment is made.
for _id, _maker in ((ENV_ID, "make_env"), (TOKENS_ENV_ID, "make_tokens_env")):
    if _id not in gymnasium.registry:
        gymnasium.register(id=_id, entry_point=f"rxrl.factory:{_maker}", vector_entry_point="rxrl.factory:make_vector_env")
