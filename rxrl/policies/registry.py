"""Players by name: the built-in ones, and those of installed packages."""

from __future__ import annotations

from rxrl.policies.scripted import Oracle, Parrot, Person
from rxrl.registry import Registry

POLICIES = Registry(
    "policy",
    "policies",
    {"oracle": Oracle, "parrot": Parrot, "person": Person},
    others="Others are a checkpoint, the folder of a Hugging Face model, hf:NAME and http://...",
)
"""Players by name; those of packages are called with the codec of the environment."""
