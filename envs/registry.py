"""Environments and memories by name: the built-in ones, and those of installed packages."""

from __future__ import annotations

from typing import Any

from rxrl.envs.backends import NoMemory, TranscriptMemory
from rxrl.envs.vector import ConversationVectorEnv
from rxrl.errors import ConfigError
from rxrl.registry import Registry


def _environment(name: str, found: Any) -> Any:
    if not callable(found):
        raise ConfigError(f"The environment {name!r} must be a class or a function, but is {type(found).__name__}.")
    if isinstance(found, type) and not issubclass(found, ConversationVectorEnv):
        raise ConfigError(f"The environment {name!r} must be a subclass of ConversationVectorEnv, but is the class {found.__name__}.")
    return found


ENVIRONMENTS = Registry("environment", "envs", {"conversation": ConversationVectorEnv}, check=_environment)
"""Batched environments by name: subclasses of `ConversationVectorEnv`, or functions that take its arguments and make one."""
MEMORIES = Registry(
    "memory",
    "memories",
    {"none": NoMemory, "transcript": TranscriptMemory},
    others="A checkpoint is given by the path of its folder, the last four interactions by 'transcript:4'.",
)
"""Memory backends by name: classes that are made without arguments, or objects."""
