"""Where verifiers finds the environment of `rxrl.integrations.verifiers`: its ids are names of modules without dots."""

from rxrl.integrations.verifiers import ConversationsEnv, ConversationsTaskset

__all__ = ["ConversationsEnv", "ConversationsTaskset"]
